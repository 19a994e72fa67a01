//! Strangers: columns that a newer agent sends and this build does not know.
//!
//! Their values are not kept, and that is said: a host that sends some makes a row of `gaps` whose `table` is the
//! table's name, a dot and the columns', at once and then once in [`TELL_EVERY`] with the rows that came since. The
//! rows themselves are stored, so that the name of the table alone does not stand there: alerts on it go on. A column
//! that has another type than here makes its rows unreadable, which is another gap (`shape.rs`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{HostId, TimeMicros};
use metrics::counter;
use parking_lot::Mutex;

use crate::metrics as names;
use crate::shape::{Rows, SqlTable};

/// A host is told of once in so long for each table.
const TELL_EVERY: Duration = Duration::from_hours(1);
/// Hosts and tables that are remembered; with more, some are told of earlier.
const HELD_MAX: usize = 10_000;
/// Of the columns' names in one gap.
const NAMES_CHARS_MAX: usize = 200;

/// What came of each host and table since it was last told.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    held: Mutex<HashMap<(HostId, &'static str), Held>>,
}

#[derive(Debug)]
struct Held {
    told_at: Option<Instant>,
    rows: u64,
    from: TimeMicros,
    to: TimeMicros,
}

impl Strangers {
    /// Counts rows that came with columns unknown here; the gap to store, when it is time to tell.
    pub(crate) fn note(&self, host: HostId, table: &SqlTable, rows: &Rows) -> Option<Gap> {
        if rows.strangers.is_empty() {
            return None;
        }
        let info = table.info;
        counter!(names::UNKNOWN_COLUMNS, "table" => info.name).increment(rows.count);
        let mut all = self.held.lock();
        if all.len() >= HELD_MAX {
            all.clear();
        }
        let held = all.entry((host, info.name)).or_insert(Held {
            told_at: None,
            rows: 0,
            from: rows.from,
            to: rows.to,
        });
        held.rows = held.rows.saturating_add(rows.count);
        held.from = held.from.min(rows.from);
        held.to = held.to.max(rows.to);
        if held.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return None;
        }
        let columns: String = rows.strangers.join(",").chars().take(NAMES_CHARS_MAX).collect();
        let gap = Gap {
            time: TimeMicros::now(),
            table: format!("{}.{columns}", info.name),
            lane: info.lane,
            from_time: held.from,
            to_time: held.to,
            count: held.rows,
            exactness: Exactness::AtLeast,
            stage: GapStage::Store,
            reason: "unknown column: upgrade the collector to keep it".to_owned(),
        };
        *held = Held {
            told_at: Some(Instant::now()),
            rows: 0,
            from: TimeMicros(i64::MAX),
            to: TimeMicros(i64::MIN),
        };
        Some(gap)
    }
}
