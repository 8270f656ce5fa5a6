//! Variable-length integers of QUIC.
//!
//! Source: RFC 9000, section 16. The two high bits of the first byte say how many bytes there are:
//!
//! ```text
//! 00 1 byte   up to 63             10 4 bytes  up to 1_073_741_823
//! 01 2 bytes  up to 16_383         11 8 bytes  up to 4_611_686_018_427_387_903
//! ```

/// The largest number that has an encoding.
pub const VALUE_MAX: u64 = (1 << 62) - 1;

/// Bytes that [`write`] takes for `value`.
///
/// **Panics** above [`VALUE_MAX`].
pub fn encoded_bytes(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        0x4000_0000..=VALUE_MAX => 8,
        _ => panic!("{value} is above the largest QUIC varint"),
    }
}

/// Appends `value` in its shortest form.
///
/// **Panics** above [`VALUE_MAX`]: callers write lengths, counts and ids, which are below.
pub fn write(value: u64, out: &mut Vec<u8>) {
    let bytes = encoded_bytes(value);
    let prefix = u64::from(bytes.trailing_zeros()) << (bytes * 8 - 2);
    let encoded = (value | prefix).to_be_bytes();
    out.extend_from_slice(&encoded[8 - bytes..]);
}

/// Reads one number from the start of `bytes`: the number and the bytes it took, or `None` if there are too few.
///
/// A longer form than needed is read as what it means (P-5).
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &byte| {
        value << 8 | u64::from(byte)
    });
    Some((value, length))
}
