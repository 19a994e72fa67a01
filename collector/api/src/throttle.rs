//! Guessing passwords is slow: after some failures, of a user or from an address, the next try has to wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Failures that cost nothing: people mistype.
const FREE_FAILURES: u32 = 5;
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Failures are forgotten after this long without another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);
/// Users and addresses remembered; past that the one that failed longest ago is forgotten.
const ENTRIES_MAX: usize = 10_000;

#[derive(Default)]
pub(crate) struct LoginThrottle {
    failures: Mutex<HashMap<String, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(&self, now: Instant) -> Duration {
        let beyond = self.count.saturating_sub(FREE_FAILURES);
        if beyond == 0 {
            return Duration::ZERO;
        }
        let wait = Duration::from_secs(1_u64 << beyond.min(9)).min(WAIT_MAX);
        (self.last + wait).saturating_duration_since(now)
    }
}

impl LoginThrottle {
    /// How long any of these still has to wait.
    pub(crate) fn wait(&self, keys: &[String], now: Instant) -> Duration {
        let failures = self.failures.lock();
        let waits = keys
            .iter()
            .filter_map(|key| failures.get(key))
            .map(|entry| entry.wait(now));
        waits.max().unwrap_or(Duration::ZERO)
    }

    /// Counts a failure against each. Counted before the password is looked at, so that parallel tries count too.
    pub(crate) fn count(&self, keys: &[String], now: Instant) {
        let mut failures = self.failures.lock();
        if failures.len() + keys.len() > ENTRIES_MAX {
            failures.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGOTTEN_AFTER);
        }
        for key in keys {
            if failures.len() >= ENTRIES_MAX
                && !failures.contains_key(key)
                && let Some(oldest) = failures
                    .iter()
                    .min_by_key(|(_, entry)| entry.last)
                    .map(|(key, _)| key.clone())
            {
                failures.remove(&oldest);
                metrics::counter!(crate::metrics::FORGOTTEN).increment(1);
            }
            let entry = failures
                .entry(key.clone())
                .or_insert(Failures { count: 0, last: now });
            if now.saturating_duration_since(entry.last) >= FORGOTTEN_AFTER {
                entry.count = 0;
            }
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
    }

    /// Forgets their failures after a success.
    pub(crate) fn succeed(&self, keys: &[String]) {
        let mut failures = self.failures.lock();
        for key in keys {
            failures.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_begins_after_some_failures_and_ends_with_a_success() {
        let throttle = LoginThrottle::default();
        let (keys, now) = (
            [String::from("user:a"), String::from("address:1")],
            Instant::now(),
        );
        for _ in 0..FREE_FAILURES {
            throttle.count(&keys, now);
            assert_eq!(throttle.wait(&keys, now), Duration::ZERO);
        }
        throttle.count(&keys, now);
        assert_eq!(throttle.wait(&keys, now), Duration::from_secs(2));
        assert_eq!(
            throttle.wait(&keys[1..], now),
            Duration::from_secs(2),
            "the address waits with any user"
        );
        assert_eq!(throttle.wait(&keys, now + Duration::from_secs(2)), Duration::ZERO);
        for _ in 0..100 {
            throttle.count(&keys, now);
        }
        assert_eq!(throttle.wait(&keys, now), WAIT_MAX);
        throttle.succeed(&keys);
        assert_eq!(throttle.wait(&keys, now), Duration::ZERO);
    }
}
