//! A line of a log file: its time, its host, who logged it, and the message.
//!
//! | form | example |
//! |---|---|
//! | RFC 3164 | `Jan  7 13:05:01 web1 sshd[812]: text` (no year, no zone: the nearest to now, in the host's zone) |
//! | RFC 3339 | `2026-01-07T13:05:01.123456+01:00 web1 sshd[812]: text` |
//! | RFC 5424 | `<38>1 2026-01-07T13:05:01Z web1 sshd 812 - - text` |
//! | nginx error | `2026/01/07 13:05:01 [error] 812#812: *1 text` |
//! | Apache error | `[Wed Jan 07 13:05:01.123456 2026] [core:error] [pid 812:tid 9] text` |
//!
//! A line that has none of these forms is kept whole, with the time at which it was read.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use fleetmend_event::TimeMicros;

/// Longest identifier; longer ones are no identifiers.
const IDENTIFIER_BYTES_MAX: usize = 64;
/// A time without a year may lie so far in the future before it is taken for last year's.
const FUTURE_MAX_US: i64 = 2 * 24 * 3_600 * 1_000_000;

/// What a line of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// When; `None` when the line does not say.
    pub time: Option<TimeMicros>,
    /// Who; `None` when the line does not say.
    pub identifier: Option<String>,
    /// Process id.
    pub pid: Option<u32>,
    /// Severity.
    pub priority: Option<u32>,
    /// Facility.
    pub facility: Option<u32>,
    /// The rest.
    pub message: String,
}

/// Takes a line apart. `now` decides the year where the line has none, `zone` what its hours mean.
pub fn parse(line: &str, now: TimeMicros, zone: &TimeZone) -> Parsed {
    let (code, rest) = priority(line);
    let mut parsed = rfc5424(rest)
        .filter(|_| code.is_some())
        .or_else(|| syslog(rest, now, zone))
        .or_else(|| nginx(rest, zone))
        .or_else(|| apache(rest, zone))
        .unwrap_or_else(|| Parsed {
            time: None,
            identifier: None,
            pid: None,
            priority: None,
            facility: None,
            message: rest.to_owned(),
        });
    if let Some(code) = code {
        parsed.priority = Some(code % 8);
        parsed.facility = Some(code / 8);
    }
    parsed
}

/// `<38>` before the line.
fn priority(line: &str) -> (Option<u32>, &str) {
    let found = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match found.and_then(|(code, rest)| Some((code.parse::<u32>().ok()?, rest))) {
        Some((code, rest)) if code < 192 => (Some(code), rest),
        _ => (None, line),
    }
}

fn rfc5424(line: &str) -> Option<Parsed> {
    let mut parts = line.strip_prefix("1 ")?.splitn(5, ' ');
    let time = instant(parts.next()?);
    let (_host, identifier, pid, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (_id, rest) = rest.split_once(' ')?;
    let message = without_data(rest)?;
    Some(Parsed {
        time,
        identifier: (identifier != "-")
            .then(|| identifier.to_owned())
            .and_then(bounded),
        pid: pid.parse().ok(),
        priority: None,
        facility: None,
        message: message.trim_start_matches('\u{feff}').to_owned(),
    })
}

/// What follows the structured data: `-`, or `[id key="value"]` any number of times, with `\]` and `\"` inside.
fn without_data(rest: &str) -> Option<&str> {
    if let Some(message) = rest.strip_prefix('-') {
        return Some(message.strip_prefix(' ').unwrap_or(message));
    }
    let mut quoted = false;
    let mut escaped = false;
    let mut depth = 0_u32;
    for (at, letter) in rest.char_indices() {
        match letter {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => return rest.get(at + 1..),
            _ => {}
        }
    }
    (depth == 0).then_some("")
}

/// RFC 3164 and RFC 3339 times, then `host tag[pid]: text`.
fn syslog(line: &str, now: TimeMicros, zone: &TimeZone) -> Option<Parsed> {
    let (time, rest) = match line
        .split_once(' ')
        .and_then(|(first, rest)| Some((instant(first)?, rest)))
    {
        Some(found) => found,
        None => (
            without_year(line.get(..15)?, now, zone)?,
            line.get(15..)?.strip_prefix(' ')?,
        ),
    };
    let (_host, rest) = rest.split_once(' ')?;
    let (identifier, pid, message) = tag(rest);
    Some(Parsed {
        time: Some(time),
        identifier,
        pid,
        priority: None,
        facility: None,
        message: message.to_owned(),
    })
}

/// `sshd[812]: text`, `kernel: text`, or text alone.
fn tag(rest: &str) -> (Option<String>, Option<u32>, &str) {
    let Some((tag, message)) = rest.split_once(": ") else {
        return match rest.strip_suffix(':') {
            Some(tag) if is_tag(tag) => (bounded(tag.to_owned()), None, ""),
            _ => (None, None, rest),
        };
    };
    if !is_tag(tag) {
        return (None, None, rest);
    }
    match tag.strip_suffix(']').and_then(|tag| tag.split_once('[')) {
        Some((name, pid)) if !name.is_empty() => (bounded(name.to_owned()), pid.parse().ok(), message),
        _ => (bounded(tag.to_owned()), None, message),
    }
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= IDENTIFIER_BYTES_MAX && !tag.contains(char::is_whitespace)
}

fn bounded(identifier: String) -> Option<String> {
    is_tag(&identifier).then_some(identifier)
}

fn nginx(line: &str, zone: &TimeZone) -> Option<Parsed> {
    let (date, rest) = (line.get(..19)?, line.get(19..)?.strip_prefix(" [")?);
    let time = civil("%Y/%m/%d %H:%M:%S", date, zone)?;
    let (level, rest) = rest.split_once("] ")?;
    let (process, message) = rest.split_once(": ").unwrap_or(("", rest));
    Some(Parsed {
        time: Some(time),
        identifier: Some("nginx".to_owned()),
        pid: process.split_once('#').and_then(|(pid, _)| pid.parse().ok()),
        priority: severity(level),
        facility: None,
        message: message.to_owned(),
    })
}

fn apache(line: &str, zone: &TimeZone) -> Option<Parsed> {
    let (date, rest) = line.strip_prefix('[')?.split_once("] ")?;
    let time = civil("%a %b %d %H:%M:%S%.f %Y", date, zone)?;
    let (level, mut message) = rest.strip_prefix('[')?.split_once("] ")?;
    let level = level.rsplit(':').next().unwrap_or(level);
    let mut pid = None;
    if let Some((process, rest)) = message
        .strip_prefix("[pid ")
        .and_then(|rest| rest.split_once("] "))
    {
        pid = process.split(':').next().and_then(|pid| pid.parse().ok());
        message = rest;
    }
    Some(Parsed {
        time: Some(time),
        identifier: Some("apache2".to_owned()),
        pid,
        priority: severity(level),
        facility: None,
        message: message.to_owned(),
    })
}

/// Words of web servers for what syslog numbers.
fn severity(word: &str) -> Option<u32> {
    Some(match word {
        "emerg" => 0,
        "alert" => 1,
        "crit" => 2,
        "error" => 3,
        "warn" => 4,
        "notice" => 5,
        "info" => 6,
        "debug" => 7,
        word if word.starts_with("trace") => 7,
        _ => return None,
    })
}

/// A time with its zone.
pub(super) fn instant(text: &str) -> Option<TimeMicros> {
    if !text.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    Some(TimeMicros(time.as_microsecond()))
}

fn civil(format: &str, text: &str, zone: &TimeZone) -> Option<TimeMicros> {
    let time = DateTime::strptime(format, text).ok()?;
    let time = time.to_zoned(zone.clone()).ok()?;
    Some(TimeMicros(time.timestamp().as_microsecond()))
}

/// `Jan  7 13:05:01`: of this year, or of the one before where that would lie in the future, or of the next where
/// the host's clock is still in the old one.
fn without_year(text: &str, now: TimeMicros, zone: &TimeZone) -> Option<TimeMicros> {
    let today: Zoned = Timestamp::from_microsecond(now.0).ok()?.to_zoned(zone.clone());
    let of_year = |year: i16| {
        let text = format!("{year} {text}");
        civil("%Y %b %e %H:%M:%S", &text, zone)
    };
    let near = |time: &TimeMicros| time.micros_since(now) <= FUTURE_MAX_US;
    let year = today.year();
    [year + 1, year, year - 1]
        .into_iter()
        .filter_map(of_year)
        .find(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> TimeMicros {
        instant("2026-01-07T13:05:01Z").unwrap()
    }

    fn of(line: &str) -> Parsed {
        parse(line, now(), &TimeZone::UTC)
    }

    fn at(text: &str) -> Option<TimeMicros> {
        Some(instant(text).unwrap())
    }

    #[test]
    fn each_form_is_taken_apart() {
        let cases = [
            (
                "Jan  7 13:05:01 web1 sshd[812]: Failed: x",
                "2026-01-07T13:05:01Z",
                "sshd",
                Some(812),
                None,
                "Failed: x",
            ),
            (
                "<38>Jan  7 13:05:01 web1 su: hello",
                "2026-01-07T13:05:01Z",
                "su",
                None,
                Some(6),
                "hello",
            ),
            (
                "2026-01-07T14:05:01.25+01:00 web1 CRON[9]: x",
                "2026-01-07T13:05:01.25Z",
                "CRON",
                Some(9),
                None,
                "x",
            ),
            (
                "<34>1 2026-01-07T13:05:01Z h su 7 ID47 - hi",
                "2026-01-07T13:05:01Z",
                "su",
                Some(7),
                Some(2),
                "hi",
            ),
            (
                "<34>1 2026-01-07T13:05:01Z h app - - [a@1 k=\"v\\\"] x\"][b] text [c]",
                "2026-01-07T13:05:01Z",
                "app",
                None,
                Some(2),
                "text [c]",
            ),
            (
                "2026/01/07 13:05:01 [error] 81#82: *1 open() failed",
                "2026-01-07T13:05:01Z",
                "nginx",
                Some(81),
                Some(3),
                "*1 open() failed",
            ),
            (
                "[Wed Jan 07 13:05:01.000500 2026] [core:error] [pid 81:tid 9] AH00: x",
                "2026-01-07T13:05:01.0005Z",
                "apache2",
                Some(81),
                Some(3),
                "AH00: x",
            ),
        ];
        for (line, time, identifier, pid, priority, message) in cases {
            let parsed = of(line);
            assert_eq!(parsed.time, at(time), "{line}");
            assert_eq!(parsed.identifier.as_deref(), Some(identifier), "{line}");
            assert_eq!((parsed.pid, parsed.priority), (pid, priority), "{line}");
            assert_eq!(parsed.message, message, "{line}");
        }
    }

    #[test]
    fn year_that_is_missing_is_the_nearest_past_one() {
        assert_eq!(of("Dec 31 23:59:59 h a: b").time, at("2025-12-31T23:59:59Z"));
        assert_eq!(of("Jan  8 01:00:00 h a: b").time, at("2026-01-08T01:00:00Z"));
        assert_eq!(of("Feb 29 01:00:00 h a: b").time, None, "no such day near");
        let december = instant("2025-12-31T23:59:58Z").unwrap();
        let parsed = parse("Jan  1 00:00:00 h a: b", december, &TimeZone::UTC);
        assert_eq!(
            parsed.time,
            at("2026-01-01T00:00:00Z"),
            "the log's clock is ahead"
        );
        let leap = instant("2028-03-01T00:00:00Z").unwrap();
        assert_eq!(
            parse("Feb 29 01:00:00 h a: b", leap, &TimeZone::UTC).time,
            at("2028-02-29T01:00:00Z")
        );
    }

    #[test]
    fn hours_without_a_zone_are_those_of_the_host() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(
            parse("Jan  7 13:05:01 h a: b", now(), &zone).time,
            at("2026-01-07T11:05:01Z")
        );
    }

    #[test]
    fn line_of_no_form_is_kept_whole() {
        for line in [
            "",
            " ",
            "<",
            "<999>x",
            "\tat java.lang",
            "Jan",
            "Jan  7 13:05",
            "ä".repeat(20).as_str(),
            "[a] b",
            "1 2 3",
        ] {
            let parsed = of(line);
            assert_eq!((parsed.time, parsed.message.as_str()), (None, line), "{line:?}");
        }
        assert_eq!(of("Jan  7 13:05:01 h no tag here").identifier, None);
        assert_eq!(of("Jan  7 13:05:01 h no tag here").message, "no tag here");
    }
}
