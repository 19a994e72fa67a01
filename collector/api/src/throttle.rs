//! Guessing passwords is slow.
//!
//! After some failures a source has to wait before it may try that user again, and after some more before it may try
//! anybody. A user as such is never locked: whoever knows a name could keep its owner out. Where many sources try one
//! user, every answer about that user comes a little later.
//!
//! A source is an address of IPv4, or a network of IPv6: a host there has as many addresses as it likes. Behind a
//! proxy everybody is one source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const WAIT_MAX: Duration = Duration::from_secs(300);
/// How much later an answer about a user comes whom many sources try.
const DELAY_MAX: Duration = Duration::from_secs(2);
const DELAY_STEP: Duration = Duration::from_millis(100);
/// Failures are forgotten after this long without another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);
/// Users and sources remembered; past that the one that failed longest ago is forgotten.
const ENTRIES_MAX: usize = 10_000;
/// Networks of IPv6 are given out in this size, in bits.
const NETWORK_BITS: u32 = 64;

/// What failures are counted against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// A source that tries a user.
    Pair(IpAddr, String),
    /// A source, whomever it tries.
    Source(IpAddr),
    /// A user, whoever tries.
    User(String),
}

impl Key {
    /// Failures that cost nothing: people mistype, and share addresses.
    const fn free_failures(&self) -> u32 {
        match self {
            Key::Pair(..) => 5,
            Key::Source(_) => 20,
            Key::User(_) => 30,
        }
    }
}

/// One try to log in.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    keys: Vec<Key>,
}

impl Try {
    /// `address` is absent only in tests that have no connection.
    pub(crate) fn new(user: &str, address: Option<IpAddr>) -> Self {
        let mut keys = vec![Key::User(user.to_owned())];
        if let Some(source) = address.map(source_of) {
            keys.push(Key::Pair(source, user.to_owned()));
            keys.push(Key::Source(source));
        }
        Self { keys }
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[derive(Default)]
pub(crate) struct LoginThrottle {
    failures: Mutex<HashMap<Key, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(&self, free: u32, now: Instant) -> Duration {
        let beyond = self.count.saturating_sub(free);
        if beyond == 0 {
            return Duration::ZERO;
        }
        let wait = Duration::from_secs(1_u64 << beyond.min(9)).min(WAIT_MAX);
        (self.last + wait).saturating_duration_since(now)
    }
}

impl LoginThrottle {
    /// How long the source still has to wait before this try is looked at.
    pub(crate) fn wait(&self, attempt: &Try, now: Instant) -> Duration {
        let failures = self.failures.lock();
        let of_source = attempt.keys.iter().filter(|key| !matches!(key, Key::User(_)));
        let waits = of_source.filter_map(|key| Some(failures.get(key)?.wait(key.free_failures(), now)));
        waits.max().unwrap_or(Duration::ZERO)
    }

    /// Counts a failure, and says how much later its answer has to come. Counted before the password is looked at, so
    /// that parallel tries count too.
    pub(crate) fn count(&self, attempt: &Try, now: Instant) -> Duration {
        let mut failures = self.failures.lock();
        if failures.len() + attempt.keys.len() > ENTRIES_MAX {
            failures.retain(|_, entry| now.saturating_duration_since(entry.last) < FORGOTTEN_AFTER);
        }
        let mut delay = Duration::ZERO;
        for key in &attempt.keys {
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
            if matches!(key, Key::User(_)) {
                let beyond = entry.count.saturating_sub(key.free_failures());
                delay = DELAY_STEP.saturating_mul(beyond).min(DELAY_MAX);
            }
        }
        delay
    }

    /// Forgets what a success shows to have been mistyped: this source's failures with this user. What it tried with
    /// others, and what others tried with the user, stays.
    pub(crate) fn succeed(&self, attempt: &Try) {
        let mut failures = self.failures.lock();
        for key in &attempt.keys {
            if matches!(key, Key::Pair(..)) {
                failures.remove(key);
            } else if let Some(entry) = failures.get_mut(key) {
                entry.count = entry.count.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str, user: &str) -> Try {
        Try::new(user, Some(address.parse().unwrap()))
    }

    #[test]
    fn waiting_begins_after_some_failures_and_ends_with_a_success() {
        let throttle = LoginThrottle::default();
        let (attempt, now) = (from("10.0.0.1", "a"), Instant::now());
        for _ in 0..5 {
            throttle.count(&attempt, now);
            assert_eq!(throttle.wait(&attempt, now), Duration::ZERO);
        }
        throttle.count(&attempt, now);
        assert_eq!(throttle.wait(&attempt, now), Duration::from_secs(2));
        assert_eq!(throttle.wait(&from("10.0.0.1", "b"), now), Duration::ZERO);
        assert_eq!(
            throttle.wait(&attempt, now + Duration::from_secs(2)),
            Duration::ZERO
        );
        throttle.succeed(&attempt);
        assert_eq!(throttle.wait(&attempt, now), Duration::ZERO);
        for _ in 0..100 {
            throttle.count(&attempt, now);
        }
        assert_eq!(throttle.wait(&attempt, now), WAIT_MAX);
        assert_eq!(
            throttle.wait(&from("10.0.0.1", "b"), now),
            WAIT_MAX,
            "the source waits with any user"
        );
    }

    #[test]
    fn nobody_is_locked_out_by_the_failures_of_others() {
        let throttle = LoginThrottle::default();
        let now = Instant::now();
        for number in 0..2_000_u32 {
            throttle.count(&Try::new("admin", Some(IpAddr::V4(number.into()))), now);
        }
        let owner = from("192.0.2.1", "admin");
        assert_eq!(throttle.wait(&owner, now), Duration::ZERO);
        assert_eq!(throttle.count(&owner, now), DELAY_MAX);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let throttle = LoginThrottle::default();
        let now = Instant::now();
        for number in 1..10 {
            throttle.count(&from(&format!("2001:db8::{number}"), "a"), now);
        }
        assert!(throttle.wait(&from("2001:db8::ffff", "a"), now) > Duration::ZERO);
        assert_eq!(throttle.wait(&from("2001:db8:1::1", "a"), now), Duration::ZERO);
        assert_eq!(
            source_of("::ffff:10.0.0.1".parse().unwrap()),
            IpAddr::from([10, 0, 0, 1])
        );
    }

    #[test]
    fn a_success_with_one_user_does_not_pay_for_guesses_at_another() {
        let throttle = LoginThrottle::default();
        let now = Instant::now();
        let (own, guess) = (from("10.0.0.1", "viewer"), from("10.0.0.1", "admin"));
        for _ in 0..8 {
            throttle.count(&guess, now);
            throttle.count(&own, now);
            throttle.succeed(&own);
        }
        assert!(throttle.wait(&guess, now) > Duration::ZERO);
    }
}
