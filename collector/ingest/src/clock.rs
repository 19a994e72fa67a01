//! Clock: how a host's clocks stand to the collector's.
//!
//! A host's wall clock may be wrong, and may be set at any time; its boot clock only runs. Every heartbeat says what
//! both show. It arrives after it was sent, so that reception less boot clock is never less than the moment, by the
//! collector's clock, at which the boot clock stood at zero; the least of many such differences is near it, however
//! slow the way of most heartbeats was. With it the frames tell the rest: each carries both clocks as they were when
//! it was made, and so how much the wall clock was ahead *then*, whatever was done to it since.
//!
//! A frame does not say in which boot it was made. It is of the boot in which the host's wall clock, less its boot
//! clock, was the same; boots and settings of the clock are remembered for this. Of one that fits to none, its boot
//! clock is believed, unless by a clock that went on as it was the frame was made before the present boot: then it
//! comes from a boot that nobody here heard of.
//!
//! An estimate by which a frame waited for more than a month is none: the collector's own clock was set forward and
//! the window still has heartbeats of before, or the boot is an unheard one with another clock. Rows of a clock that
//! nobody knows are as old as their reception, and are kept.
//!
//! A frame in whose time the clock was set has rows of both settings, and counts as made in the later one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::{Frame, TimeMicros};
use parking_lot::Mutex;

/// Boots of a host that are remembered.
const BOOTS_MAX: usize = 4;
/// Settings of the wall clock that are remembered of each boot.
const SETTINGS_MAX: usize = 8;
/// Settings that differ by less are one: clocks are slewed, and frames of one second are stamped one by one.
const SAME_SETTING_US: i64 = 1_000_000;
/// The least difference is sought among heartbeats so long: a boot clock that runs wrong by 100 µs/s is off by 60 ms.
const WINDOW: Duration = Duration::from_mins(10);
/// Differences that may still become the least one; further ones are left out.
const LEAST_MAX: usize = 64;
/// How long a frame may have waited that comes from an unheard boot: longer than any spool holds.
const WAITED_MAX_US: i64 = 30 * 24 * 3_600 * 1_000_000;
/// What is told of a clock is rounded to this: the way takes longer than a clock is read exactly.
const GRAIN_US: i64 = 1_000;
/// What was told is told again while it is not further off: a column that does not change takes no room.
const STEADY_US: i64 = 20_000;

/// Name of a boot, as a hello says it.
type BootId = Vec<u8>;

/// What a host's heartbeats said; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostClock(Arc<Mutex<Boots>>);

/// The clock of one stream's host: the boot that its hello named.
#[derive(Debug, Clone)]
pub(crate) struct StreamClock {
    host: HostClock,
    boot: BootId,
}

#[derive(Debug, Default)]
struct Boots {
    /// The latest last.
    heard: VecDeque<Boot>,
}

#[derive(Debug)]
struct Boot {
    id: BootId,
    /// Reception less boot clock, rising with the time of reception: the first is the least.
    least: VecDeque<(Instant, i64)>,
    /// The latest last.
    settings: VecDeque<Setting>,
}

/// What a wall clock was set to.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Wall clock less boot clock.
    wall_at_zero: i64,
    /// How much ahead that was said to be.
    told: i64,
}

impl HostClock {
    /// As a stream of the boot `id` sees it.
    pub(crate) fn of_boot(&self, id: &[u8]) -> StreamClock {
        StreamClock {
            host: self.clone(),
            boot: id.to_vec(),
        }
    }
}

impl StreamClock {
    /// A heartbeat showed both clocks at `received`; how much the wall clock is ahead, in microseconds.
    pub(crate) fn heard(&self, wall: TimeMicros, boot_us: u64, received: TimeMicros, at: Instant) -> i64 {
        let shown = micros(boot_us);
        let mut boots = self.host.0.lock();
        let boot = boots.of(&self.boot);
        let zero = boot.note(received.0.saturating_sub(shown), at);
        boot.set_to(wall.0.saturating_sub(shown), zero)
    }

    /// How much the clock that stamped a frame was ahead when it did, in microseconds; `None` before any heartbeat, and
    /// where it would say that the frame waited longer than any does.
    pub(crate) fn ahead_of(&self, frame: &Frame, received: TimeMicros) -> Option<i64> {
        let boots = self.host.0.lock();
        let made = frame.made_at;
        let ahead = boots.ahead(&self.boot, made, micros(frame.made_boot_us), received)?;
        // By an estimate that is off a frame would have to go as too old the moment that it came.
        let waited = received.0.saturating_sub(made.0.saturating_sub(ahead));
        (waited <= WAITED_MAX_US).then_some(ahead)
    }
}

impl Boots {
    fn of(&mut self, id: &[u8]) -> &mut Boot {
        let held = self.heard.iter().position(|boot| boot.id == id);
        let boot = held
            .and_then(|index| self.heard.remove(index))
            .unwrap_or_else(|| Boot {
                id: id.to_vec(),
                least: VecDeque::new(),
                settings: VecDeque::new(),
            });
        while self.heard.len() >= BOOTS_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back_mut(boot)
    }

    fn ahead(&self, present: &[u8], made: TimeMicros, boot_us: i64, received: TimeMicros) -> Option<i64> {
        let setting = made.0.saturating_sub(boot_us);
        // No frame was made after it came; the wait of a heartbeat may make it seem so by a little.
        let possible = |zero: i64| zero.saturating_add(boot_us) <= received.0.saturating_add(SAME_SETTING_US);
        let latest = self.heard.iter().rev();
        let (present, others): (Vec<&Boot>, Vec<&Boot>) = latest.partition(|boot| boot.id == present);
        for boot in present.iter().chain(&others) {
            if let Some(zero) = boot.zero().filter(|zero| possible(*zero))
                && let Some(held) = boot.setting(setting)
            {
                return Some(steady(setting.saturating_sub(zero), held.told));
            }
        }
        let present = present.first()?;
        let zero = present.zero()?;
        let last = present.settings.back()?.wall_at_zero.saturating_sub(zero);
        let unset = made.0.saturating_sub(last);
        let of_unheard_boot = unset < zero && unset > received.0.saturating_sub(WAITED_MAX_US);
        let is_of_present = possible(zero) && !of_unheard_boot;
        Some(grained(if is_of_present {
            setting.saturating_sub(zero)
        } else {
            last
        }))
    }
}

impl Boot {
    /// Takes a difference in; returns the least.
    fn note(&mut self, difference: i64, at: Instant) -> i64 {
        while self.least.back().is_some_and(|(_, held)| *held >= difference) {
            self.least.pop_back();
        }
        if self.least.len() < LEAST_MAX {
            self.least.push_back((at, difference));
        }
        let too_old = |held: &(Instant, i64)| at.saturating_duration_since(held.0) > WINDOW;
        while self.least.len() > 1 && self.least.front().is_some_and(too_old) {
            self.least.pop_front();
        }
        self.zero().unwrap_or(difference)
    }

    /// When its boot clock stood at zero, by the collector's clock.
    fn zero(&self) -> Option<i64> {
        self.least.front().map(|(_, difference)| *difference)
    }

    /// The wall clock is set so; returns how much ahead that is.
    fn set_to(&mut self, wall_at_zero: i64, zero: i64) -> i64 {
        let ahead = wall_at_zero.saturating_sub(zero);
        let held = self.setting(wall_at_zero);
        let told = held.map_or(grained(ahead), |held| steady(ahead, held.told));
        self.settings
            .retain(|held| !is_same(held.wall_at_zero, wall_at_zero));
        while self.settings.len() >= SETTINGS_MAX {
            self.settings.pop_front();
        }
        self.settings.push_back(Setting { wall_at_zero, told });
        told
    }

    /// What is remembered of this setting.
    fn setting(&self, wall_at_zero: i64) -> Option<Setting> {
        let mut held = self.settings.iter().rev();
        held.find(|held| is_same(held.wall_at_zero, wall_at_zero))
            .copied()
    }
}

fn is_same(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= SAME_SETTING_US.unsigned_abs()
}

/// What was told, or what it is, when that is further off.
fn steady(ahead: i64, told: i64) -> i64 {
    if ahead.abs_diff(told) <= STEADY_US.unsigned_abs() {
        told
    } else {
        grained(ahead)
    }
}

fn grained(micros: i64) -> i64 {
    micros.div_euclid(GRAIN_US).saturating_mul(GRAIN_US)
}

fn micros(unsigned: u64) -> i64 {
    i64::try_from(unsigned).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
