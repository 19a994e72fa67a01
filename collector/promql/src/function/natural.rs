//! The order of texts in which `a10` comes after `a9`.

use std::cmp::Ordering;

/// Runs of digits are compared as numbers, everything else as text.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (mut left_rest, mut right_rest) = (left, right);
    while let (Some((a, a_rest)), Some((b, b_rest))) = (chunk(left_rest), chunk(right_rest)) {
        let order = match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
        (left_rest, right_rest) = (a_rest, b_rest);
    }
    left_rest
        .len()
        .cmp(&right_rest.len())
        .then_with(|| left.cmp(right))
}

fn chunk(text: &str) -> Option<(&str, &str)> {
    let digits = text.chars().next()?.is_ascii_digit();
    let end = text
        .find(|letter: char| letter.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    Some(text.split_at(end))
}
