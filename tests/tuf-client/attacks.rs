//! python-tuf, the reference of The Update Framework, writes honest and hostile repositories, and the updater of a box
//! meets them: `attacks.py` beside this file.
#![expect(
    clippy::print_stdout,
    reason = "who reads the log of a test wants to see what was tried"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 2] = ["tuf==7.0.0", "cryptography"];

/// A virtual environment with the packages, made once under the target folder. `None` is said aloud, and not allowed in
/// CI.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tuf-client");
    let python = folder.join("bin/python");
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let works =
        || runs(Command::new(&python).args(["-c", "import tuf.api.metadata, cryptography"]));
    if !works() {
        let made = runs(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        let install = ["-m", "pip", "install", "--quiet"];
        let _ = made && runs(Command::new(&python).args(install).args(PACKAGES));
    }
    if works() {
        return Some(python);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI can install {PACKAGES:?}"
    );
    println!("SKIP: no python3 with venv, or no package registry: no attack is tried");
    None
}

#[test]
fn each_attack_is_refused_and_an_honest_repository_is_not() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks.py");
    let output = Command::new(python)
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_tuf-client"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(said.matches("PASS").count(), 14, "{said}");
}
