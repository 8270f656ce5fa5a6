//! Compiles `../cu/*.cu` for each GPU that we know. No GPU is needed for that.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script reads its environment and writes files"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Machine code for these: Jetson Orin, Hopper, Jetson Thor.
const CODE: [&str; 3] = ["87", "90", "110"];

/// And what the driver compiles by itself for any other from Ampere on.
const FALLBACK: &str = "80";

const FAMILIES: [&str; 4] = ["attention", "draw", "matmul", "rows"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../cu");
    println!("cargo::rerun-if-changed=../../target/cuda/nvcc");
    println!("cargo::rerun-if-env-changed=NVCC");
    let cu = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../cu");
    let out = PathBuf::from(env("OUT_DIR"));
    let Some(nvcc) = nvcc(&cu) else {
        println!(
            "cargo::warning=built without CUDA kernels: kernels/cu/toolkit installs their compiler (from PyPI, no GPU needed)"
        );
        for family in FAMILIES {
            // No driver takes it for an image.
            std::fs::write(out.join(family).with_extension("fatbin"), [0; 64])
                .expect("OUT_DIR is ours");
        }
        std::fs::write(out.join("resources.txt"), "").expect("OUT_DIR is ours");
        return;
    };
    let running: Vec<_> = FAMILIES
        .iter()
        .map(|family| {
            let mut command = Command::new(&nvcc);
            command.args(["-std=c++17", "-O3", "-fatbin", "--compress-mode=size"]);
            // What each kernel takes, for the test that reads it.
            command.args(["-Xptxas", "-v"]).stderr(Stdio::piped());
            for code in CODE {
                command.arg(format!("-gencode=arch=compute_{code},code=sm_{code}"));
            }
            command.arg(format!(
                "-gencode=arch=compute_{FALLBACK},code=compute_{FALLBACK}"
            ));
            command
                .arg("-o")
                .arg(out.join(family).with_extension("fatbin"));
            command.arg(cu.join(family).with_extension("cu"));
            (family, command.spawn())
        })
        .collect();
    let mut resources = String::new();
    for (family, child) in running {
        let ended = child.and_then(Child::wait_with_output);
        let ended = ended.unwrap_or_else(|error| panic!("{}: {error}", nvcc.display()));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success(),
            "nvcc could not compile cu/{family}.cu:\n{said}"
        );
        resources.push_str(&said);
    }
    std::fs::write(out.join("resources.txt"), resources).expect("OUT_DIR is ours");
}

/// `$NVCC`, the one in PATH, or the one that `cu/toolkit` installed.
fn nvcc(cu: &Path) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("NVCC") {
        return Some(path.into());
    }
    let in_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("nvcc"))
        .find(|path| path.exists());
    // It looks for its headers beside itself.
    let installed = || cu.join("../../target/cuda/nvcc").canonicalize().ok();
    in_path.or_else(installed)
}

fn env(name: &str) -> String {
    std::env::var(name).expect("cargo sets it")
}
