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

/// A number as the grammar reads it: decimal, hexadecimal, octal with a leading zero, `_` between digits, `Inf`, `NaN`.
pub(crate) fn number(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    if let Some(hexadecimal) = lower.strip_prefix("0x") {
        let digits = hexadecimal.strip_prefix('_').unwrap_or(hexadecimal);
        return whole(&apart(digits, 16)?, 16);
    }
    let bare = apart(&lower, 10)?;
    if bare.len() > 1 && bare.starts_with('0') && bare.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return whole(&bare, 8);
    }
    float(&lower)
}

/// A number as Go's `ParseFloat` reads it, which knows no octal ones: what is too large is none. Hexadecimal ones with an
/// exponent are not read.
pub(crate) fn float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let (sign, bare) = match lower.split_at_checked(1) {
        Some(("-", bare)) => (-1.0, bare),
        Some(("+", bare)) => (1.0, bare),
        _ => (1.0, lower.as_str()),
    };
    match bare {
        "inf" | "infinity" => return Some(sign * f64::INFINITY),
        "nan" if bare.len() == lower.len() => return Some(f64::NAN),
        _ => {}
    }
    if !bare.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let value: f64 = apart(bare, 10)?.parse().ok()?;
    value.is_finite().then_some(sign * value)
}

fn whole(digits: &str, radix: u32) -> Option<f64> {
    i64::from_str_radix(digits, radix).ok().map(|whole| whole as f64)
}

/// Without the underscores, which may stand between two digits only.
fn apart(text: &str, radix: u32) -> Option<String> {
    let mut bare = String::with_capacity(text.len());
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '_' {
            bare.push(letter);
        } else if !before.is_digit(radix) || !letters.peek().is_some_and(|next| next.is_digit(radix)) {
            return None;
        }
        before = letter;
    }
    Some(bare)
}
