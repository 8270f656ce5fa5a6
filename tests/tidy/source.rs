//! The tree as text: every file that a person wrote, and Rust sources with comments and strings told apart.

use std::path::{Path, PathBuf};

/// One file, by its path from the root.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What a byte of Rust source belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Code,
    Comment,
    Text,
}

/// Folders that tools write.
const SKIPPED: [&str; 6] = [
    "target",
    ".git",
    "artifacts",
    "corpus",
    "coverage",
    "__pycache__",
];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files whose name ends like this, sorted by path.
pub(crate) fn files(ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree") {
            let entry = entry.expect("a folder of the tree");
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let kind = entry.file_type().expect("it was just listed");
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) && !name.starts_with(".venv") {
                folders.push(entry.path());
            } else if kind.is_file() && name.ends_with(ending) {
                found.push(read(&entry.path()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        !found.is_empty(),
        "no file ends with {ending}: the walk is broken"
    );
    found
}

/// One file that must exist.
pub(crate) fn file(path: &str) -> File {
    read(&root().join(path))
}

fn read(path: &Path) -> File {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let path = path.strip_prefix(root()).expect("below the root");
    File {
        path: path.to_str().expect("names are UTF-8").to_owned(),
        text,
    }
}

impl File {
    /// Lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The same text with everything but `part` blank: columns and lines stay where they are.
    pub(crate) fn only(&self, part: Part) -> String {
        let parts = parts(&self.text);
        let keep = |(c, of): (char, Part)| if of == part || c == '\n' { c } else { ' ' };
        self.text.chars().zip(parts).map(keep).collect()
    }

    /// Whether all of it is test code: by name, since `mod tests` lives in a file of its own.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("tests.rs")
    }
}

/// What each character of Rust source belongs to. Knows what rustfmt leaves behind, which is less than the language.
fn parts(text: &str) -> Vec<Part> {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Vec::with_capacity(chars.len());
    while parts.len() < chars.len() {
        let at = parts.len();
        let before = if at == 0 { ' ' } else { chars[at - 1] };
        let (part, end) = match chars[at..] {
            ['/', '/', ..] => (Part::Comment, find(&chars, at, &['\n'])),
            ['/', '*', ..] => (Part::Comment, find(&chars, at + 2, &['*', '/']) + 2),
            ['"', ..] => (Part::Text, string_end(&chars, at)),
            ['r', '"' | '#', ..] if !is_word(before) || before == 'b' => raw_string(&chars, at),
            ['\'', '\\', ..] => (Part::Text, find(&chars, at + 3, &['\'']) + 1),
            ['\'', _, '\'', ..] => (Part::Text, at + 3),
            _ => (Part::Code, at + 1),
        };
        parts.resize(end.min(chars.len()), part);
    }
    parts
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(chars: &[char], from: usize, what: &[char]) -> usize {
    let rest = chars.get(from..).unwrap_or_default();
    let found = rest.windows(what.len()).position(|w| w == what);
    found.map_or(chars.len(), |n| from + n)
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// `r"…"`, `r#"…"#`; `r#name` is code.
fn raw_string(chars: &[char], start: usize) -> (Part, usize) {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return (Part::Code, start + 1);
    }
    let mut close = vec!['"'];
    close.resize(1 + hashes, '#');
    (Part::Text, find(chars, open + 1, &close) + close.len())
}

#[test]
fn parts_of_a_source_are_told_apart() {
    let sample = r##"let a = "x\"//"; // c 'd' "e"
fn f<'a>(r: &'a str) { g('"', '\'', r#"h"i"#, /* j */ b"k") }"##;
    let file = File {
        path: "sample.rs".into(),
        text: sample.into(),
    };
    let squeezed = |part| {
        file.only(part)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        squeezed(Part::Code),
        "let a = ; fn f<'a>(r: &'a str) { g( , , , b ) }"
    );
    assert_eq!(squeezed(Part::Comment), "// c 'd' \"e\" /* j */");
    assert_eq!(squeezed(Part::Text), r##""x\"//" '"' '\'' r#"h"i"# "k""##);
}
