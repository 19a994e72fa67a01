//! The store's own facts: they go the same way as everybody's, under an epoch of the store.

use std::time::Duration;

use fleetmend_event::frame::{FRAME_BODY_BYTES_MAX, Stamp};
use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, TableInfo};
use fleetmend_event::{
    Fact, FactBuffer, Frame, HostId, Lane, RecordId, Sequence, SpoolEpoch, Table, TimeMicros,
};

use crate::clock::ClockAhead;
use crate::error::CommitError;
use crate::shape::{Rows, align, sql_tables, table_index};

/// The host that the store's and the collector's own facts belong to.
pub const OWN_HOST: HostId = HostId::from_bytes([0; 16]);

/// Who made a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// The host itself, through its agent.
    Host,
    /// The store or the collector, which know something of the host, such as a loss.
    Store,
}

/// The first bytes of every epoch of a store; the rest is random and new at every start.
pub(crate) const OWN_EPOCH_PREFIX: [u8; 8] = *b"FMSTORE\0";

/// How far back a gap reaches whose beginning nobody knows: the longest outage that an agent's spool is made for.
const UNKNOWN_REACH: Duration = Duration::from_secs(24 * 3600);

/// A new epoch for the store's own records.
pub(crate) fn new_own_epoch() -> SpoolEpoch {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    for (byte, prefix) in bytes.iter_mut().zip(OWN_EPOCH_PREFIX) {
        *byte = prefix;
    }
    SpoolEpoch::from_bytes(bytes)
}

/// Whether an epoch is one of a store.
pub(crate) fn is_own_epoch(epoch: SpoolEpoch) -> bool {
    epoch.as_bytes().starts_with(&OWN_EPOCH_PREFIX)
}

/// Rows of the store itself, encoded but without a number.
#[derive(Debug, Clone)]
pub(crate) struct OwnFrame {
    /// The frame with number 0.
    pub(crate) template: Frame,
    /// Place of its table.
    pub(crate) table: usize,
    /// Its rows.
    pub(crate) rows: Rows,
}

/// Encodes facts of the store.
pub(crate) fn own_frames(epoch: SpoolEpoch, facts: Vec<Fact>) -> Result<Vec<OwnFrame>, CommitError> {
    let mut buffer = FactBuffer::default();
    facts.into_iter().for_each(|fact| buffer.push(fact));
    let encode = |reason: String| CommitError::Encode { reason };
    let mut frames = Vec::new();
    for lane in Lane::ALL {
        for (info, batch) in buffer.take(*lane).map_err(|error| encode(error.to_string()))? {
            frames.push(own_frame(epoch, info, &batch)?);
        }
    }
    Ok(frames)
}

fn own_frame(
    epoch: SpoolEpoch,
    info: &'static TableInfo,
    batch: &arrow::array::RecordBatch,
) -> Result<OwnFrame, CommitError> {
    let encode = |reason: String| CommitError::Encode { reason };
    let place = table_index(info.id).and_then(|index| sql_tables().get(index).map(|table| (index, table)));
    let (index, table) = place.ok_or_else(|| encode("table is not known".to_owned()))?;
    let rows = align(table, batch).map_err(|error| encode(error.to_string()))?;
    let id = RecordId {
        epoch,
        lane: info.lane,
        sequence: Sequence(0),
    };
    let stamp = Stamp {
        wall: TimeMicros::now(),
        boot_us: boot_micros(),
    };
    let template = Frame::of_batch(id, info, batch, stamp, (rows.from, rows.to))
        .map_err(|error| encode(error.to_string()))?;
    if !template.fits() {
        return Err(encode(format!(
            "rows of table {} need more than {FRAME_BODY_BYTES_MAX} bytes",
            info.name
        )));
    }
    Ok(OwnFrame {
        template,
        table: index,
        rows,
    })
}

/// A row may be so much older than its commit: metrics are sent once a minute at the latest.
const WAIT_MAX_MS: i64 = 60_000;

/// A gap for records of a stream that never came.
pub(crate) fn never_received(
    frame: &Frame,
    clock: ClockAhead,
    missing: u64,
    last_seen: Option<TimeMicros>,
) -> Gap {
    let now = TimeMicros::now();
    // What is missing was made before this record, and by whichever clock: its end is told by the store's.
    let until = clock.true_time(frame.from_time, now);
    let reach = i64::try_from(UNKNOWN_REACH.as_micros()).unwrap_or(i64::MAX);
    let sequence = frame.id.sequence.0;
    Gap {
        time: now,
        table: "*".to_owned(),
        lane: frame.id.lane,
        from_time: last_seen
            .map(|seen| seen.plus_millis(-WAIT_MAX_MS))
            .unwrap_or(until.plus_micros(reach.saturating_neg()))
            .min(until),
        to_time: until,
        count: missing,
        exactness: Exactness::AtLeast,
        stage: GapStage::Restore,
        reason: format!(
            "records {} to {} never received",
            sequence.saturating_sub(missing),
            sequence.saturating_sub(1)
        ),
    }
}

/// A gap for a record whose rows cannot be read.
pub(crate) fn unreadable(frame: &Frame, clock: ClockAhead, table: &str, reason: &str) -> Gap {
    let (from_time, to_time) = clock.true_span(frame.from_time, frame.to_time);
    let (count, exactness) = counted(frame);
    Gap {
        time: TimeMicros::now(),
        table: table.to_owned(),
        lane: frame.id.lane,
        from_time,
        to_time,
        count,
        exactness,
        stage: GapStage::Ingest,
        reason: reason.chars().take(200).collect(),
    }
}

/// Rows that SQL would show of a frame. A row of metrics holds many samples: where they cannot be counted, at least
/// one was in each.
fn counted(frame: &Frame) -> (u64, Exactness) {
    if frame.table != MetricChunk::ID {
        return (frame.rows.into(), Exactness::Exact);
    }
    match frame.facts() {
        Some(samples) => (samples, Exactness::Exact),
        None => (frame.rows.into(), Exactness::AtLeast),
    }
}

fn boot_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000)
        .saturating_add(u64::try_from(now.tv_nsec / 1_000).unwrap_or(0))
}
