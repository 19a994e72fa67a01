//! One true time, and clocks that differ from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_identity::time::Clocks;

pub(crate) const HOUR: i64 = 3_600_000_000;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The true time, in µs since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Truth(Arc<AtomicI64>);

impl Truth {
    pub(crate) fn starting(at: TimeMicros) -> Self {
        Self(Arc::new(AtomicI64::new(at.0)))
    }

    pub(crate) fn now(&self) -> TimeMicros {
        TimeMicros(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, now: TimeMicros) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// The clocks of a machine that boots now; `offset` is how wrong its wall clock is, and may change.
    pub(crate) fn machine(&self, offset: &Arc<AtomicI64>) -> Machine {
        Machine {
            truth: self.clone(),
            offset: offset.clone(),
            booted: self.now(),
        }
    }
}

/// The clocks of one machine from one boot to the next.
#[derive(Debug)]
pub(crate) struct Machine {
    truth: Truth,
    offset: Arc<AtomicI64>,
    booted: TimeMicros,
}

impl Clocks for Machine {
    fn wall(&self) -> TimeMicros {
        self.truth.now().plus_micros(self.offset.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        let passed = self.truth.now().micros_since(self.booted);
        Duration::from_micros(passed.unsigned_abs())
    }

    fn boot_id(&self) -> String {
        self.booted.0.to_string()
    }
}

/// A folder in memory where there is one: what is synced here outlives no power cut anyway.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}
