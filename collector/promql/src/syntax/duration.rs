//! Numbers and durations as they are written.

/// The longest duration, about 292 years, which is also Prometheus' longest.
pub(crate) const DURATION_MS_MAX: i64 = i64::MAX / 1_000_000;

const UNITS: &[(&str, i64)] = &[
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `1h30m` in milliseconds: units from the largest to the smallest, each once.
pub(crate) fn literal_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum = 0_i64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (count, tail) = rest.split_at(digits);
        let letters = tail
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, factor) = units.by_ref().find(|(name, _)| *name == unit)?;
        sum = count
            .parse::<i64>()
            .ok()?
            .checked_mul(*factor)?
            .checked_add(sum)?;
        rest = tail;
    }
    (!text.is_empty() && sum <= DURATION_MS_MAX).then_some(sum)
}

/// A number as Go reads it: decimal, hexadecimal, octal with a leading zero, `_` between digits, `Inf`, `NaN`.
pub(crate) fn number(text: &str) -> Option<f64> {
    let bare = if text.contains('_') {
        if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
            return None;
        }
        text.replace('_', "")
    } else {
        text.to_owned()
    };
    let lower = bare.to_ascii_lowercase();
    if let Some(hexadecimal) = lower.strip_prefix("0x") {
        return i64::from_str_radix(hexadecimal, 16)
            .ok()
            .map(|whole| whole as f64);
    }
    let octal =
        lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    if octal {
        return i64::from_str_radix(&lower, 8).ok().map(|whole| whole as f64);
    }
    match lower.as_str() {
        "inf" | "+inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        other
            if other
                .starts_with(|first: char| first.is_ascii_digit() || matches!(first, '.' | '+' | '-')) =>
        {
            other
                .parse()
                .ok()
                .filter(|value: &f64| !value.is_infinite() || !other.contains("inf"))
        }
        _ => None,
    }
}
