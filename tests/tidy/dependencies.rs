//! What may be linked, as `deny.toml` has it. cargo-deny reads the same file and says more, but takes longer to build
//! than all of us; where it is installed, `.ci/run` lets it check, too.

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;

use super::report;
use super::source::root;

#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
    features: Vec<FeatureBan>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct FeatureBan {
    #[serde(rename = "crate")]
    name: String,
    deny: Vec<String>,
}

/// A package that is linked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    /// Where it comes from, if not from the registry.
    from: Option<String>,
    license: String,
    features: Vec<String>,
}

/// Everything that any of our programs links or is built with on one kind of machine, with all features. Of cargo's
/// reports `tree` is the one that leaves out what only features would need that are off.
fn packages(target: &str) -> BTreeSet<Package> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "tree",
        "--workspace",
        "--all-features",
        "--locked",
        "--prefix=none",
    ]);
    let output = cargo
        .args([
            "--edges=normal,build,dev",
            "--format={p}|{l}|{f}",
            "--target",
            target,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("names are text");
    text.lines()
        .filter(|line| !line.is_empty())
        .map(package)
        .collect()
}

/// A line of it: `name v1.2.3 (path)|licence|features`, and `(*)` where it was told before.
fn package(line: &str) -> Package {
    let fields: Vec<&str> = line.trim_end_matches(" (*)").split('|').collect();
    let [package, license, features] = fields[..] else {
        panic!("three fields: {line}");
    };
    let mut words = package.split(' ');
    let (name, version) = (
        words.next().expect("a name"),
        words.next().expect("a version"),
    );
    let from = words.find(|word| *word != "(proc-macro)");
    Package {
        name: name.to_owned(),
        version: version.trim_start_matches('v').to_owned(),
        from: from.map(|from| from.trim_matches(['(', ')']).to_owned()),
        license: license.to_owned(),
        features: features.split(',').map(str::to_owned).collect(),
    }
}

/// Whether an SPDX expression can be met with these licences. `/` is the old way to write OR.
fn meets(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    match words.next() {
        Some("(") => {
            let met = any(words, allowed);
            met & words.next_if_eq(&")").is_some()
        }
        Some(license) => {
            let met = allowed.contains(license);
            // An exception grants more than the licence does.
            if words.next_if_eq(&"WITH").is_some() {
                words.next();
            }
            met
        }
        None => false,
    }
}

#[test]
fn licences_are_read_as_spdx_has_them() {
    let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("(MIT OR GPL-3.0) AND Zlib", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("MIT AND", false),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(meets(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn what_is_linked_may_be() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).expect("it is there");
    let deny: Deny = toml::from_str(&deny).expect("cargo-deny's form");
    let root = root().canonicalize().expect("it is there");
    let mut findings = BTreeSet::new();
    for target in &deny.graph.targets {
        let packages = packages(target);
        assert!(packages.len() > 300, "cargo tells too little");
        for package in packages {
            let name = format!("{} {}", package.name, package.version);
            if !meets(&package.license, &deny.licenses.allow) {
                findings.insert(format!("{name}: its licence is {:?}", package.license));
            }
            if package
                .from
                .is_some_and(|from| !std::path::Path::new(&from).starts_with(&root))
            {
                findings.insert(format!("{name}: it does not come from the registry"));
            }
            if deny.bans.deny.iter().any(|ban| ban.name == package.name) {
                findings.insert(format!("{name}: it is banned"));
            }
            for ban in deny
                .bans
                .features
                .iter()
                .filter(|ban| ban.name == package.name)
            {
                for feature in package.features.iter().filter(|f| ban.deny.contains(f)) {
                    findings.insert(format!("{name}: its feature {feature} is banned"));
                }
            }
        }
    }
    let findings: Vec<_> = findings.into_iter().collect();
    report("not what deny.toml allows:", &findings);
}
