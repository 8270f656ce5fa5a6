//! What the errors say: field, value, byte offset.

use expect_test::{Expect, expect};

use super::*;

/// Parses each file and compares the errors, a line each.
fn check(files: &[&[u8]], expected: &Expect) {
    let errors = files
        .iter()
        .map(|file| format!("{}\n", Gguf::parse(file).unwrap_err()));
    expected.assert_eq(&errors.collect::<String>());
}

/// The header of a file with so many tensors and metadata pairs, and what follows it.
fn header(version: u32, tensors: u64, pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(pairs.to_le_bytes());
    bytes.extend(rest.concat());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn le32(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

fn le64(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// A tensor description: name, dimensions, type id, data offset.
fn tensor(name: &str, dims: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend(le32(u32::try_from(dims.len()).unwrap()));
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(le32(id));
    bytes.extend(le64(offset));
    bytes
}

#[test]
fn files_of_other_kinds() {
    check(
        &[
            b"",
            b"GG",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            b"<!DOCTYPE html><html>",
            b"PK\x03\x04archive",
            b"tjgg\x01\0\0\0",
            b"\x40\x01\0\0\0\0\0\0{\"__metadata__\"",
            b"\x7FELF\x02\x01",
        ],
        &expect![[r#"
            not a GGUF file: magic at byte 0 is "" instead of "GGUF"; the file is empty
            not a GGUF file: magic at byte 0 is "GG" instead of "GGUF"
            not a GGUF file: magic at byte 0 is "vers" instead of "GGUF"; a Git LFS pointer: fetch the file itself with `git lfs pull`
            not a GGUF file: magic at byte 0 is "<!DO" instead of "GGUF"; a web page: the download went wrong
            not a GGUF file: magic at byte 0 is "PK\\x03\\x04" instead of "GGUF"; a ZIP archive or PyTorch checkpoint: convert it to GGUF
            not a GGUF file: magic at byte 0 is "tjgg" instead of "GGUF"; ggml's format of 2023: convert the model anew
            not a GGUF file: magic at byte 0 is "@\\x01\\x00\\x00" instead of "GGUF"; a safetensors file: convert it to GGUF
            not a GGUF file: magic at byte 0 is "\\x7fELF" instead of "GGUF"
        "#]],
    );
}

#[test]
fn versions_and_byte_order() {
    check(
        &[
            &header(1, 0, 0, &[]),
            &header(4, 0, 0, &[]),
            &header(3_u32.swap_bytes(), 0, 0, &[]),
            b"GGUF\x03\0",
        ],
        &expect![[r"
            GGUF version at byte 4 is 1: only 2 and 3 are known; convert the model with current tools
            GGUF version at byte 4 is 4: only 2 and 3 are known; convert the model with current tools
            GGUF version at byte 4 is 0x03000000, version 3 in big-endian order: convert the file to little-endian first
            version at byte 4 needs 4 bytes, but 2 are left in the file: cut short or corrupt
        "]],
    );
}

#[test]
fn counts_and_lengths() {
    let array = |kind: u32, count: u64| {
        header(
            3,
            0,
            1,
            &[&text("list"), &le32(9), &le32(kind), &le64(count), &[0; 16]],
        )
    };
    check(
        &[
            &header(3, u64::MAX, 0, &[]),
            &header(3, 0, 70_000, &[]),
            &header(3, 0, 1000, &[&[0; 64]]),
            &header(3, 1000, 0, &[&[0; 64]]),
            &header(3, 0, 1, &[&le64(0), &[0; 20]]),
            &header(3, 0, 1, &[&le64(u64::MAX), &[0; 20]]),
            &header(3, 0, 1, &[&le64(1000), &[0; 20]]),
            &header(3, 0, 1, &[&text("name"), &le32(8), &le64(u64::MAX), b"abc"]),
            &array(4, u64::MAX),
            &array(4, 5),
            &array(8, 1 << 61),
            &array(9, 2),
        ],
        &expect![[r#"
            tensor count at byte 8 is 18446744073709551615, allowed are 0 to 65536
            metadata count at byte 16 is 70000, allowed are 0 to 65536
            metadata pairs at byte 24 needs 14000 bytes, but 64 are left in the file: cut short or corrupt
            tensor descriptions at byte 24 needs 33000 bytes, but 64 are left in the file: cut short or corrupt
            metadata pair 0 key length at byte 24 is 0, allowed are 1 to 65535
            metadata pair 0 key length at byte 24 is 18446744073709551615, allowed are 1 to 65535
            metadata pair 0 key at byte 32 needs 1000 bytes, but 20 are left in the file: cut short or corrupt
            metadata "name" string at byte 48 needs 18446744073709551615 bytes, but 3 are left in the file: cut short or corrupt
            metadata "list" array elements at byte 52 needs 18446744073709551615 bytes, but 16 are left in the file: cut short or corrupt
            metadata "list" array elements at byte 52 needs 20 bytes, but 16 are left in the file: cut short or corrupt
            metadata "list" array elements at byte 52 needs 18446744073709551615 bytes, but 16 are left in the file: cut short or corrupt
            metadata "list" array elements at byte 52 needs 24 bytes, but 16 are left in the file: cut short or corrupt
        "#]],
    );
}

#[test]
fn types_and_values() {
    let pair =
        |kind: u32, rest: &[u8]| header(3, 0, 1, &[&text("the.key"), &le32(kind), rest, &[0; 8]]);
    let level = [&le32(9), le64(1).as_slice()].concat();
    check(
        &[
            &pair(13, &[]),
            &pair(7, &[2]),
            &pair(8, &[&le64(3), b"ab\xFF".as_slice()].concat()),
            &pair(9, &[&le32(77), le64(1).as_slice()].concat()),
            &pair(9, &[le32(7).as_slice(), &le64(2), &[1, 9]].concat()),
            &header(3, 0, 1, &[&le64(2), b"\xC3\x28", &[0; 16]]),
            &pair(9, &level.repeat(6)),
        ],
        &expect![[r#"
            metadata "the.key" type at byte 39 is 13: GGUF has value types 0 to 12
            metadata "the.key" value at byte 43 is 2: a bool is 0 or 1
            metadata "the.key" string at byte 51 is not UTF-8: byte 0xff after 2 good bytes
            metadata "the.key" array element type at byte 43 is 77: GGUF has value types 0 to 12
            metadata "the.key" value at byte 56 is 9: a bool is 0 or 1
            metadata pair 0 key at byte 32 is not UTF-8: byte 0xc3 after 0 good bytes
            metadata "the.key" array nesting at byte 91 is 5, allowed are 1 to 4
        "#]],
    );
}

#[test]
fn duplicates() {
    let pair = [text("a.b").as_slice(), &le32(4), &le32(1)].concat();
    let other = [text("a.a").as_slice(), &le32(4), &le32(1)].concat();
    let weight = tensor("w", &[1], 0, 0);
    check(
        &[
            &header(3, 0, 3, &[&pair, &other, &pair]),
            &header(3, 2, 0, &[&weight, &weight, &[0; 64]]),
        ],
        &expect![[r#"
            metadata key "a.b" at byte 62 stands a second time, first at byte 24
            tensor name "w" at byte 57 stands a second time, first at byte 24
        "#]],
    );
}

#[test]
fn alignments() {
    let file = |value: u32| {
        header(
            3,
            0,
            1,
            &[&text("general.alignment"), &le32(4), &le32(value)],
        )
    };
    check(
        &[
            &file(0),
            &file(48),
            &file(1 << 30),
            &header(3, 0, 1, &[&text("general.alignment"), &le32(7), &[1]]),
        ],
        &expect![[r#"
            general.alignment at byte 53 is 0, allowed are 8 to 2097152
            general.alignment at byte 53 is 48: it must be a power of two
            general.alignment at byte 53 is 1073741824, allowed are 8 to 2097152
            metadata "general.alignment" at byte 53 is true (Bool), wanted is an integer of 8 or more
        "#]],
    );
}

#[test]
fn tensors() {
    let file = |tensor: &[u8]| header(3, 1, 0, &[tensor, &[0; 256]]);
    check(
        &[
            &file(&tensor("w", &[], 0, 0)),
            &file(&tensor("w", &[1, 1, 1, 1, 1], 0, 0)),
            &file(&tensor("w", &[4, 0], 0, 0)),
            &file(&tensor("w", &[1 << 40, 1 << 40], 0, 0)),
            &file(&tensor("w", &[1 << 62], 0, 0)),
            &file(&tensor("w", &[33], 2, 0)),
            &file(&tensor("w", &[32], 16, 0)),
            &file(&tensor("w", &[32], 5, 0)),
            &file(&tensor("w", &[4], 0, 4)),
            &file(&tensor("w", &[1024], 0, 0)),
            &file(&tensor("w", &[4], 0, 1 << 20)),
            &file(&tensor("w", &[4], 0, u64::MAX - 31)),
            &file(&tensor(&"n".repeat(65), &[4], 0, 0)),
        ],
        &expect![[r#"
            tensor "w" dimension count at byte 33 is 0, allowed are 1 to 4
            tensor "w" dimension count at byte 33 is 5, allowed are 1 to 4
            tensor "w" dimension at byte 45 is 0, allowed are 1 to 18446744073709551615
            tensor "w" dimension at byte 45 is 1099511627776: the tensor's size overflows 64 bits
            tensor "w" dimension at byte 37 is 4611686018427387904: the tensor's size overflows 64 bits
            tensor "w" first dimension at byte 37 is 33: rows of Q4_0 are multiples of 32
            tensor "w" type at byte 45 is 16 (IQ2_XXS): publish the model in one of F32 F16 BF16 Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS
            tensor "w" type at byte 45 is 5 (unknown): publish the model in one of F32 F16 BF16 Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS
            tensor "w" data offset at byte 49 is 4: not a multiple of the alignment 32
            tensor "w" data offset at byte 49 is 0: the tensor's 4096 bytes from byte 64 of the file end behind its 313 bytes: cut short or corrupt
            tensor "w" data offset at byte 49 is 1048576: the tensor's 16 bytes from byte 1048640 of the file end behind its 313 bytes: cut short or corrupt
            tensor "w" data offset at byte 49 is 18446744073709551584: the tensor's 16 bytes from byte 18446744073709551615 of the file end behind its 313 bytes: cut short or corrupt
            tensor 0 name length at byte 24 is 65, allowed are 1 to 64
        "#]],
    );
}

#[test]
fn getters_name_key_value_and_place() {
    let bytes = small_file();
    let file = Gguf::parse(&bytes).unwrap();
    let errors = [
        file.u32("i8").map(drop),
        file.u32("u64").map(drop),
        file.u32("f32").map(drop),
        file.f32("u8").map(drop),
        file.bool("u8").map(drop),
        file.str("strings").map(drop),
        file.strings("numbers").map(drop),
        file.strings("u8").map(drop),
        file.u32s("mixed").map(drop),
        file.f32s("nested").map(drop),
    ];
    let lines: Vec<String> = errors
        .into_iter()
        .map(|error| error.unwrap_err().to_string())
        .collect();
    expect![[r#"
        metadata "i8" at byte 131 is -8 (I8), wanted is an integer of 0 to 4294967295
        metadata "u64" at byte 236 is 18446744073709551615 (U64), wanted is an integer of 0 to 4294967295
        metadata "f32" at byte 200 is 0.5 (F32), wanted is an integer of 0 to 4294967295
        metadata "u8" at byte 116 is 200 (U8), wanted is a float
        metadata "u8" at byte 116 is 200 (U8), wanted is a bool
        metadata "strings" at byte 309 is ["", "a", "Ġthe"] (Array), wanted is a string
        metadata "numbers" at byte 370 is an array of I32 that holds 1, wanted is an array of strings
        metadata "u8" at byte 116 is 200 (U8), wanted is an array of strings
        metadata "mixed" at byte 411 is an array of I32 that holds -2, wanted is an array of integers of 0 to 4294967295
        metadata "nested" at byte 517 is [7] (Array), wanted is an array of floats"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn long_values_are_shown_short() {
    let mut writer = GgufWriter::new();
    writer
        .put("text", OwnedValue::str("é".repeat(100)))
        .put("list", OwnedValue::u32s(0..100));
    let bytes = writer.finish().bytes;
    let file = Gguf::parse(&bytes).unwrap();
    let lines: Vec<String> = file
        .values()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    expect![[r#"
        text "éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…"
        list [0, 1, 2, 3, 4, 5, … 94 more]"#]]
    .assert_eq(&lines.join("\n"));
}
