//! Exact evaluation of a compiled rule over one event. Two-valued: a test of a field that an event does not have is
//! false, and its negation true.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::event::{Slot, Slots};
use super::rule::{Expr, Joint, Matcher, Names, Test, TimePart};
use super::text::Shape;

/// Matches that a finding names.
const SHOWN_MAX: usize = 16;

/// Whether a condition holds.
pub(crate) fn holds(expr: &Expr, slots: &Slots<'_>) -> bool {
    match expr {
        Expr::And(all) => all.iter().all(|expr| holds(expr, slots)),
        Expr::Or(any) => any.iter().any(|expr| holds(expr, slots)),
        Expr::AtLeast(count, of) => {
            let wanted = usize::try_from(*count).unwrap_or(usize::MAX);
            wanted == 0
                || of
                    .iter()
                    .filter(|expr| holds(expr, slots))
                    .nth(wanted.saturating_sub(1))
                    .is_some()
        }
        Expr::Not(expr) => !holds(expr, slots),
        Expr::Test(test) => met(test, slots),
    }
}

fn met(test: &Test, slots: &Slots<'_>) -> bool {
    match (&test.matcher, test.field) {
        (Matcher::Exists(wanted), Some(field)) => slots.of(field).next().is_some() == *wanted,
        (_, Some(field)) => slots.of(field).any(|slot| fits(&test.matcher, slot, slots)),
        (_, None) => slots.0.iter().any(|slot| fits(&test.matcher, slot, slots)),
    }
}

fn fits(matcher: &Matcher, slot: &Slot<'_>, slots: &Slots<'_>) -> bool {
    match matcher {
        Matcher::Text(pattern) => pattern.matches(slot.text, slot.folded()),
        Matcher::Regex(regex) => regex.is_match(slot.text),
        Matcher::Network(network) => network.holds(slot.text),
        Matcher::Compare(comparison, number) => {
            let value = slot
                .text
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|value| value.is_finite());
            value.is_some_and(|value| comparison.holds(value, *number))
        }
        Matcher::Exists(wanted) => *wanted,
        Matcher::Field { other, how, cased } => slots.of(*other).any(|other| {
            let (left, right) = if *cased {
                (slot.text, other.text)
            } else {
                (slot.folded(), other.folded())
            };
            match how {
                Joint::Equal => left == right,
                Joint::StartsWith => left.starts_with(right),
                Joint::EndsWith => left.ends_with(right),
                Joint::Contains => left.contains(right),
            }
        }),
        Matcher::Time(part, number) => time_part(slot.text, *part) == Some(*number),
    }
}

/// A part, in UTC, of a time in RFC 3339 or in seconds since 1970.
fn time_part(text: &str, part: TimePart) -> Option<i64> {
    let text = text.trim();
    let time = match text.parse::<f64>() {
        Ok(seconds) => Timestamp::UNIX_EPOCH
            .checked_add(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?)
            .ok()?
            .to_zoned(TimeZone::UTC),
        Err(_) => match text.parse::<Timestamp>() {
            Ok(time) => time.to_zoned(TimeZone::UTC),
            Err(_) => text
                .parse::<jiff::civil::DateTime>()
                .ok()?
                .to_zoned(TimeZone::UTC)
                .ok()?,
        },
    };
    Some(match part {
        TimePart::Minute => time.minute().into(),
        TimePart::Hour => time.hour().into(),
        TimePart::Day => time.day().into(),
        TimePart::Month => time.month().into(),
        TimePart::Year => time.year().into(),
        TimePart::Week => {
            let weekday = i64::from(time.weekday().to_monday_zero_offset());
            let day = i64::from(time.day_of_year()).saturating_sub(1);
            day.saturating_add(7).saturating_sub(weekday) / 7
        }
    })
}

/// A value that made a rule match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Field; empty for a keyword.
    pub field: String,
    /// Its value.
    pub value: String,
    /// What was looked for, in words.
    pub wanted: String,
}

/// What of an event made a condition hold.
pub(crate) fn matched(expr: &Expr, slots: &Slots<'_>, names: &Names) -> Vec<Matched> {
    let mut found = Vec::new();
    collect(expr, slots, names, &mut found);
    found
}

fn collect(expr: &Expr, slots: &Slots<'_>, names: &Names, found: &mut Vec<Matched>) {
    match expr {
        Expr::And(parts) | Expr::Or(parts) | Expr::AtLeast(_, parts) => {
            for part in parts {
                if found.len() < SHOWN_MAX && holds(part, slots) {
                    collect(part, slots, names, found);
                }
            }
        }
        Expr::Not(_) => {}
        Expr::Test(test) => {
            let mut all = slots.0.iter();
            let slot = all.find(|slot| {
                let here = test.field.is_none() || test.field == slot.field;
                here && fits(&test.matcher, slot, slots)
            });
            if let Some(slot) = slot.filter(|_| !matches!(test.matcher, Matcher::Exists(false))) {
                found.push(Matched {
                    field: slot
                        .field
                        .map_or_else(String::new, |field| names.name(field).to_owned()),
                    value: slot.text.to_owned(),
                    wanted: in_words(&test.matcher, names),
                });
            }
        }
    }
}

/// What is looked for, in words.
pub(crate) fn in_words(matcher: &Matcher, names: &Names) -> String {
    match matcher {
        Matcher::Text(pattern) => {
            let case = if pattern.cased { " (case counts)" } else { "" };
            match &pattern.shape {
                Shape::Any => "is there".to_owned(),
                Shape::Exact(text) => format!("is {text:?}{case}"),
                Shape::Prefix(text) => format!("begins with {text:?}{case}"),
                Shape::Suffix(text) => format!("ends with {text:?}{case}"),
                Shape::Contains(text) => format!("contains {text:?}{case}"),
                Shape::Glob(_) => format!("looks like {pattern}{case}"),
            }
        }
        Matcher::Regex(regex) => format!("matches the expression {}", regex.as_str()),
        Matcher::Network(network) => format!("is an address of {}/{}", network.first(), network.bits),
        Matcher::Compare(comparison, number) => format!("is {} {number}", comparison.sign()),
        Matcher::Exists(true) => "is there".to_owned(),
        Matcher::Exists(false) => "is absent".to_owned(),
        Matcher::Field { other, how, cased } => {
            let how = match how {
                Joint::Equal => "is what",
                Joint::StartsWith => "begins with what",
                Joint::EndsWith => "ends with what",
                Joint::Contains => "contains what",
            };
            let case = if *cased { " (case counts)" } else { "" };
            format!("{how} {} is{case}", names.name(*other))
        }
        Matcher::Time(part, number) => format!("has as its {} {number}", format!("{part:?}").to_lowercase()),
    }
}
