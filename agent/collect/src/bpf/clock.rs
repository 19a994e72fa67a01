//! The boot clock, and where it stands on the wall clock.

use fleetmend_event::TimeMicros;
use nix::time::{ClockId, clock_gettime};

/// A moment on both clocks. Taken anew every second, so that a wall clock that is set moves later facts only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootClock {
    boot_ns: u64,
    wall_us: i64,
}

impl BootClock {
    /// Both clocks now.
    pub fn now() -> Self {
        Self {
            boot_ns: boot_now_ns(),
            wall_us: TimeMicros::now().0,
        }
    }

    /// Nanoseconds since the boot, suspended time counted.
    pub const fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    /// The wall time of a moment of the boot clock.
    pub fn time_of(&self, boot_ns: u64) -> TimeMicros {
        let micros = |ns: u64| i64::try_from(ns / 1_000).unwrap_or(i64::MAX);
        TimeMicros(
            self.wall_us
                .saturating_add(micros(boot_ns).saturating_sub(micros(self.boot_ns))),
        )
    }
}

fn boot_now_ns() -> u64 {
    // The clock exists on every kernel that has BPF rings; where it did not, times would show as the epoch.
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return 0;
    };
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec())
        .saturating_mul(1_000_000_000)
        .saturating_add(part(now.tv_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_the_boot_clock_both_ways() {
        let clock = BootClock {
            boot_ns: 5_000_000_000,
            wall_us: 1_700_000_000_000_000,
        };
        assert_eq!(clock.time_of(5_000_000_000), TimeMicros(1_700_000_000_000_000));
        assert_eq!(clock.time_of(5_001_000_000), TimeMicros(1_700_000_000_001_000));
        assert_eq!(clock.time_of(4_000_000_000), TimeMicros(1_699_999_999_000_000));
    }
}
