//! NumPy's array file, version 1.0, for logits.

use std::io::{self, Write};

/// Writes float32 `[rows, cols]`, row-major. Source: NEP 1.
pub(super) struct NpyWriter<W> {
    out: W,
    left: usize,
}

impl<W: Write> NpyWriter<W> {
    pub(super) fn new(mut out: W, rows: usize, cols: usize) -> io::Result<Self> {
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
        // Magic, version and length take ten bytes; the whole is padded to a multiple of 64.
        let padding = (64 - (10 + header.len() + 1) % 64) % 64;
        header.extend(std::iter::repeat_n(' ', padding));
        header.push('\n');
        let len = u16::try_from(header.len()).expect("two numbers are short");
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        Ok(Self {
            out,
            left: rows * cols,
        })
    }

    pub(super) fn write(&mut self, values: &[f32]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(values.len())
            .expect("the shape was said before");
        for value in values {
            self.out.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        assert_eq!(self.left, 0, "the shape was said before");
        self.out.flush()
    }
}
