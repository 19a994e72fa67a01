//! Gap rows, and what they explain. All times are the collector's: those of the rows less what the host's clock was
//! ahead when it wrote them, as the store says it.

use super::{LANES, name};

/// The longest that a gap may be whose rows nobody counted: a spool is flushed within seconds, metrics within a
/// minute, and the lab holds a fault for seconds.
const UNCOUNTED_US_MAX: i64 = 240 * 1_000_000;
/// A spool whose clock was ahead for a while and whose run ended unclean does not know when that was, and says so by
/// the longest outage that it is made for.
const UNKNOWN_REACH_US: i64 = 25 * 3_600 * 1_000_000;
/// How exactly the collector knows the clock of a host.
const CLOCK_ERROR_US: i64 = 250_000;

/// A gap row.
#[derive(Debug, Clone)]
pub(super) struct GapRow {
    pub(super) table: String,
    pub(super) lane: String,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) count: u64,
    pub(super) exact: bool,
    pub(super) reason: String,
}

impl GapRow {
    pub(super) fn is_unclean(&self) -> bool {
        self.reason == "unclean_stop"
    }

    /// The host came back with a new spool that remembers nothing.
    pub(super) fn is_wipe(&self) -> bool {
        self.reason == "spool_replaced"
    }

    /// The other copy of the disk stored the same batch with other ticks.
    fn is_of_copies(&self) -> bool {
        self.reason == "identity_conflict" && !self.exact && self.count == 0
    }

    /// Whether it is so wide that it would explain anything.
    pub(super) fn is_too_wide(&self) -> bool {
        let most = if self.is_unclean() {
            UNKNOWN_REACH_US
        } else {
            UNCOUNTED_US_MAX
        };
        !self.exact && self.to - self.from > most
    }

    /// Whether it is an unclean stop of which nobody knows when it was.
    pub(super) fn is_unknown_stop(&self) -> bool {
        self.is_unclean() && self.to - self.from > UNCOUNTED_US_MAX
    }

    pub(super) fn holds(&self, time: i64) -> bool {
        self.from - CLOCK_ERROR_US <= time && time <= self.to + CLOCK_ERROR_US
    }
}

/// Whether a gap row explains a missing number: one of an unclean stop only what was never promised.
pub(super) fn covers(gaps: &[GapRow], table: usize, time: i64, killed: bool) -> bool {
    let of_table = |gap: &&GapRow| gap.table == name(table) && gap.holds(time);
    let unclean = |gap: &&GapRow| killed && gap.is_unclean() && gap.holds(time);
    gaps.iter().any(|gap| of_table(&gap) || unclean(&gap)) || covers_unnamed(gaps, table, time)
}

/// Whether it lies in a gap that counts nothing: one that names its lane and no table, or of a batch of which another
/// copy of the disk had stored an unknown part.
pub(super) fn covers_unnamed(gaps: &[GapRow], table: usize, time: i64) -> bool {
    let lane = LANES.get(table).copied().unwrap_or_default();
    gaps.iter().any(|gap| {
        gap.is_of_copies() && gap.table == name(table) && gap.holds(time)
            || gap.table == "*" && !gap.is_unclean() && !gap.is_wipe() && gap.lane == lane && gap.holds(time)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unclean_stop_explains_only_what_was_never_promised() {
        const SECOND: i64 = 1_000_000;
        let gap = |table: &str, reason: &str| GapRow {
            table: table.to_owned(),
            lane: "events".to_owned(),
            from: 10 * SECOND,
            to: 20 * SECOND,
            count: 0,
            exact: false,
            reason: reason.to_owned(),
        };
        let unclean = [gap("*", "unclean_stop")];
        assert!(covers(&unclean, 2, 15 * SECOND, true));
        assert!(!covers(&unclean, 2, 15 * SECOND, false));
        assert!(!covers(&unclean, 2, 21 * SECOND, true));
        let quota = [gap("units", "quota")];
        assert!(covers(&quota, 0, 15 * SECOND, false));
        assert!(!covers(&quota, 1, 15 * SECOND, false));
        let restored = [gap("*", "records 3 to 5 never received")];
        assert!(covers(&restored, 0, 15 * SECOND, false) && !covers(&restored, 1, 15 * SECOND, false));
        let wide = GapRow {
            to: 3_600 * SECOND,
            ..gap("*", "spool_replaced")
        };
        assert!(wide.is_too_wide() && !unclean[0].is_too_wide());
    }
}
