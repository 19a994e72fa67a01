//! Losses that wait to be written as gap rows.

use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Lane, TimeMicros};

use crate::clock;

/// Rows that wait at most; further ones are merged into the last of their kind.
const GAPS_MAX: usize = 256;
/// Losses of one kind closer together than this are one gap.
const MERGE_MICROS: i64 = 5_000_000;

/// Gaps that are not yet in the spool. They stay here until they are durable, so that the loss of their own
/// write is not another loss.
#[derive(Debug, Default)]
pub(crate) struct PendingGaps {
    rows: Vec<Gap>,
}

/// A loss, before it has a time of notice.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    pub(crate) table: &'static str,
    pub(crate) lane: Lane,
    pub(crate) span: (TimeMicros, TimeMicros),
    pub(crate) count: u64,
    pub(crate) exactness: Exactness,
    pub(crate) stage: GapStage,
    pub(crate) reason: &'static str,
}

impl PendingGaps {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn rows(&self) -> &[Gap] {
        &self.rows
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    pub(crate) fn add(&mut self, loss: &Loss) {
        crate::metrics::dropped(loss.lane, loss.reason, loss.count);
        let full = self.rows.len() >= GAPS_MAX;
        let same_kind = |row: &&mut Gap| {
            row.table == loss.table
                && row.lane == loss.lane
                && row.stage == loss.stage
                && row.reason == loss.reason
                && row.exactness == loss.exactness
        };
        let near = |row: &&mut Gap| loss.span.0.0 <= row.to_time.0.saturating_add(MERGE_MICROS);
        if let Some(row) = self
            .rows
            .iter_mut()
            .rev()
            .find(same_kind)
            .filter(|row| full || near(row))
        {
            row.from_time = row.from_time.min(loss.span.0);
            row.to_time = row.to_time.max(loss.span.1);
            row.count = row.count.saturating_add(loss.count);
            return;
        }
        // A kind is one of a few tables and reasons, so this grows past the limit by a few rows at most.
        self.rows.push(gap_of(loss));
    }
}

/// The row of a loss that is noticed now.
pub(crate) fn gap_of(loss: &Loss) -> Gap {
    Gap {
        time: clock::wall(),
        table: loss.table.to_owned(),
        lane: loss.lane,
        from_time: loss.span.0,
        to_time: loss.span.1,
        count: loss.count,
        exactness: loss.exactness,
        stage: loss.stage,
        reason: loss.reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(table: &'static str, at: i64) -> Loss {
        Loss {
            table,
            lane: Lane::Events,
            span: (TimeMicros(at), TimeMicros(at + 10)),
            count: 2,
            exactness: Exactness::Exact,
            stage: GapStage::Spool,
            reason: "disk_full",
        }
    }

    #[test]
    fn losses_close_together_are_one_gap() {
        let mut gaps = PendingGaps::default();
        gaps.add(&loss("units", 0));
        gaps.add(&loss("units", 1_000_000));
        gaps.add(&loss("units", 60_000_000));
        let found: Vec<_> = gaps
            .rows()
            .iter()
            .map(|gap| (gap.from_time.0, gap.to_time.0, gap.count))
            .collect();
        assert_eq!(found, [(0, 1_000_010, 4), (60_000_000, 60_000_010, 2)]);
    }

    #[test]
    fn exact_counts_stay_exact_beside_others_however_many_wait() {
        let mut gaps = PendingGaps::default();
        for at in 0..1_000 {
            gaps.add(&loss("units", at * 60_000_000));
            gaps.add(&Loss {
                count: 0,
                exactness: Exactness::AtLeast,
                ..loss("units", at * 60_000_000)
            });
        }
        let exact = gaps.rows().iter().filter(|gap| gap.exactness == Exactness::Exact);
        assert_eq!(exact.map(|gap| gap.count).sum::<u64>(), 2_000);
        assert!(gaps.rows().len() <= GAPS_MAX + 1);
    }

    #[test]
    fn pending_gaps_are_bounded_and_lose_no_count() {
        let mut gaps = PendingGaps::default();
        for at in 0..1_000 {
            gaps.add(&loss("units", at * 60_000_000));
        }
        assert_eq!(gaps.rows().len(), GAPS_MAX);
        assert_eq!(gaps.rows().iter().map(|gap| gap.count).sum::<u64>(), 2_000);
    }
}
