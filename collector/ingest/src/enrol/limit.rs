//! Holds off sources that are refused again and again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Refusal;

const WINDOW: Duration = Duration::from_mins(1);
/// Sources that are remembered. When there are more, those of past minutes are forgotten, then no new one is
/// counted: an attacker with that many addresses is not stopped by counting addresses.
const SOURCES_MAX: usize = 10_000;

/// Counts refusals per source and minute.
#[derive(Debug)]
pub(super) struct RefusalLimiter {
    per_minute: u32,
    sources: Mutex<HashMap<IpAddr, (Duration, u32)>>,
}

impl RefusalLimiter {
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            sources: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the source is listened to `now`, a time since boot.
    pub(super) fn check_at(&self, source: IpAddr, now: Duration) -> Result<(), Refusal> {
        let source = holder(source);
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get(&source) {
            Some((begun, count)) if now.saturating_sub(*begun) < WINDOW && *count >= self.per_minute => {
                Err(Refusal::TooMany)
            }
            _ => Ok(()),
        }
    }

    /// Counts one refusal.
    pub(super) fn refused_at(&self, source: IpAddr, now: Duration) {
        let source = holder(source);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES_MAX && !sources.contains_key(&source) {
            sources.retain(|_, (begun, _)| now.saturating_sub(*begun) < WINDOW);
            if sources.len() >= SOURCES_MAX {
                return;
            }
        }
        let entry = sources.entry(source).or_insert((now, 0));
        if now.saturating_sub(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(1);
    }
}

/// Who holds an address: whoever has one of IPv6 has the 2^64 of its network, and IPv4 may come mapped into IPv6.
fn holder(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_held_off_alone_and_until_its_minute_ends() {
        let limiter = RefusalLimiter::new(3);
        let (bad, good): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let now = Duration::ZERO;
        for _ in 0..3 {
            limiter.check_at(bad, now).unwrap();
            limiter.refused_at(bad, now);
        }
        assert!(matches!(limiter.check_at(bad, now), Err(Refusal::TooMany)));
        limiter.check_at(good, now).unwrap();
        limiter.check_at(bad, now + WINDOW).unwrap();
    }

    #[test]
    fn neighbours_in_an_ipv6_network_are_one_source() {
        let limiter = RefusalLimiter::new(1);
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        limiter.refused_at(of("2001:db8:0:1::1"), Duration::ZERO);
        assert!(
            limiter
                .check_at(of("2001:db8:0:1:ffff::2"), Duration::ZERO)
                .is_err()
        );
        limiter.check_at(of("2001:db8:0:2::1"), Duration::ZERO).unwrap();
        limiter.refused_at(of("::ffff:10.0.0.1"), Duration::ZERO);
        assert!(limiter.check_at(of("10.0.0.1"), Duration::ZERO).is_err());
        limiter.check_at(of("10.0.0.2"), Duration::ZERO).unwrap();
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let limiter = RefusalLimiter::new(1);
        let now = Duration::ZERO;
        for number in 0..20_000_u32 {
            limiter.refused_at(IpAddr::V4(number.into()), now);
        }
        assert_eq!(limiter.sources.lock().unwrap().len(), SOURCES_MAX);
        limiter.refused_at("::1".parse().unwrap(), now + WINDOW);
        assert_eq!(limiter.sources.lock().unwrap().len(), 1);
    }
}
