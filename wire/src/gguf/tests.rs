//! The parser against real files, its own writer, and every kind of damage.

mod damage;
mod errors;
mod real;
mod round_trip;

use super::*;

/// A small file with every value type and a few tensors, data included.
fn small_file() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .put("general.architecture", OwnedValue::str("llama"))
        .put("general.alignment", OwnedValue::U32(64))
        .put("u8", OwnedValue::U8(200))
        .put("i8", OwnedValue::I8(-8))
        .put("u16", OwnedValue::U16(60_000))
        .put("i16", OwnedValue::I16(-16))
        .put("i32", OwnedValue::I32(-32))
        .put("f32", OwnedValue::F32(0.5))
        .put("bool", OwnedValue::Bool(true))
        .put("u64", OwnedValue::U64(u64::MAX))
        .put("i64", OwnedValue::I64(64))
        .put("f64", OwnedValue::F64(1e-6))
        .put("strings", OwnedValue::strings(["", "a", "Ġthe"]))
        .put("numbers", OwnedValue::i32s([1, 2, 3]))
        .put("mixed", OwnedValue::i32s([1, -2]))
        .put("floats", OwnedValue::f32s([0.0, -1.5]))
        .put(
            "bools",
            OwnedValue::Array(ValueType::Bool, vec![OwnedValue::Bool(true)]),
        )
        .put(
            "nested",
            OwnedValue::Array(
                ValueType::Array,
                vec![OwnedValue::u32s([7]), OwnedValue::strings(["x"])],
            ),
        )
        .tensor("a.weight", &[32, 2], TensorType::Q4_0)
        .tensor("b.weight", &[256], TensorType::Q6K)
        .tensor("c.weight", &[3, 2, 1, 1], TensorType::F32);
    let header = writer.finish();
    let mut file = header.bytes;
    file.resize(usize::try_from(header.file_bytes).unwrap(), 0xA5);
    file
}

/// A seeded generator for tests: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
