//! What lints cannot see: promises without a test, dead files, links to nowhere, and the habits of STYLE.md.
//!
//! Each check names every place at once, and what to do about it.
#![expect(
    clippy::disallowed_methods,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the tree is read as files, and its names are our own"
)]

use std::collections::BTreeSet;

use source::{File, Part, file, files, root};

mod dependencies;
mod modules;
mod source;

/// Columns of a comment, and of code inside macros, which rustfmt cannot reach; it keeps all else to 100.
const COLUMNS: usize = 120;
/// Lines at which a file is looked at again.
const FILE_LINES: usize = 800;

/// Files that were looked at again and read better whole, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// Where unsafe may be written: a folder ends with a slash. A new line here is a design change.
const UNSAFE_PLACES: [&str; 3] = [
    "kernels/src/",
    "kernels/cuda/src/driver.rs",
    "appliance/src/io/weights.rs",
];

/// Fails with all findings and what to do about them.
fn report(what_to_do: &str, findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{what_to_do}\n  {}\n",
        findings.join("\n  ")
    );
}

/// Places where a part of the Rust sources contains one of the words.
fn places(files: &[File], part: Part, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.only(part).lines()) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    found
}

#[test]
fn lines_fit_the_page() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        for ((number, line), text) in file.lines().zip(file.only(Part::Text).lines()) {
            let columns = line.chars().count();
            // A string that is shown to somebody is one line in the source as it is on the screen.
            if columns > COLUMNS && text.trim().is_empty() {
                findings.push(format!("{}:{number}: {columns} of {COLUMNS}", file.path));
            }
        }
    }
    report("break these lines:", &findings);
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, or this file would find itself.
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let macros: Vec<_> = macros.iter().map(String::as_str).collect();
    let marks = [
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("TO", "DO:"),
    ];
    let all = files(".rs");
    let mut findings = places(&all, Part::Code, &macros);
    findings.extend(places(&all, Part::Comment, &marks));
    report(
        "finish these, or file an issue and remove them (a TODO may stay with its trigger in brackets):",
        &findings,
    );
}

#[test]
fn every_test_runs_and_none_sleeps() {
    let mut findings = places(&files(".rs"), Part::Code, &["#[ignore"]);
    let tests: Vec<_> = files(".rs").into_iter().filter(File::is_test).collect();
    // With tokio's clock paused a sleep costs nothing and cannot race.
    let real: Vec<_> = tests
        .into_iter()
        .filter(|file| !file.text.contains("start_paused"))
        .collect();
    findings.extend(places(
        &real,
        Part::Code,
        &["thread::sleep", "time::sleep", "::sleep("],
    ));
    report(
        "run these tests always, and wait for an event (with a deadline) instead of for time:",
        &findings,
    );
}

#[test]
fn unsafe_stays_where_style_puts_it() {
    let all = files(".rs").into_iter();
    let elsewhere: Vec<_> = all
        .filter(|file| {
            !UNSAFE_PLACES
                .iter()
                .any(|place| file.path.starts_with(place))
        })
        .collect();
    let words = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "unsafe trait",
        "unsafe(",
    ];
    report(
        "move this behind a safe function of kernels, or argue for a new place in STYLE.md section 6:",
        &places(&elsewhere, Part::Code, &words),
    );
}

#[test]
fn every_source_file_is_compiled() {
    let reached = modules::reached();
    let all = files(".rs").into_iter().map(|file| file.path);
    let dead: Vec<_> = all.filter(|path| !reached.contains(path)).collect();
    report(
        "no target reaches these files: add a `mod`, or delete them:",
        &dead,
    );
}

#[test]
fn long_files_are_looked_at_again() {
    let excused = |file: &File| LONG_FILES.iter().any(|(path, _)| *path == file.path);
    let long: Vec<_> = files(".rs")
        .iter()
        .filter(|file| file.text.lines().count() > FILE_LINES && !excused(file))
        .map(|file| format!("{}: {} lines", file.path, file.text.lines().count()))
        .collect();
    report(
        "split these at a noun, or add them to LONG_FILES with the reason why they read better whole:",
        &long,
    );
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = file("Cargo.toml");
    let mut findings = Vec::new();
    let mut section = "";
    for (number, line) in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[workspace.dependencies]" && line.contains('=') {
            let ours = line.contains("path = ");
            let reason = line.rsplit_once("# ").map_or("", |(_, reason)| reason);
            if !ours && reason.trim().is_empty() {
                findings.push(format!("Cargo.toml:{number}: {line}"));
            }
        }
    }
    assert!(manifest.text.contains("[workspace.dependencies]"));
    report(
        "say in a comment on the line what each dependency saves us:",
        &findings,
    );
}

/// Members take their versions from the root, so that there is one of each.
#[test]
fn versions_stand_in_the_root_manifest() {
    let mut findings = Vec::new();
    let outside = |file: &File| file.path == "Cargo.toml" || file.path.starts_with("tests/fuzz/");
    for member in files("Cargo.toml").iter().filter(|file| !outside(file)) {
        let mut in_dependencies = false;
        for (number, line) in member.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                findings.push(format!("{}:{number}: {line}", member.path));
            }
        }
    }
    report(
        "write `name.workspace = true`, and the version in the root manifest:",
        &findings,
    );
}

/// A promise is a row `| S-7 | what | number | test |`; the last cell names `path::test`s or says [test pending].
#[test]
fn every_promise_names_its_test() {
    let specification = file("SPECIFICATION.md");
    let mut findings = Vec::new();
    let mut ids = BTreeSet::new();
    for (number, line) in specification
        .lines()
        .filter(|(_, line)| line.starts_with("| S-"))
    {
        let mut wrong = |what: &str| findings.push(format!("SPECIFICATION.md:{number}: {what}"));
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[id, _, _, proof] = &cells[..] else {
            wrong("a promise has four cells: id, promise, number, test");
            continue;
        };
        if !ids.insert(id) {
            wrong(&format!("{id} is there twice"));
        }
        let tests: Vec<_> = proof
            .split('`')
            .filter(|part| part.contains("::"))
            .collect();
        if tests.is_empty() && !proof.contains("[test pending]") {
            wrong("names no test");
        }
        for test in tests {
            let (path, name) = test.rsplit_once("::").expect("seen above");
            let source = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            // The test of a whole machine is Python.
            if !["fn", "def"]
                .iter()
                .any(|word| source.contains(&format!("{word} {name}(")))
            {
                wrong(&format!("there is no test `{name}` in {path}"));
            }
        }
    }
    assert!(!ids.is_empty(), "SPECIFICATION.md has no promise");
    report(
        "name a test that exists as `path/of/file.rs::test`, or say [test pending]:",
        &findings,
    );
}

/// Specifications, the letter of their requirements, and how many there are at least.
const SPECIFICATIONS: [(&str, char, usize); 2] =
    [("docs/protocol.md", 'P', 20), ("docs/uplink.md", 'U', 25)];

#[test]
fn every_protocol_requirement_is_met_somewhere() {
    let mut missing = Vec::new();
    for (path, letter, least) in SPECIFICATIONS {
        let required: BTreeSet<u32> =
            numbers_after(&file(path).text, &format!("**{letter}-")).collect();
        assert!(
            required.len() > least,
            "the requirements of {path} are written **{letter}-1**"
        );
        let mut named = BTreeSet::new();
        for source in files(".rs") {
            named.extend(numbers_after(&source.text, &format!("{letter}-")));
            // A test carries the id in its name, too.
            let low = letter.to_ascii_lowercase();
            let code = source.only(Part::Code);
            named.extend(numbers_after(&code, &format!("_{low}")));
            named.extend(numbers_after(&code, &format!("fn {low}")));
        }
        let lacking = required.difference(&named);
        missing.extend(lacking.map(|n| format!("{letter}-{n}")));
    }
    report(
        "name these ids in the code and the test that meet them:",
        &missing,
    );
}

/// Numbers that follow right after a mark.
fn numbers_after<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = u32> + 'a {
    text.split(mark).skip(1).filter_map(|rest| {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest[..digits].parse().ok()
    })
}

/// A reader of README and CI run the same words.
#[test]
fn readme_and_ci_say_the_same() {
    let script = file(".ci/run").text;
    let readme = file("README.md").text;
    let blocks: Vec<_> = readme.split("```").skip(1).step_by(2).collect();
    let lines = blocks.iter().flat_map(|block| block.lines());
    // What a reader does with the program is for the other tests.
    let use_it = ["cargo run ", "cargo build ", "cargo install "];
    let commands = lines.filter(|line| {
        line.starts_with("cargo ") && !use_it.iter().any(|start| line.starts_with(start))
    });
    let commands: Vec<_> = commands
        .map(|line| line.split('#').next().unwrap_or(line).trim())
        .collect();
    assert!(
        commands
            .iter()
            .any(|command| command.starts_with("cargo test")),
        "README.md says how to run the tests"
    );
    let missing: Vec<_> = commands
        .iter()
        .filter(|command| !script.contains(**command))
        .map(ToString::to_string)
        .collect();
    report(
        "these commands of README.md are not what .ci/run runs:",
        &missing,
    );
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for document in files(".md") {
        let folder = root()
            .join(&document.path)
            .parent()
            .expect("it has a name")
            .to_owned();
        for link in document.text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://");
            if !elsewhere && !folder.join(target).exists() {
                findings.push(format!("{}: {target}", document.path));
            }
        }
        // Documents are also named in passing: `docs/memory.md`.
        for name in document
            .text
            .split('`')
            .filter(|name| name.starts_with("docs/"))
        {
            if name.ends_with(".md") && !root().join(name).exists() {
                findings.push(format!("{}: {name}", document.path));
            }
        }
    }
    report("write these documents, or take the links out:", &findings);
}
