//! Facts to frames: one buffer per lane, flushed by age and size, split where a frame would be too long.

use std::collections::BTreeMap;
use std::time::Instant;

use arrow::array::RecordBatch;
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Exactness, GapStage, TableInfo};
use fleetmend_event::{Fact, FactBuffer, Frame, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};

use crate::config::SpoolConfig;
use crate::gaps::Loss;
use crate::intake::rows_of;

/// A batch larger than this in memory is halved before it is encoded, to bound what encoding needs.
const PLAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Facts that wait to become frames.
#[derive(Debug, Default)]
pub(crate) struct Batcher {
    buffer: FactBuffer,
    oldest: BTreeMap<Lane, Instant>,
    tables: BTreeMap<u16, Waiting>,
}

/// Facts of one table that wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) span: (TimeMicros, TimeMicros),
    pub(crate) rows: u64,
}

/// Frames of one flush, without their numbers yet.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    pub(crate) frames: Vec<Frame>,
    pub(crate) losses: Vec<Loss>,
}

impl Batcher {
    pub(crate) fn push(&mut self, fact: Fact, now: Instant) {
        let (time, rows) = (fact.time(), rows_of(&fact));
        self.oldest.entry(fact.lane()).or_insert(now);
        let waiting = self.tables.entry(fact.table_id()).or_insert(Waiting {
            span: (time, time),
            rows: 0,
        });
        waiting.span = (waiting.span.0.min(time), waiting.span.1.max(time));
        waiting.rows = waiting.rows.saturating_add(rows);
        self.buffer.push(fact);
    }

    pub(crate) fn len(&self, lane: Lane) -> usize {
        self.buffer.len(lane)
    }

    /// When `lane` has to be flushed at the latest; `None` when it is empty.
    pub(crate) fn due(&self, lane: Lane, config: &SpoolConfig) -> Option<Instant> {
        let oldest = self.oldest.get(&lane)?;
        if self.buffer.len(lane) >= SpoolConfig::batch_facts_max(lane) {
            return Some(*oldest);
        }
        oldest.checked_add(config.flush_age(lane))
    }

    /// Takes every fact of `lane` out as frames of `epoch`; numbers are given when they are written.
    pub(crate) fn encode(&mut self, lane: Lane, epoch: SpoolEpoch, stamp: Stamp) -> Encoded {
        self.oldest.remove(&lane);
        let mut encoded = Encoded::default();
        let batches = match self.buffer.take(lane) {
            Ok(batches) => batches,
            Err(error) => {
                tracing::error!(%lane, %error, "rows do not form a batch");
                return encoded;
            }
        };
        for (table, batch) in batches {
            let waiting = self.tables.remove(&table.id).unwrap_or(Waiting {
                span: (stamp.wall, stamp.wall),
                rows: u64::try_from(batch.num_rows()).unwrap_or(u64::MAX),
            });
            let id = RecordId {
                epoch,
                lane,
                sequence: Sequence(0),
            };
            encode_split(&mut encoded, id, table, batch, stamp, waiting);
        }
        encoded
    }
}

/// Encodes `batch` as few frames as fit; a single row that does not fit is lost and counted.
pub(crate) fn encode_split(
    encoded: &mut Encoded,
    id: RecordId,
    table: &'static TableInfo,
    batch: RecordBatch,
    stamp: Stamp,
    waiting: Waiting,
) {
    // The first half is taken first, so that the stack holds at most one part per halving.
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        let rows = part.num_rows();
        if rows > 1
            && part.get_array_memory_size() > PLAIN_BYTES_MAX.saturating_mul(parts.len().saturating_add(1))
        {
            halve(&mut parts, &part);
            continue;
        }
        match Frame::of_batch(id, table, &part, stamp, waiting.span) {
            Ok(frame) if frame.fits() => encoded.frames.push(frame),
            Ok(_) if rows > 1 => halve(&mut parts, &part),
            Ok(_) => encoded.losses.push(loss(table, waiting, 1, "row_too_long")),
            Err(error) => {
                tracing::error!(table = table.name, %error, "batch cannot be encoded");
                let rows = u64::try_from(rows).unwrap_or(u64::MAX);
                encoded.losses.push(loss(table, waiting, rows, "not_encodable"));
            }
        }
    }
}

fn halve(parts: &mut Vec<RecordBatch>, batch: &RecordBatch) {
    let middle = batch.num_rows() / 2;
    parts.push(batch.slice(middle, batch.num_rows().saturating_sub(middle)));
    parts.push(batch.slice(0, middle));
}

fn loss(table: &'static TableInfo, waiting: Waiting, count: u64, reason: &'static str) -> Loss {
    Loss {
        table: table.name,
        lane: table.lane,
        span: waiting.span,
        count,
        exactness: Exactness::Exact,
        stage: GapStage::Spool,
        reason,
    }
}
