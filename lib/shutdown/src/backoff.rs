use std::time::Duration;

use rand::Rng;

/// Exponential back-off with full jitter: each wait is uniform in `0..=min(ceiling, base * 2^attempt)`.
///
/// Full jitter spreads a fleet that lost the same peer at the same moment best (AWS Architecture Blog,
/// "Exponential Backoff And Jitter").
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    ceiling: Duration,
    attempt: u32,
}

impl Backoff {
    /// A back-off that has not failed yet.
    pub fn new(base: Duration, ceiling: Duration) -> Self {
        Self {
            base,
            ceiling,
            attempt: 0,
        }
    }

    /// The next wait; the one after it may be twice as long.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.attempt))
            .min(self.ceiling);
        self.attempt = self.attempt.saturating_add(1);
        rand::rng().random_range(Duration::ZERO..=bound)
    }

    /// How many waits were handed out since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Forget the failures: it worked again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}
