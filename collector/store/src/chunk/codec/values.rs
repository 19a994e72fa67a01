//! Values of a chunk.

use super::{CodecError, PACKED_MIN, integers};
use crate::chunk::pack::{Kind, pack, unpack};

const SAME: u8 = 0;
const DECIMALS: u8 = 1;
const PACKED: u8 = 2;
const PLAIN: u8 = 3;

/// Places after the point, the likeliest first.
const PLACES: [(u8, f64); 5] = [(0, 1.0), (2, 100.0), (1, 10.0), (3, 1e3), (6, 1e6)];
/// Beyond this not every integer is a float.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Values as bytes; every bit of them comes back.
pub(crate) fn encode_values(values: &[f64]) -> Result<Vec<u8>, CodecError> {
    let first = values.first().copied().unwrap_or(0.0);
    if values.iter().all(|value| value.to_bits() == first.to_bits()) {
        let mut out = vec![SAME];
        out.extend_from_slice(&first.to_le_bytes());
        return Ok(out);
    }
    for (places, power) in PLACES {
        if let Some(numbers) = decimals(values, power) {
            let mut out = vec![DECIMALS, places];
            integers::encode(&numbers, &mut out)?;
            return Ok(out);
        }
    }
    if values.len() >= PACKED_MIN {
        let mut out = vec![PACKED];
        pack(values, Kind::Floats, &mut out)?;
        return Ok(out);
    }
    let mut out = vec![PLAIN];
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(out)
}

/// Exactly `count` values.
pub(crate) fn decode_values(bytes: &[u8], count: usize) -> Result<Vec<f64>, CodecError> {
    let (tag, mut rest) = bytes.split_first().ok_or(CodecError::Short)?;
    match *tag {
        SAME => {
            let bits: [u8; 8] = rest.try_into().map_err(|_| CodecError::Short)?;
            Ok(vec![f64::from_le_bytes(bits); count])
        }
        DECIMALS => {
            let (places, after) = rest.split_first().ok_or(CodecError::Short)?;
            let power = PLACES.iter().find(|(known, _)| known == places);
            let (_, power) = power.ok_or(CodecError::Tag { tag: *places })?;
            rest = after;
            let numbers = integers::decode(&mut rest, count)?;
            if !rest.is_empty() {
                return Err(CodecError::Count);
            }
            Ok(numbers.into_iter().map(|number| float(number) / power).collect())
        }
        PACKED => unpack(rest, count),
        PLAIN => {
            let (values, left) = rest.as_chunks::<8>();
            if values.len() != count || !left.is_empty() {
                return Err(CodecError::Count);
            }
            Ok(values.iter().map(|bits| f64::from_le_bytes(*bits)).collect())
        }
        tag => Err(CodecError::Tag { tag }),
    }
}

/// The values times `power`, when each is an integer that gives the same value back.
fn decimals(values: &[f64], power: f64) -> Option<Vec<i64>> {
    let mut numbers = Vec::with_capacity(values.len());
    for value in values {
        let scaled = (value * power).round();
        if !(-INTEGER_MAX..=INTEGER_MAX).contains(&scaled) {
            return None;
        }
        let number = integer(scaled);
        if (float(number) / power).to_bits() != value.to_bits() {
            return None;
        }
        numbers.push(number);
    }
    Some(numbers)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "it is a whole number of at most 53 bits"
)]
fn integer(value: f64) -> i64 {
    value as i64
}

fn float(number: i64) -> f64 {
    number as f64
}
