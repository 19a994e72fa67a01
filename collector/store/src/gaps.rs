//! Gaps: the latest losses, in memory, so that every answer can say what it may lack.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use fleetmend_event::table::Gap;
use fleetmend_event::{HostId, Table, TimeMicros};
use metrics::counter;
use parking_lot::Mutex;
use serde::Serialize;

use crate::metrics as names;
use crate::shape::sql_tables;

/// Gaps kept in memory; older ones are in the table `gaps` only.
const GAPS_MAX: usize = 10_000;
/// Gaps told with one answer.
pub(crate) const GAPS_TOLD_MAX: usize = 100;

/// A loss and the host it happened on; the store's own losses carry [`crate::OWN_HOST`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostGap {
    /// The host.
    pub host_id: HostId,
    /// The loss.
    #[serde(flatten)]
    pub gap: Gap,
}

/// A part of a table that a query read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Name of the table.
    pub(crate) table: &'static str,
    /// From when.
    pub(crate) from: TimeMicros,
    /// Until when.
    pub(crate) to: TimeMicros,
}

/// The gaps in `batch`, each with its row, and how many rows hold none. A row written by another build may hold a
/// word that this one does not know; it must not hide the others.
pub(crate) fn gaps_of(batch: &RecordBatch) -> (Vec<(usize, Gap)>, usize) {
    let mut gaps = Vec::with_capacity(batch.num_rows());
    if let Ok(all) = Gap::from_batch(batch) {
        gaps.extend((0..).zip(all));
        return (gaps, 0);
    }
    for row in 0..batch.num_rows() {
        let one = Gap::from_batch(&batch.slice(row, 1)).unwrap_or_default();
        gaps.extend(one.into_iter().map(|gap| (row, gap)));
    }
    let unknown = batch.num_rows().saturating_sub(gaps.len());
    counter!(names::UNKNOWN_GAPS).increment(unknown as u64);
    (gaps, unknown)
}

/// The latest gaps.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    latest: Mutex<VecDeque<HostGap>>,
}

impl Gaps {
    /// Adds a gap that is stored.
    pub(crate) fn add(&self, host_id: HostId, gap: Gap) {
        let mut latest = self.latest.lock();
        if latest.len() >= GAPS_MAX {
            latest.pop_front();
        }
        latest.push_back(HostGap { host_id, gap });
    }

    /// Adds a gap that is stored, unless it is at hand.
    pub(crate) fn add_new(&self, host_id: HostId, gap: Gap) {
        let held = HostGap { host_id, gap };
        let mut latest = self.latest.lock();
        if latest.contains(&held) {
            return;
        }
        if latest.len() >= GAPS_MAX {
            latest.pop_front();
        }
        latest.push_back(held);
    }

    /// Adds the gaps in `batch`, when it is of their table.
    pub(crate) fn note(&self, host: HostId, table: usize, batch: &RecordBatch) {
        if sql_tables()
            .get(table)
            .is_none_or(|table| table.info.id != Gap::ID)
        {
            return;
        }
        let (gaps, unknown) = gaps_of(batch);
        gaps.into_iter().for_each(|(_, gap)| self.add(host, gap));
        if unknown > 0 {
            // The rows stay in the table; only the answers' list of gaps lacks them.
            tracing::warn!(%host, unknown, "cannot read gap rows");
        }
    }

    /// The newest gaps that touch any of `reaches` and that `wanted` says yes to, `newer` ones first, at most
    /// [`GAPS_TOLD_MAX`].
    pub(crate) fn touching(
        &self,
        reaches: &[Reach],
        newer: Vec<HostGap>,
        wanted: impl Fn(&HostGap) -> bool,
    ) -> Vec<HostGap> {
        let touches = |gap: &Gap| {
            reaches.iter().any(|reach| {
                (gap.table == "*" || gap.table == reach.table)
                    && gap.from_time <= reach.to
                    && gap.to_time >= reach.from
            })
        };
        let latest = self.latest.lock();
        // One that has just been written may stand on both sides for a moment.
        let unwritten = newer.iter().filter(|gap| !latest.contains(gap));
        let held = unwritten.chain(latest.iter().rev());
        held.filter(|held| touches(&held.gap) && wanted(held))
            .take(GAPS_TOLD_MAX)
            .cloned()
            .collect()
    }
}
