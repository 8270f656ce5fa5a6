//! Shared by the test binaries: where test data lies, and the formats that it has.
#![expect(clippy::disallowed_methods, reason = "tests read files")]

pub mod adapted;
pub mod golden;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The repository's root.
pub fn repository() -> PathBuf {
    // A test that was carried to another machine is told where it is.
    match std::env::var_os("TEST_REPOSITORY") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    }
}

/// A folder of `../shared`, which not every checkout has. `None` is said aloud.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = repository().join("../shared").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    // Past the test runner's capture of print macros, which hides what a passing test says.
    let _ = writeln!(
        std::io::stderr(),
        "SKIP: {} is not here, so what needs it is not tested",
        path.display()
    );
    None
}

/// A float32 matrix from a NumPy file, row-major.
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `[rows, cols]`
    pub values: Vec<f32>,
}

impl Matrix {
    /// Reads version 1.0 files of little-endian float32, which is what our tools and NumPy write.
    pub fn read_npy(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        ensure!(
            bytes.starts_with(b"\x93NUMPY\x01\x00"),
            "{} is no NumPy file",
            path.display()
        );
        let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = std::str::from_utf8(&bytes[10..10 + header_len])?;
        ensure!(
            header.contains("'<f4'") && header.contains("False"),
            "{header}"
        );
        let shape = header.split(['(', ')']).nth(1).context("no shape")?;
        let shape: Vec<usize> = shape
            .split(',')
            .map(|n| n.trim().parse())
            .collect::<Result<_, _>>()?;
        let [rows, cols] = shape[..] else {
            anyhow::bail!("{header} is not two-dimensional")
        };
        let (values, rest) = bytes[10 + header_len..].as_chunks::<4>();
        ensure!(
            rest.is_empty() && values.len() == rows * cols,
            "{} is cut",
            path.display()
        );
        let values = values.iter().map(|&v| f32::from_le_bytes(v)).collect();
        Ok(Self { rows, cols, values })
    }
}

/// Normalized mean squared error: |a - b|² / |b|².
pub fn nmse(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "same shape");
    let square = |x: f64| x * x;
    let error: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let norm: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    error / norm
}
