//! The clocks that stamp frames and gap rows, and the source of epochs. A test sets them for its own thread.

use fleetmend_event::{SpoolEpoch, TimeMicros};

/// The system clock.
pub(crate) fn wall() -> TimeMicros {
    #[cfg(test)]
    if let Some(now) = fixed::now() {
        return now;
    }
    TimeMicros::now()
}

/// The boot clock, microseconds.
pub(crate) fn boot_micros() -> u64 {
    #[cfg(test)]
    if let Some(now) = fixed::now() {
        return u64::try_from(now.0).unwrap_or(0);
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (
        u64::try_from(now.tv_sec).unwrap_or(0),
        u64::try_from(now.tv_nsec).unwrap_or(0),
    );
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

/// An epoch that was never there before.
pub(crate) fn new_epoch() -> SpoolEpoch {
    #[cfg(test)]
    if let Some(epoch) = fixed::new_epoch() {
        return epoch;
    }
    SpoolEpoch::random()
}

/// A run of a test that is the same each time.
#[cfg(test)]
pub(crate) mod fixed {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<Option<i64>> = const { Cell::new(None) };
        static EPOCHS: Cell<u128> = const { Cell::new(0) };
    }

    /// Sets this thread's clock; epochs are counted from a seed.
    pub(crate) fn begin(seed: u64) {
        NOW.set(Some(1_800_000_000_000_000));
        EPOCHS.set(u128::from(seed) << 64);
    }

    /// Moves the clock on.
    pub(crate) fn advance(by: std::time::Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        NOW.set(NOW.get().map(|now| now.saturating_add(by)));
    }

    pub(super) fn now() -> Option<TimeMicros> {
        NOW.get().map(TimeMicros)
    }

    pub(super) fn new_epoch() -> Option<SpoolEpoch> {
        NOW.get()?;
        EPOCHS.set(EPOCHS.get().wrapping_add(1));
        Some(SpoolEpoch::from_bytes(EPOCHS.get().to_be_bytes()))
    }
}
