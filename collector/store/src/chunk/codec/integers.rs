//! Integers: the first one, what all differences are multiples of, and the multiples.

use super::varint::{put, take, unzigzag, zigzag};
use super::{CodecError, PACKED_MIN};
use crate::chunk::pack::{Kind, pack, unpack};

const CONSTANT: u8 = 0;
const DIFFERENCES: u8 = 1;
const PACKED: u8 = 2;

/// Appends integers; how many there are is not said.
pub(super) fn encode(numbers: &[i64], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some(first) = numbers.first().copied() else {
        out.push(CONSTANT);
        put(out, 0);
        return Ok(());
    };
    let divisor = divisor(numbers, first);
    if divisor == 0 {
        out.push(CONSTANT);
        put(out, zigzag(first));
        return Ok(());
    }
    let (base, divisor) = if divisor == 1 { (0, 1) } else { (first, divisor) };
    let multiple = |number: &i64| number.wrapping_sub(base).wrapping_div(divisor);
    if numbers.len() >= PACKED_MIN {
        out.push(PACKED);
        put(out, zigzag(base));
        put(out, divisor.unsigned_abs());
        let multiples: Vec<i64> = numbers.iter().map(multiple).collect();
        return pack(&multiples, Kind::Integers, out);
    }
    out.push(DIFFERENCES);
    put(out, zigzag(base));
    put(out, divisor.unsigned_abs());
    let mut last = 0_i64;
    for number in numbers.iter().map(multiple) {
        put(out, zigzag(number.wrapping_sub(last)));
        last = number;
    }
    Ok(())
}

/// Exactly `count` integers; what follows them is left over.
pub(super) fn decode(bytes: &mut &[u8], count: usize) -> Result<Vec<i64>, CodecError> {
    let (tag, rest) = bytes.split_first().ok_or(CodecError::Short)?;
    *bytes = rest;
    let first = unzigzag(take(bytes)?);
    if *tag == CONSTANT {
        return Ok(vec![first; count]);
    }
    let divisor = take(bytes)?.cast_signed();
    let whole = |multiple: i64| multiple.wrapping_mul(divisor).wrapping_add(first);
    match *tag {
        DIFFERENCES => {
            let mut last = 0_i64;
            let mut next = || {
                last = last.wrapping_add(unzigzag(take(bytes)?));
                Ok(whole(last))
            };
            (0..count).map(|_| next()).collect()
        }
        PACKED => {
            let mut numbers: Vec<i64> = unpack(bytes, count)?;
            *bytes = &[];
            if (first, divisor) != (0, 1) {
                numbers.iter_mut().for_each(|number| *number = whole(*number));
            }
            Ok(numbers)
        }
        tag => Err(CodecError::Tag { tag }),
    }
}

/// What all differences from `first` are multiples of; 0 when there are none, 1 when they are too wide to tell.
fn divisor(numbers: &[i64], first: i64) -> i64 {
    let mut common = 0_u64;
    for number in numbers {
        let Some(difference) = number.checked_sub(first) else {
            return 1;
        };
        common = greatest_common_divisor(common, difference.unsigned_abs());
        if common == 1 {
            return 1;
        }
    }
    i64::try_from(common).unwrap_or(1)
}

fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one.checked_rem(other).unwrap_or(0));
    }
    one
}
