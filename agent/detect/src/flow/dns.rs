//! Names that were asked for, as a resolver on this host logs them.
//!
//! There is no table of name lookups; what there is are the logs of dnsmasq (`log-queries`), unbound (`log-queries`,
//! `log-replies`) and BIND (query log), which `log_records` carries where they are collected. Hosts without such a
//! resolver have no detection of names.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use fleetmend_event::table::{LogRecord, Severity, SubjectKind};
use serde_json::json;

use super::ADDRESSES_MAX;
use super::pattern::Distinct;
use crate::behaviour::{Detection, Raise, Sign, Told, declare};
use crate::recent::Recent;
use crate::tracker::Subject;

declare! {
    NXDOMAIN = "dns-nxdomain-burst" ["T1568.002"] ["command-and-control"] false;
    TUNNEL = "dns-tunnel" ["T1071.004", "T1048.003"] ["command-and-control", "exfiltration"] false;
    FLUX = "dns-fast-flux" ["T1568.001"] ["command-and-control"] false;
}

const MINUTE_NS: u64 = 60_000_000_000;
/// Names that do not exist, within a minute.
const MISSING: usize = 10;
/// Names of one domain that look like data, within five minutes.
const CODED: usize = 20;
/// TXT records asked for below one domain, within five minutes.
const TEXTS: usize = 20;
/// Networks that one name leads to, within an hour.
const NETWORKS: usize = 15;
/// A label of at least this length and entropy, in bits a letter, looks like data.
const LABEL_LEN: usize = 24;
const LABEL_BITS: f64 = 3.3;

/// What a line tells.
enum Line<'a> {
    Asked {
        name: &'a str,
        kind: &'a str,
        by: Option<&'a str>,
    },
    Missing {
        name: &'a str,
        by: Option<&'a str>,
    },
    Answered {
        name: &'a str,
        address: IpAddr,
    },
}

/// See the module.
pub(super) struct Names {
    missing: Recent<u64, Distinct<u64>>,
    coded: Recent<u64, Distinct<u64>>,
    texts: Recent<u64, Distinct<u64>>,
    networks: Recent<u64, Distinct<u64>>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            missing: Recent::new("askers of missing names", ADDRESSES_MAX / 4),
            coded: Recent::new("domains of coded names", ADDRESSES_MAX),
            texts: Recent::new("domains of texts", ADDRESSES_MAX),
            networks: Recent::new("names with addresses", ADDRESSES_MAX),
        }
    }
}

impl Names {
    pub(super) fn log(&mut self, row: &LogRecord, raise: &mut Raise<'_>) {
        let Some(line) = parse(&row.identifier, &row.message) else {
            return;
        };
        let now = u64::try_from(row.time.0).unwrap_or(0).saturating_mul(1_000);
        match line {
            Line::Asked { name, kind, by } => self.asked(row, name, kind, by, now, raise),
            Line::Missing { name, by } => self.missing(row, name, by, now, raise),
            Line::Answered { name, address } => self.answered(row, name, address, now, raise),
        }
    }

    fn asked(
        &mut self,
        row: &LogRecord,
        name: &str,
        kind: &str,
        by: Option<&str>,
        now: u64,
        raise: &mut Raise<'_>,
    ) {
        let domain = domain(name);
        let mut count = 0;
        if let Some(data) = coded(name, domain) {
            let names = self.coded.touch(hash(domain), Distinct::default);
            names.note(data, now, false);
            count = names.within(now, 5 * MINUTE_NS).all;
        }
        let mut limit = CODED;
        // Mail servers ask for the texts of many domains, and for few of each.
        if count < CODED && matches!(kind, "TXT" | "NULL") {
            let texts = self.texts.touch(hash(domain), Distinct::default);
            texts.note(hash(name), now, false);
            count = texts.within(now, 5 * MINUTE_NS).all;
            limit = TEXTS;
        }
        if count >= limit {
            let title = format!(
                "{count} names below {domain} that look like data were asked for within five minutes"
            );
            tell(
                row,
                &TUNNEL,
                Severity::Medium,
                by.unwrap_or(domain),
                title,
                count,
                limit,
                raise,
            );
        }
    }

    fn missing(&mut self, row: &LogRecord, name: &str, by: Option<&str>, now: u64, raise: &mut Raise<'_>) {
        // Search lists and reverse lookups fail by the dozen.
        let everyday = [".arpa", ".local", ".lan", ".internal", ".home", ".localdomain"];
        if !name.contains('.') || everyday.iter().any(|end| name.ends_with(end)) {
            return;
        }
        let names = self
            .missing
            .touch(hash(by.unwrap_or_default()), Distinct::default);
        names.note(hash(name), now, false);
        let count = names.within(now, MINUTE_NS).all;
        if count >= MISSING {
            let title =
                format!("{count} names that do not exist were asked for within a minute, such as {name}");
            tell(
                row,
                &NXDOMAIN,
                Severity::Low,
                by.unwrap_or("all clients"),
                title,
                count,
                MISSING,
                raise,
            );
        }
    }

    fn answered(&mut self, row: &LogRecord, name: &str, address: IpAddr, now: u64, raise: &mut Raise<'_>) {
        let network = match address {
            IpAddr::V4(four) => u64::from(u32::from(four) >> 16),
            IpAddr::V6(six) => six
                .segments()
                .iter()
                .take(2)
                .fold(1, |sum, part| (sum << 16) | u64::from(*part)),
        };
        let networks = self.networks.touch(hash(name), Distinct::default);
        networks.note(network, now, false);
        let count = networks.within(now, 60 * MINUTE_NS).all;
        if count >= NETWORKS {
            let title = format!("{name} led to addresses in {count} networks within an hour");
            tell(row, &FLUX, Severity::Low, name, title, count, NETWORKS, raise);
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "a row, what it means, and where it goes"
)]
fn tell(
    row: &LogRecord,
    what: &'static Detection,
    severity: Severity,
    subject: &str,
    title: String,
    count: usize,
    limit: usize,
    raise: &mut Raise<'_>,
) {
    let sign = Sign {
        what,
        severity,
        time: row.time,
        subject: Subject::named(SubjectKind::Address, subject),
        who: None,
        ppid: None,
    };
    raise.sign(sign, || Told {
        title,
        factors: vec![("dns.names", json!(count), json!(limit))],
        evidence: json!({"log_records": row}),
    });
}

fn parse<'a>(identifier: &str, message: &'a str) -> Option<Line<'a>> {
    match identifier {
        "dnsmasq" => dnsmasq(message),
        "unbound" => unbound(message),
        "named" | "bind9" => named(message),
        _ => None,
    }
}

/// `query[A] name from client`, `reply name is NXDOMAIN`, `reply name is 192.0.2.1`; with `log-queries=extra` a number
/// and the client come first.
fn dnsmasq(message: &str) -> Option<Line<'_>> {
    let words: Vec<&str> = message.split_whitespace().take(9).collect();
    let at = words
        .iter()
        .position(|word| word.starts_with("query[") || matches!(*word, "reply" | "cached" | "config"))?;
    let asker = at
        .checked_sub(1)
        .and_then(|before| words.get(before))
        .and_then(|word| word.split('/').next());
    let name = words.get(at + 1)?;
    match (
        words.get(at)?.strip_prefix("query["),
        *words.get(at + 2)?,
        words.get(at + 3)?,
    ) {
        (Some(kind), "from", by) => Some(Line::Asked {
            name,
            kind: kind.trim_end_matches(']'),
            by: Some(by),
        }),
        (None, "is", &"NXDOMAIN") => Some(Line::Missing { name, by: asker }),
        (None, "is", answer) => answer
            .parse()
            .ok()
            .map(|address| Line::Answered { name, address }),
        _ => None,
    }
}

/// `info: client name. TYPE IN`, and for a reply its code after that.
fn unbound(message: &str) -> Option<Line<'_>> {
    let mut words = message.split_once("info: ")?.1.split_whitespace();
    let by = words.next().filter(|word| word.parse::<IpAddr>().is_ok())?;
    let (name, kind) = (words.next()?.trim_end_matches('.'), words.next()?);
    words.next().filter(|word| *word == "IN")?;
    match words.next() {
        None => Some(Line::Asked {
            name,
            kind,
            by: Some(by),
        }),
        Some("NXDOMAIN") => Some(Line::Missing { name, by: Some(by) }),
        Some(_) => None,
    }
}

/// `client @0x1 192.0.2.1#5000 (name): query: name IN TYPE + (..)`.
fn named(message: &str) -> Option<Line<'_>> {
    let (client, query) = message.split_once(": query: ")?;
    let by = client
        .split_whitespace()
        .find_map(|word| word.split_once('#').map(|(address, _)| address));
    let mut words = query.split_whitespace();
    let name = words.next()?;
    words.next().filter(|word| *word == "IN")?;
    Some(Line::Asked {
        name,
        kind: words.next()?,
        by,
    })
}

/// The last two labels: near enough to who owns the names.
fn domain(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    dots.nth(1).and_then(|at| name.get(at + 1..)).unwrap_or(name)
}

/// What of a name looks like data, as one number. A key that is part of every question, as lists of mail servers have
/// it, is the same one each time.
fn coded(name: &str, domain: &str) -> Option<u64> {
    let below = name.strip_suffix(domain).unwrap_or_default();
    let mut labels = below
        .split('.')
        .filter(|label| label.len() >= LABEL_LEN && entropy(label) >= LABEL_BITS)
        .peekable();
    labels.peek()?;
    let mut hasher = DefaultHasher::new();
    labels.for_each(|label| label.hash(&mut hasher));
    Some(hasher.finish())
}

/// Bits a letter.
fn entropy(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in text.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    let all = text.len().max(1) as f64;
    let share = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / all);
    -share.map(|share| share * share.log2()).sum::<f64>()
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
