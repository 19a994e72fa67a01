//! Time, behind a trait, so that expiry and limits can be tested without waiting.

use fleetmend_event::TimeMicros;

/// Where the healer takes its time from.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> TimeMicros;
}

/// The system clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimeMicros {
        TimeMicros::now()
    }
}
