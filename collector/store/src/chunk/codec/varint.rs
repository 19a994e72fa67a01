//! Integers of as many bytes as they need, seven bits in each, the lowest first.

use super::CodecError;

/// Bytes of the longest integer.
const BYTES_MAX: u32 = 10;

/// Appends an integer.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Takes an integer off the front.
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut value = 0_u64;
    for place in 0..BYTES_MAX {
        let (byte, rest) = bytes.split_first().ok_or(CodecError::Short)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f)
            .checked_shl(place.saturating_mul(7))
            .unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CodecError::Short)
}

/// Small numbers of either sign as small ones.
pub(super) fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

/// The reverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}
