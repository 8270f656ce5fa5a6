//! Every cut and many flips of a small file: an error or a parsed file, never a panic, and never a table larger than
//! its bound.

use super::*;

/// Parses, and reads all that a caller could: whatever parsed must be readable.
fn survive(bytes: &[u8]) -> Result<(), GgufError> {
    let file = Gguf::parse(bytes)?;
    assert!(file.alignment().is_power_of_two());
    assert!(
        table_bytes(&file) <= 5 * bytes.len(),
        "tables of {} for {} bytes",
        table_bytes(&file),
        bytes.len()
    );
    for (key, value) in file.values() {
        assert!(!value.to_string().is_empty());
        assert_eq!(file.value(key).unwrap().kind(), value.kind());
        for read in [
            file.u64(key).map(drop),
            file.f32(key).map(drop),
            file.bool(key).map(drop),
            file.str(key).map(drop),
            file.strings(key)
                .map(|strings| assert_count(strings.unwrap().iter())),
            file.u32s(key)
                .map(|numbers| assert_count(numbers.unwrap().iter())),
            file.f32s(key)
                .map(|numbers| assert_count(numbers.unwrap().iter())),
        ] {
            if let Err(error) = read {
                assert!(error.to_string().contains("wanted"), "{error}");
            }
        }
    }
    for tensor in file.tensors() {
        let start = usize::try_from(tensor.file_offset()).unwrap();
        assert_eq!(
            tensor.data().len() as u64,
            tensor.kind().bytes(tensor.elements()).unwrap()
        );
        assert_eq!(tensor.data(), &bytes[start..start + tensor.data().len()]);
        assert!(tensor.file_offset().is_multiple_of(file.alignment().into()));
        assert_eq!(
            file.tensor(tensor.name()).unwrap().file_offset(),
            tensor.file_offset()
        );
    }
    Ok(())
}

fn assert_count<T>(items: impl ExactSizeIterator<Item = T>) {
    let promised = items.len();
    assert_eq!(items.count(), promised);
}

/// Bytes that the parser took for its tables.
fn table_bytes(file: &Gguf<'_>) -> usize {
    file.pairs.capacity() * size_of::<Pair<'_>>()
        + file.pairs_by_key.capacity() * size_of::<u32>()
        + file.tensors.capacity() * size_of::<Tensor<'_>>()
        + file.tensors_by_name.capacity() * size_of::<u32>()
}

#[test]
fn the_undamaged_file_parses() {
    survive(&small_file()).unwrap();
}

#[test]
fn each_cut_is_an_error() {
    let file = small_file();
    let header = Gguf::parse(&file).unwrap();
    let last = header.tensors().last().unwrap();
    let needed = usize::try_from(last.file_offset()).unwrap() + last.data().len();
    for end in 0..needed {
        let error = survive(&file[..end]).unwrap_err();
        assert!(
            error.to_string().contains("at byte"),
            "cut at {end}: {error}"
        );
    }
    for end in needed..file.len() {
        survive(&file[..end]).expect("only padding was cut");
    }
}

#[test]
fn each_flip_of_each_byte_is_survived() {
    let mut file = small_file();
    let (mut refused, mut accepted) = (0, 0);
    for place in 0..file.len() {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x7F, 0xFF] {
            file[place] ^= flip;
            match survive(&file) {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
            file[place] ^= flip;
        }
    }
    // Most of the file is data, names and numbers, in which a flip yields another good file.
    assert!(refused > 1000, "{refused} refused, {accepted} accepted");
    assert!(accepted > 1000, "{refused} refused, {accepted} accepted");
}

#[test]
fn extreme_numbers_in_each_place_are_survived() {
    let file = small_file();
    for place in 0..file.len() - 8 {
        for value in [
            0,
            1,
            u64::from(u32::MAX),
            1 << 62,
            u64::MAX / 8,
            i64::MAX as u64,
            u64::MAX - 7,
            u64::MAX,
        ] {
            let mut damaged = file.clone();
            damaged[place..place + 8].copy_from_slice(&value.to_le_bytes());
            let _ = survive(&damaged);
        }
    }
}

#[test]
fn random_damage_is_survived() {
    let file = small_file();
    let random = &mut Random(5);
    for _ in 0..20_000 {
        let mut damaged = file.clone();
        for _ in 0..=random.below(6) {
            let place = usize::try_from(random.below(file.len() as u64)).unwrap();
            damaged[place] = random.next().to_le_bytes()[0];
        }
        let _ = survive(&damaged);
    }
}

#[test]
fn noise_behind_a_good_start_is_survived() {
    let random = &mut Random(6);
    for _ in 0..2_000 {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(random.below(4).to_le_bytes());
        bytes.extend(random.below(4).to_le_bytes());
        for _ in 0..random.below(200) {
            // Small numbers reach further into the parser than uniform bytes.
            let byte = random.next().to_le_bytes()[0];
            bytes.push(if random.below(2) == 0 { 0 } else { byte % 16 });
        }
        let _ = survive(&bytes);
    }
}

#[test]
fn tables_stay_below_five_times_the_file_and_ten_mebibytes() {
    let pair = size_of::<Pair<'_>>() as u64 + 4;
    let tensor = size_of::<Tensor<'_>>() as u64 + 4;
    assert!(pair <= 5 * limits::METADATA_PAIR_BYTES_MIN, "{pair}");
    assert!(tensor <= 5 * limits::TENSOR_INFO_BYTES_MIN, "{tensor}");
    let most = limits::METADATA_PAIRS_MAX * pair + limits::TENSORS_MAX * tensor;
    assert!(most <= 10 << 20, "{most}");
}
