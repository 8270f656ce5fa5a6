//! What the compiler says that each kernel takes: no registers may spill, and docs/kernels-cuda.md has the table.
#![expect(
    clippy::disallowed_methods,
    reason = "a test reads a document, and writes it when asked to"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Kernel, then target, to registers and bytes that spill.
type Resources = BTreeMap<String, BTreeMap<u32, (u32, u32)>>;

/// Reads what `ptxas -v` said: which entry it compiles, what spills, what it uses.
fn read(said: &str) -> Resources {
    let mut all = Resources::new();
    let (mut entry, mut spilled) = (None, 0);
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, rest) = rest.split_once("' for 'sm_").expect("as ptxas writes");
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            entry = Some((name.to_owned(), digits.parse().expect("digits")));
        } else if let Some((before, _)) = line.split_once(" bytes spill stores") {
            let stores = before.rsplit(' ').next().expect("a number");
            spilled = stores.parse().expect("a number");
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(' ').next().expect("a number");
            let (name, target) = entry.take().expect("its name came first");
            let of = all.entry(name).or_default();
            of.insert(target, (registers.parse().expect("a number"), spilled));
        }
    }
    all
}

fn table(resources: &Resources) -> String {
    let mut table = "| kernel | sm_87 | sm_90 | sm_110 |\n|---|---|---|---|\n".to_owned();
    for (name, targets) in resources {
        let registers: Vec<_> = targets.values().map(|(used, _)| used.to_string()).collect();
        writeln!(table, "| `{name}` | {} |", registers.join(" | ")).expect("a string");
    }
    table
}

#[test]
fn no_kernel_spills_and_the_document_has_their_registers() {
    let said = include_str!(concat!(env!("OUT_DIR"), "/resources.txt"));
    if said.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIP: built without nvcc (kernels/cu/toolkit), so what kernels take is not checked"
        );
        return;
    }
    let resources = read(said);
    for (name, targets) in &resources {
        let known: Vec<_> = targets.keys().copied().collect();
        assert_eq!(known, [87, 90, 110], "{name}");
        for (target, (_, spilled)) in targets {
            assert_eq!(*spilled, 0, "{name} spills registers on sm_{target}");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kernels-cuda.md");
    let document = std::fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = document.split_once("<!-- registers -->\n").expect("marked");
    let (written, after) = rest.split_once("<!-- end -->").expect("marked");
    let table = table(&resources);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let new = format!("{before}<!-- registers -->\n{table}<!-- end -->{after}");
        std::fs::write(&path, new).expect("written");
    } else {
        assert_eq!(
            written, table,
            "run this test with UPDATE_EXPECT=1 to write docs/kernels-cuda.md anew"
        );
    }
}
