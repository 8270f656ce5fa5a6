//! OpenAI's own Python package, unmodified, against the real server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::Server;

/// A virtual environment with the package, made once under the target folder. `None` is said aloud, and not allowed in
/// CI.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openai-sdk");
    let python = folder.join("bin/python");
    let works = |python: &Path| {
        let check = Command::new(python).args(["-c", "import openai"]).output();
        check.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Some(python);
    }
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&folder)
        .output();
    let installed = made.is_ok_and(|output| output.status.success())
        && Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "openai"])
            .output()
            .is_ok_and(|output| output.status.success());
    if installed && works(&python) {
        return Some(python);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI can install the openai package"
    );
    println!("SKIP: no python3 with venv, or no package registry: OpenAI's SDK is not tested");
    None
}

#[test]
fn openais_python_package_works_unmodified() {
    let Some(python) = python() else { return };
    let server = Server::start(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/openai/test_sdk.py");
    let output = Command::new(python)
        .arg(script)
        .arg(format!("http://{}", server.http))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("PASS"), "{said}");
    server.assert_idle_and_whole();
}
