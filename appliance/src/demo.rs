//! The model inside the binary: a small one that was trained for the demo's task. `docs/demo-model.md`.

/// Bytes at the address that tensors in it need.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../demo/demo.gguf"));

/// A GGUF file.
pub fn model() -> &'static [u8] {
    &FILE.0
}
