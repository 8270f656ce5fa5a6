//! Which Rust files the compiler sees: from the roots of every crate along `mod`, `#[path]` and `include!`.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::source::{File, Part, file, files, root};

/// Paths of all files that some target reaches.
pub(crate) fn reached() -> BTreeSet<String> {
    let mut open: Vec<PathBuf> = files("Cargo.toml").iter().flat_map(targets).collect();
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        let name = path.to_str().expect("names are UTF-8").to_owned();
        if root().join(&path).is_file() && seen.insert(name.clone()) {
            open.extend(children(&file(&name)));
        }
    }
    seen
}

/// Roots of a package: what Cargo finds on its own, and every `path` of its manifest that is a source.
fn targets(manifest: &File) -> Vec<PathBuf> {
    let folder = Path::new(&manifest.path).parent().expect("it has a name");
    let mut found: Vec<_> = ["src/lib.rs", "src/main.rs", "build.rs"]
        .iter()
        .map(|name| folder.join(name))
        .collect();
    for automatic in ["benches", "examples", "src/bin", "tests"] {
        let Ok(entries) = std::fs::read_dir(root().join(folder).join(automatic)) else {
            continue;
        };
        found.extend(entries.map(|entry| {
            let name = entry.expect("just listed").file_name();
            folder.join(automatic).join(name)
        }));
    }
    let sources = manifest.text.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("path = \"")?;
        let path = value.split('"').next()?;
        path.ends_with(".rs").then(|| plain(&folder.join(path)))
    });
    found.extend(sources);
    found
}

/// Files that this one's `mod` lines may mean; those that do not exist are left out later.
fn children(file: &File) -> Vec<PathBuf> {
    let path = Path::new(&file.path);
    let folder = path.parent().expect("it has a name");
    let stem = path.file_stem().expect("it has a name");
    // Roots and mod.rs have their modules beside them, other files in a folder of their name. A target may have
    // any name, so both places are looked at: the error is to miss a dead file, never to accuse a living one.
    let places = [folder.to_owned(), folder.join(stem)];
    let code = file.only(Part::Code);
    let mut found = Vec::new();
    for (line, original) in code.lines().zip(file.text.lines()) {
        let literal = || {
            original
                .split('"')
                .nth(1)
                .map(|name| plain(&folder.join(name)))
        };
        if line.contains("#[path") || line.contains("include!(") {
            found.extend(literal());
        }
        let words: Vec<_> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|&word| word == "mod")
            && let Some(name) = words.get(at + 1).and_then(|word| word.strip_suffix(';'))
        {
            for place in &places {
                found.push(place.join(format!("{name}.rs")));
                found.push(place.join(name).join("mod.rs"));
            }
        }
    }
    found
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}
