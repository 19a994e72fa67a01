//! Token buckets, one per caller, in a bounded map.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

/// Callers remembered; past that, those whose bucket is full again are forgotten, then the one seen longest ago.
const CALLERS_MAX: usize = 20_000;

pub(crate) struct RateLimits {
    burst: f64,
    per_s: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    level: f64,
    seen: Instant,
}

/// What the headers of an answer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) allowed: bool,
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Seconds until the bucket is full.
    pub(crate) reset_s: u32,
    /// Seconds until one more request is allowed; 0 when it is now.
    pub(crate) retry_s: u32,
}

impl RateLimits {
    pub(crate) fn new(burst: u32, per_s: u32) -> Self {
        let (burst, per_s) = (f64::from(burst.max(1)), f64::from(per_s.max(1)));
        Self {
            burst,
            per_s,
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Takes one request out of the caller's bucket.
    pub(crate) fn take(&self, caller: &str, now: Instant) -> Allowance {
        let mut buckets = self.buckets.lock();
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(caller) {
            self.forget(&mut buckets, now);
        }
        let full = Bucket {
            level: self.burst,
            seen: now,
        };
        let bucket = buckets.entry(caller.to_owned()).or_insert(full);
        bucket.level = self.level(bucket, now);
        bucket.seen = now;
        let allowed = bucket.level >= 1.0;
        if allowed {
            bucket.level -= 1.0;
        }
        Allowance {
            allowed,
            limit: whole(self.burst),
            remaining: whole(bucket.level.floor()),
            reset_s: whole(((self.burst - bucket.level) / self.per_s).ceil()),
            retry_s: if allowed {
                0
            } else {
                whole(((1.0 - bucket.level) / self.per_s).ceil()).max(1)
            },
        }
    }

    fn level(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.seen).as_secs_f64();
        since.mul_add(self.per_s, bucket.level).min(self.burst)
    }

    fn forget(&self, buckets: &mut HashMap<String, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| self.level(bucket, now) < self.burst);
        if buckets.len() >= CALLERS_MAX
            && let Some(oldest) = buckets
                .iter()
                .min_by_key(|(_, bucket)| bucket.seen)
                .map(|(caller, _)| caller.clone())
        {
            buckets.remove(&oldest);
            metrics::counter!(crate::metrics::FORGOTTEN).increment(1);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of u32 first"
)]
fn whole(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_allowed_then_the_rate() {
        let limits = RateLimits::new(3, 2);
        let now = Instant::now();
        let taken: Vec<bool> = (0..4).map(|_| limits.take("a", now).allowed).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert_eq!(limits.take("a", now).retry_s, 1);
        assert!(limits.take("b", now).allowed, "callers do not share a bucket");
        let later = now + Duration::from_millis(600);
        assert!(limits.take("a", later).allowed);
        assert!(!limits.take("a", later).allowed);
    }

    #[test]
    fn the_map_is_bounded() {
        let limits = RateLimits::new(1, 1);
        let now = Instant::now();
        for caller in 0..CALLERS_MAX + 500 {
            limits.take(&caller.to_string(), now);
        }
        assert!(limits.buckets.lock().len() <= CALLERS_MAX);
    }
}
