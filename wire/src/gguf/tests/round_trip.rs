//! What the writer wrote, the parser reads: for random metadata and tensors.

use super::*;

fn random_value(random: &mut Random, kind: ValueType, level: u32) -> OwnedValue {
    let bits = random.next();
    let [b0, b1, b2, b3, ..] = bits.to_le_bytes();
    match kind {
        ValueType::U8 => OwnedValue::U8(b0),
        ValueType::I8 => OwnedValue::I8(i8::from_le_bytes([b0])),
        ValueType::U16 => OwnedValue::U16(u16::from_le_bytes([b0, b1])),
        ValueType::I16 => OwnedValue::I16(i16::from_le_bytes([b0, b1])),
        ValueType::U32 => OwnedValue::U32(u32::from_le_bytes([b0, b1, b2, b3])),
        ValueType::I32 => OwnedValue::I32(i32::from_le_bytes([b0, b1, b2, b3])),
        // No NaN, since it does not equal itself.
        ValueType::F32 => OwnedValue::F32(f32::from(b0) / 7.0),
        ValueType::F64 => OwnedValue::F64(-f64::from(b1) / 7.0),
        ValueType::Bool => OwnedValue::Bool(bits.is_multiple_of(2)),
        ValueType::Str => OwnedValue::str(random_text(random)),
        ValueType::U64 => OwnedValue::U64(bits),
        ValueType::I64 => OwnedValue::I64(i64::from_le_bytes(bits.to_le_bytes())),
        ValueType::Array => {
            let kind = random_kind(random, level + 1);
            let items = (0..random.below(5)).map(|_| random_value(random, kind, level + 1));
            OwnedValue::Array(kind, items.collect())
        }
    }
}

fn random_kind(random: &mut Random, level: u32) -> ValueType {
    loop {
        let kind = ValueType::ALL[usize::try_from(random.below(13)).unwrap()];
        if kind != ValueType::Array || level < limits::ARRAY_LEVELS_MAX {
            return kind;
        }
    }
}

fn random_text(random: &mut Random) -> String {
    (0..random.below(12))
        .map(|_| char::from_u32(1 + u32::try_from(random.below(0xD7FE)).unwrap()).unwrap())
        .collect()
}

struct Planned {
    name: String,
    dims: Vec<u64>,
    kind: TensorType,
}

fn random_tensor(random: &mut Random, index: u64) -> Planned {
    let kind = TensorType::ALL[usize::try_from(random.below(15)).unwrap()];
    let mut dims = vec![kind.block_elements() * (1 + random.below(3))];
    dims.extend((0..random.below(4)).map(|_| 1 + random.below(4)));
    Planned {
        name: format!("{index}{}", random_text(random)),
        dims,
        kind,
    }
}

#[test]
fn random_files_come_back_as_written() {
    for seed in 0..400 {
        round_trip(seed);
    }
}

fn round_trip(seed: u64) {
    let random = &mut Random(seed);
    let mut writer = GgufWriter::new();
    let mut pairs = Vec::new();
    if random.below(2) == 0 {
        let alignment = OwnedValue::U32(8 << random.below(6));
        pairs.push(("general.alignment".to_owned(), alignment));
    }
    for index in 0..random.below(10) {
        let kind = random_kind(random, 0);
        pairs.push((
            format!("{}{index}", random_text(random)),
            random_value(random, kind, 0),
        ));
    }
    for (key, value) in &pairs {
        writer.put(key, value.clone());
    }
    let tensors: Vec<Planned> = (0..random.below(6))
        .map(|index| random_tensor(random, index))
        .collect();
    for tensor in &tensors {
        writer.tensor(&tensor.name, &tensor.dims, tensor.kind);
    }
    let header = writer.finish();
    let mut bytes = header.bytes.clone();
    bytes.resize(usize::try_from(header.file_bytes).unwrap(), 0);
    for (index, place) in header.tensors.iter().enumerate() {
        let start = usize::try_from(place.file_offset).unwrap();
        bytes[start..start + usize::try_from(place.bytes).unwrap()]
            .fill(u8::try_from(index).unwrap() + 1);
    }

    let file = Gguf::parse(&bytes).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let read: Vec<(String, OwnedValue)> = file
        .values()
        .map(|(key, &value)| (key.to_owned(), value.into()))
        .collect();
    assert_eq!(read, pairs, "seed {seed}");
    assert_eq!(file.tensors().len(), tensors.len(), "seed {seed}");
    for (index, (tensor, planned)) in file.tensors().iter().zip(&tensors).enumerate() {
        assert_eq!(tensor.name(), planned.name, "seed {seed}");
        assert_eq!(tensor.dims(), planned.dims, "seed {seed}");
        assert_eq!(tensor.kind(), planned.kind, "seed {seed}");
        assert_eq!(
            tensor.file_offset(),
            header.tensors[index].file_offset,
            "seed {seed}"
        );
        let filled = u8::try_from(index).unwrap() + 1;
        assert!(
            tensor.data().iter().all(|&byte| byte == filled),
            "seed {seed}"
        );
    }
}

#[test]
fn version_2_reads_like_version_3() {
    let mut bytes = small_file();
    bytes[4] = 2;
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.version(), 2);
    assert_eq!(file.tensors().len(), 3);
}

#[test]
fn getters_read_any_type_that_fits() {
    let bytes = small_file();
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.u32("u8"), Ok(Some(200)));
    assert_eq!(file.u32("i64"), Ok(Some(64)));
    assert_eq!(file.u64("u64"), Ok(Some(u64::MAX)));
    assert_eq!(file.f32("f32"), Ok(Some(0.5)));
    assert_eq!(file.f32("f64"), Ok(Some(1e-6)));
    assert_eq!(file.bool("bool"), Ok(Some(true)));
    assert_eq!(file.str("general.architecture"), Ok(Some("llama")));
    assert_eq!(file.u32("absent"), Ok(None));
    assert!(file.strings("absent").unwrap().is_none());
    let strings = file.strings("strings").unwrap().unwrap();
    assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "a", "Ġthe"]);
    let numbers = file.u32s("numbers").unwrap().unwrap();
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [1, 2, 3]);
    let floats = file.f32s("floats").unwrap().unwrap();
    assert_eq!(floats.iter().collect::<Vec<_>>(), [0.0, -1.5]);
}

#[test]
fn type_ids_come_back() {
    for kind in TensorType::ALL {
        assert_eq!(TensorType::from_id(kind.id()), Some(kind));
    }
    for kind in ValueType::ALL {
        assert_eq!(ValueType::from_id(kind.id()), Some(kind));
    }
}
