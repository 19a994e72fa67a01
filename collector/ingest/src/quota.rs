//! How much a host may send: bytes and rows a second, each with a burst.
//!
//! What a host sent is stored and acknowledged in any case; a host that is over its quota is then not read for as
//! long as it takes to be within it again, and gets no credit meanwhile. The level stays when it connects again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fleetmend_event::HostId;
use parking_lot::Mutex;

/// Hosts whose level is remembered; one that is forgotten begins with a full burst.
const HOSTS_MAX: usize = 100_000;
/// How often a host that stays over its quota is named.
const NAMED_EVERY: Duration = Duration::from_mins(1);

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuotaLimits {
    pub(crate) bytes_per_s: u32,
    pub(crate) rows_per_s: u32,
    /// A host that sent nothing for so long may send that much at once.
    pub(crate) burst: Duration,
}

/// What of the quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Bytes,
    Rows,
}

impl Excess {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Excess::Bytes => "quota_bytes",
            Excess::Rows => "quota_rows",
        }
    }
}

/// A host is over its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) excess: Excess,
    /// Until it is within it again.
    pub(crate) wait: Duration,
    /// Whether it has not been named for a while.
    pub(crate) name_it: bool,
}

/// The levels of all hosts.
#[derive(Debug)]
pub(crate) struct Quotas {
    limits: QuotaLimits,
    hosts: Mutex<HashMap<HostId, Level>>,
}

/// Tokens that are left; below zero by at most one message.
#[derive(Debug, Clone, Copy)]
struct Level {
    bytes: f64,
    rows: f64,
    at: Instant,
    named: Option<Instant>,
}

impl Quotas {
    pub(crate) fn new(limits: QuotaLimits) -> Self {
        Self {
            limits,
            hosts: Mutex::new(HashMap::new()),
        }
    }

    /// Counts what a host sent; says when that was too much.
    pub(crate) fn charge(&self, host: HostId, bytes: u64, rows: u64, now: Instant) -> Option<Over> {
        let full = self.full(now);
        let mut hosts = self.hosts.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
            hosts.retain(|_, level| now.saturating_duration_since(level.at) < self.limits.burst);
            if hosts.len() >= HOSTS_MAX {
                hosts.clear();
            }
        }
        let level = hosts.entry(host).or_insert(full);
        let passed = now.saturating_duration_since(level.at).as_secs_f64();
        let refill = |level: f64, per_s: u32, most: f64| (level + passed * f64::from(per_s)).min(most);
        level.bytes = refill(level.bytes, self.limits.bytes_per_s, full.bytes) - float(bytes);
        level.rows = refill(level.rows, self.limits.rows_per_s, full.rows) - float(rows);
        level.at = now;
        let debt = |level: f64, per_s: u32| (-level).max(0.0) / f64::from(per_s.max(1));
        let (of_bytes, of_rows) = (
            debt(level.bytes, self.limits.bytes_per_s),
            debt(level.rows, self.limits.rows_per_s),
        );
        let (excess, seconds) = if of_bytes >= of_rows {
            (Excess::Bytes, of_bytes)
        } else {
            (Excess::Rows, of_rows)
        };
        if seconds <= 0.0 {
            return None;
        }
        let name_it = level
            .named
            .is_none_or(|named| now.saturating_duration_since(named) >= NAMED_EVERY);
        if name_it {
            level.named = Some(now);
        }
        Some(Over {
            excess,
            wait: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            name_it,
        })
    }

    fn full(&self, now: Instant) -> Level {
        let burst = self.limits.burst.as_secs_f64();
        Level {
            bytes: f64::from(self.limits.bytes_per_s) * burst,
            rows: f64::from(self.limits.rows_per_s) * burst,
            at: now,
            named: None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate, not an account")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuotaLimits = QuotaLimits {
        bytes_per_s: 1_000,
        rows_per_s: 10,
        burst: Duration::from_secs(2),
    };

    #[test]
    fn host_is_held_for_what_it_sent_too_much_and_named_once() {
        let (quotas, host, now) = (Quotas::new(LIMITS), HostId::random(), Instant::now());
        assert_eq!(quotas.charge(host, 2_000, 1, now), None, "the burst");
        let over = quotas.charge(host, 500, 1, now).unwrap();
        assert_eq!(
            (over.excess, over.wait),
            (Excess::Bytes, Duration::from_millis(500))
        );
        assert!(over.name_it);
        let later = now + Duration::from_millis(500);
        assert_eq!(quotas.charge(host, 0, 0, later), None, "within it again");
        let over = quotas.charge(host, 0, 60, later).unwrap();
        assert_eq!(over.excess, Excess::Rows);
        assert!(!over.name_it, "named a moment ago");
        let again = quotas.charge(host, 0, 60, now + NAMED_EVERY).unwrap();
        assert!(again.name_it);
        assert_eq!(
            quotas.charge(HostId::random(), 500, 1, now),
            None,
            "others are others"
        );
    }

    #[test]
    fn remembered_hosts_are_bounded() {
        let (quotas, now) = (Quotas::new(LIMITS), Instant::now());
        for _ in 0..=HOSTS_MAX {
            quotas.charge(HostId::random(), 1, 1, now);
        }
        assert!(quotas.hosts.lock().len() <= HOSTS_MAX);
    }
}
