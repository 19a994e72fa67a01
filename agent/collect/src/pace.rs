//! How much of its promise this room is asked to keep, while the agent is over its budget.
//!
//! The one who keeps the budget sets the pace, every source looks at it before it works: nothing is queued for
//! it, and no source waits. What a slower pace leaves out and somebody would have seen as a row is a gap with the
//! reason [`REASON`]; the source's probe is DEGRADED meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Reason of the gaps.
pub const REASON: &str = "budget";
/// How many times rarer processes are read and units are listed.
pub const UNHURRIED_TIMES: u32 = 6;
/// How many times rarer host metrics are sampled.
pub const THIN_TIMES: u32 = 10;

/// How much is collected; each leaves out what the one before does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pace {
    /// Everything, as configured.
    #[default]
    Full,
    /// Processes are read and units are listed [`UNHURRIED_TIMES`] times rarer.
    Unhurried,
    /// Host metrics are sampled [`THIN_TIMES`] times rarer.
    Thin,
    /// Of the kernel's events only executions become facts; forks, exits and connections are counted.
    Executions,
}

/// The pace; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct PaceHandle(Arc<AtomicU8>);

impl PaceHandle {
    /// Asks every source to keep this pace from now on.
    pub fn set(&self, pace: Pace) {
        self.0.store(pace as u8, Ordering::Relaxed);
    }

    /// The present pace.
    pub fn get(&self) -> Pace {
        match self.0.load(Ordering::Relaxed) {
            0 => Pace::Full,
            1 => Pace::Unhurried,
            2 => Pace::Thin,
            _ => Pace::Executions,
        }
    }

    /// How many times rarer processes and units are to be read now.
    pub(crate) fn inventory_times(&self) -> u32 {
        if self.get() >= Pace::Unhurried {
            UNHURRIED_TIMES
        } else {
            1
        }
    }

    /// How many times rarer host metrics are to be sampled now.
    pub(crate) fn metric_times(&self) -> u32 {
        if self.get() >= Pace::Thin { THIN_TIMES } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_keep_one_pace_and_each_leaves_out_what_the_one_before_does() {
        let handle = PaceHandle::default();
        let other = handle.clone();
        let mut times = Vec::new();
        for pace in [Pace::Full, Pace::Unhurried, Pace::Thin, Pace::Executions] {
            handle.set(pace);
            assert_eq!(other.get(), pace);
            times.push((other.inventory_times(), other.metric_times()));
        }
        assert_eq!(times, [(1, 1), (6, 1), (6, 10), (6, 10)]);
    }
}
