//! Clock: how a batch's own times stand to the collector's.
//!
//! Rows keep the times that their host gave them, and queries ask for these. What the store decides itself, it
//! decides by *true* times: a host's time less what its clock was ahead when the batch was made, which whoever
//! received the batch estimated and which is kept with it, in the segment's entry and in the column
//! `clock_ahead_us`. Nothing is from the future, so that a true time is never later than the reception; where nobody
//! knows the clock, the reception is the time.

use fleetmend_event::TimeMicros;

/// How much the clock that stamped a batch was ahead of the collector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockAhead(Option<i64>);

impl ClockAhead {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(None);
    /// The collector's own clock.
    pub const NONE: Self = Self(Some(0));

    /// So many microseconds; negative for a clock that is behind. `None` when nobody knows.
    pub fn from_micros(micros: Option<i64>) -> Self {
        // Stored as the smallest number when it is not known.
        Self(micros.map(|micros| micros.max(-i64::MAX)))
    }

    /// Microseconds, as far as known.
    pub fn micros(self) -> Option<i64> {
        self.0
    }

    /// When a row of `time` was made that was taken at `taken`, by the collector's clock.
    pub(crate) fn true_time(self, time: TimeMicros, taken: TimeMicros) -> TimeMicros {
        match self.0 {
            Some(ahead) => TimeMicros(time.0.saturating_sub(ahead)).min(taken),
            None => taken,
        }
    }

    /// A span of the host's clock by the collector's, for a record of a loss: as it was sent where nobody knows.
    pub(crate) fn true_span(self, from: TimeMicros, to: TimeMicros) -> (TimeMicros, TimeMicros) {
        let ahead = self.0.unwrap_or(0);
        let moved = |time: TimeMicros| TimeMicros(time.0.saturating_sub(ahead));
        let (from, to) = (moved(from), moved(to));
        (from.min(to), to.max(from))
    }

    pub(crate) fn to_code(self) -> i64 {
        self.0.unwrap_or(i64::MIN)
    }

    pub(crate) fn from_code(code: i64) -> Self {
        Self((code > i64::MIN).then_some(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_time_is_never_after_the_reception() {
        let (taken, raw) = (TimeMicros(1_000), TimeMicros(700));
        assert_eq!(
            ClockAhead::from_micros(Some(-200)).true_time(raw, taken),
            TimeMicros(900)
        );
        assert_eq!(ClockAhead::from_micros(Some(-900)).true_time(raw, taken), taken);
        assert_eq!(ClockAhead::UNKNOWN.true_time(raw, taken), taken);
        let wild = ClockAhead::from_micros(Some(i64::MIN));
        assert_eq!(wild.true_time(TimeMicros(i64::MAX), taken), taken);
    }

    #[test]
    fn code_keeps_what_is_known() {
        for micros in [None, Some(0), Some(-1), Some(i64::MIN), Some(i64::MAX)] {
            let ahead = ClockAhead::from_micros(micros);
            assert_eq!(ClockAhead::from_code(ahead.to_code()), ahead);
        }
    }
}
