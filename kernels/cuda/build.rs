//! Compiles `../cu/*.cu` for each GPU that we know. No GPU is needed for that.
//!
//! What is for drivers of CUDA 12 goes through an assembler of that time: the newest one makes what they do not load.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script reads its environment and writes files"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::scope;

/// Machine code for these: Jetson Orin and Hopper, which have drivers of CUDA 12, and Jetson Thor.
const CODE: [&str; 3] = ["87", "90", "110"];

/// The first that no CUDA 12 knows.
const NEW: &str = "110";

/// And what the driver compiles by itself for any other from Ampere on.
const FALLBACK: &str = "80";

const FAMILIES: [&str; 5] = ["attention", "draw", "low_rank", "matmul", "rows"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../cu");
    println!("cargo::rerun-if-changed=../../target/cuda/nvcc");
    println!("cargo::rerun-if-changed=../../target/cuda/ptxas");
    println!("cargo::rerun-if-env-changed=NVCC");
    let cu = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../cu");
    let out = PathBuf::from(env("OUT_DIR"));
    let mut resources = String::new();
    if let Some(nvcc) = nvcc(&cu) {
        let tools = Tools {
            cu: &cu,
            out: &out,
            nvcc,
            ptxas: cu.join("../../target/cuda/ptxas").canonicalize().ok(),
        };
        let tools = &tools;
        scope(|threads| {
            let running = FAMILIES.map(|family| threads.spawn(move || tools.compile(family)));
            for family in running {
                resources.push_str(&family.join().expect("it said why"));
            }
        });
    } else {
        println!(
            "cargo::warning=built without CUDA kernels: kernels/cu/toolkit installs their compiler (from PyPI, no GPU needed)"
        );
        for family in FAMILIES {
            for kind in CODE.iter().chain([&FALLBACK]) {
                // No driver takes it for an image.
                write(&out.join(format!("{family}.{kind}")), &[0; 64]);
            }
        }
    }
    write(&out.join("resources.txt"), resources.as_bytes());
}

struct Tools<'a> {
    cu: &'a Path,
    out: &'a Path,
    nvcc: PathBuf,
    /// The assembler for drivers of CUDA 12; without it, that of nvcc.
    ptxas: Option<PathBuf>,
}

impl Tools<'_> {
    /// Compiles a family; returns what the assembler says of it.
    fn compile(&self, family: &str) -> String {
        let mut said = String::new();
        for code in CODE {
            let made = self.out.join(format!("{family}.{code}"));
            let mut assemble = if code == NEW {
                let mut nvcc = self.compiler(family, "-cubin", &format!("sm_{code}"));
                nvcc.args(["-Xptxas", "-v"]);
                nvcc
            } else {
                let text = self.text(family, code);
                let mut assemble = if let Some(ptxas) = &self.ptxas {
                    Command::new(ptxas)
                } else {
                    let mut nvcc = Command::new(&self.nvcc);
                    nvcc.args(["-cubin", "-Xptxas"]);
                    nvcc
                };
                // What each kernel takes, for the test that reads it.
                assemble
                    .args(["-v", "-O3", &format!("-arch=sm_{code}")])
                    .arg(text);
                assemble
            };
            said.push_str(&run(assemble.arg("-o").arg(made)));
        }
        let mut text = std::fs::read(self.text(family, FALLBACK)).expect("it was written");
        text.push(0); // where the driver stops
        write(&self.out.join(format!("{family}.{FALLBACK}")), &text);
        said
    }

    fn compiler(&self, family: &str, kind: &str, arch: &str) -> Command {
        let mut nvcc = Command::new(&self.nvcc);
        nvcc.args(["-std=c++17", "-O3", kind, &format!("-arch={arch}")]);
        nvcc.arg(self.cu.join(family).with_extension("cu"));
        nvcc
    }

    /// A family in PTX. It has nothing that PTX 8.0 has not, but for hints, so it says that version: drivers since 525
    /// take it, which assemble it and would say what they do not know.
    fn text(&self, family: &str, arch: &str) -> PathBuf {
        let path = self.out.join(format!("{family}.{arch}.ptx"));
        let arch = format!("compute_{arch}");
        run(self.compiler(family, "-ptx", &arch).arg("-o").arg(&path));
        let text = std::fs::read_to_string(&path).expect("nvcc wrote it");
        let lines = text
            .lines()
            .filter(|line| !line.contains(".pragma \"used_bytes_mask"));
        let lines = lines.map(|line| {
            if line.starts_with(".version ") {
                ".version 8.0"
            } else {
                line
            }
        });
        write(&path, lines.collect::<Vec<_>>().join("\n").as_bytes());
        path
    }
}

fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let ended = command
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{command:?}:\n{said}");
    said
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("OUT_DIR is ours");
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
