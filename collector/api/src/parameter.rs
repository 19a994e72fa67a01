//! Query parameters, parsed once into what they mean.

use fleetmend_event::{TimeMicros, tables};

use crate::problem::Problem;

/// A moment: RFC 3339, milliseconds since 1970, `now`, or an offset such as `-15m`.
pub(crate) fn time(
    field: &'static str,
    text: Option<&str>,
    default: &str,
    now: TimeMicros,
) -> Result<TimeMicros, Problem> {
    let text = text
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .unwrap_or(default);
    parse_time(text, now).ok_or_else(|| {
        let wanted =
            "is not a time: RFC 3339 such as 2026-01-02T03:04:05Z, milliseconds since 1970, now, or -15m";
        Problem::field(field, wanted)
    })
}

fn parse_time(text: &str, now: TimeMicros) -> Option<TimeMicros> {
    if text == "now" {
        return Some(now);
    }
    let offset = text
        .strip_prefix('-')
        .filter(|offset| offset.ends_with(|char: char| char.is_alphabetic()));
    if let Some(offset) = offset {
        // A last character of several bytes is no unit.
        let (number, unit) = offset.split_at_checked(offset.len().checked_sub(1)?)?;
        let seconds: i64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        let micros = number
            .parse::<u32>()
            .ok()
            .map(i64::from)?
            .checked_mul(seconds)?
            .checked_mul(1_000_000)?;
        return Some(now.plus_micros(micros.checked_neg()?));
    }
    if let Ok(millis) = text.parse::<i64>() {
        return in_range(TimeMicros(millis.checked_mul(1_000)?));
    }
    // In a query a plus that was not escaped arrives as a space.
    let stamp = text.replace(' ', "+").parse::<jiff::Timestamp>().ok()?;
    in_range(TimeMicros(stamp.as_microsecond()))
}

/// Years 1970 to 2262: what fits the nanoseconds the engine counts in.
fn in_range(time: TimeMicros) -> Option<TimeMicros> {
    (0..=i64::MAX / 1_000).contains(&time.0).then_some(time)
}

/// A number between two limits, or the default.
pub(crate) fn limit(
    field: &'static str,
    value: Option<usize>,
    default: usize,
    max: usize,
) -> Result<usize, Problem> {
    within(field, value, default, 1..=max)
}

/// A number of a range, or the default.
pub(crate) fn within(
    field: &'static str,
    value: Option<usize>,
    default: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, Problem> {
    let value = value.unwrap_or(default);
    if range.contains(&value) {
        Ok(value)
    } else {
        let (min, max) = (range.start(), range.end());
        Err(Problem::field(field, format!("has to be {min} to {max}")))
    }
}

/// A table that facts are kept in.
pub(crate) fn table(field: &'static str, name: &str) -> Result<&'static str, Problem> {
    let known = || tables().iter().map(|table| table.name);
    known().find(|table| *table == name).ok_or_else(|| {
        let all: Vec<&str> = known().collect();
        let name: String = name.chars().take(64).collect();
        Problem::field(
            field,
            format!("there is no table {name}; the tables are {}", all.join(", ")),
        )
    })
}

/// An id or a word of a vocabulary.
pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<T, Problem> {
    text.parse()
        .map_err(|error: T::Err| Problem::field(field, error.to_string()))
}

/// The same, where it may be left out or empty.
pub(crate) fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    text.filter(|text| !text.is_empty())
        .map(|text| parse(field, text))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_way_the_contract_names() {
        let now = TimeMicros(1_700_000_000_000_000);
        let read = |text: &str| parse_time(text, now).map(|time| time.0);
        assert_eq!(read("now"), Some(now.0));
        assert_eq!(read("-15m"), Some(now.0 - 900_000_000));
        assert_eq!(read("1700000000000"), Some(now.0));
        assert_eq!(read("2023-11-14T22:13:20Z"), Some(now.0));
        assert_eq!(read("2023-11-14T23:13:20 01:00"), Some(now.0));
        for wrong in [
            "",
            "-",
            "-m",
            "-5y",
            "-99999999999d",
            "yesterday",
            "-5é",
            "9223372036854775807",
            "é",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
