//! Commit: what happens to frames before the writer gets them, off the runtime.

use std::collections::BTreeMap;

use arrow::compute::filter_record_batch;
use bytes::Bytes;
use fleetmend_event::batch::{self, BODY_BYTES_MAX, BatchError, missing_dictionary, plain_bytes_max};
use fleetmend_event::table::{Exactness, Gap, table_by_id};
use fleetmend_event::{Frame, HostId, Mark, RecordId};
use metrics::counter;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::clock::ClockAhead;
use crate::error::{CommitError, ReadError};
use crate::mark::{Candidate, Digest};
use crate::metrics as names;
use crate::own::{OWN_HOST, OwnFrame, is_own_epoch, unreadable};
use crate::series::{REASON, SeriesLimit};
use crate::shape::{Rows, align, sql_tables, table_index};

/// Decoded bytes of one commit. An agent sends at most 16 frames at once, each of about 4 MiB before it is encoded;
/// a commit that decodes to twice as much is not made by one.
pub(crate) const COMMIT_PLAIN_BYTES_MAX: usize = 8 * BODY_BYTES_MAX;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make frames of a host durable.
    Commit {
        /// The host.
        host: HostId,
        /// Its frames, in order.
        frames: Vec<Prepared>,
        /// Losses of other records.
        gaps: Vec<(RecordId, Gap)>,
        /// Who waits for the marks.
        reply: oneshot::Sender<Result<Vec<Mark>, CommitError>>,
        /// Room in the queue, given back when the command is done.
        room: OwnedSemaphorePermit,
    },
    /// Make rows of the store durable.
    Own {
        /// Host the rows belong to.
        host: HostId,
        /// The rows.
        frames: Vec<OwnFrame>,
        /// Who waits.
        reply: oneshot::Sender<Result<Vec<Mark>, CommitError>>,
    },
    /// Seal the segment being written, when there is something in it.
    Seal {
        /// Who waits.
        reply: oneshot::Sender<()>,
    },
}

/// A frame that was checked: its rows are known to be readable, or it is a tombstone.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The frame as it will be stored.
    pub(crate) frame: Frame,
    /// The same as bytes.
    pub(crate) encoded: Bytes,
    /// What tells it from another one under the same identity.
    pub(crate) candidate: Candidate,
    /// Digest of what came; unlike that of `encoded` when the rows were unreadable.
    pub(crate) digest: Option<Digest>,
    /// Its rows and the place of their table; `None` for a tombstone.
    pub(crate) rows: Option<(usize, Rows)>,
    /// What is lost with it: its rows cannot be read, or whoever sent it on gave them up.
    pub(crate) gap: Option<Gap>,
    /// How the clock that stamped it stood to the store's.
    pub(crate) clock: ClockAhead,
}

/// Decoded frames of a host, and losses of other records.
pub(crate) type PreparedCommit = (Vec<Prepared>, Vec<(RecordId, Gap)>);

/// Refuses what no host may send, and what was made for a newer collector.
pub(crate) fn refused_at_sight(host: HostId, frames: &[(Frame, ClockAhead)]) -> Result<(), CommitError> {
    let is_reserved = |(frame, _): &(Frame, ClockAhead)| is_own_epoch(frame.id.epoch);
    if host == OWN_HOST || frames.iter().any(is_reserved) {
        return Err(CommitError::Reserved);
    }
    let with_rows = frames
        .iter()
        .map(|(frame, _)| frame)
        .filter(|frame| !frame.tombstone);
    let missing = with_rows
        .filter_map(|frame| missing_dictionary(&frame.body))
        .next();
    missing.map_or(Ok(()), |dictionary| Err(CommitError::Newer { dictionary }))
}

/// A blocking step that ended without an outcome.
pub(crate) fn not_finished(error: tokio::task::JoinError) -> CommitError {
    CommitError::Unavailable {
        reason: error.to_string(),
    }
}

/// Memory that a frame takes until it is durable: its bytes and its decoded rows, by what it states.
pub(crate) fn memory_of(frame: &Frame) -> usize {
    let plain = if frame.tombstone {
        0
    } else {
        plain_bytes_max(&frame.body)
    };
    frame.encoded_len().saturating_add(plain)
}

/// Decodes and checks the frames of one commit. Those that no longer fit into [`COMMIT_PLAIN_BYTES_MAX`] are not
/// decoded: their rows are given up as if they could not be read. A gap of one of the frames goes with it; those of
/// other records are given back.
pub(crate) fn prepare_all(
    frames: Vec<(Frame, ClockAhead)>,
    gaps: Vec<(RecordId, Gap)>,
    (host, series): (HostId, &SeriesLimit),
) -> PreparedCommit {
    let mut left = COMMIT_PLAIN_BYTES_MAX;
    let mut gaps: BTreeMap<RecordId, Gap> = gaps.into_iter().collect();
    let mut prepare_next = |(frame, clock): (Frame, ClockAhead)| {
        let fits = plain_bytes_max(&frame.body) <= left;
        if fits && !frame.tombstone {
            left = left.saturating_sub(plain_bytes_max(&frame.body));
        }
        let given_up = gaps.remove(&frame.id);
        let mut prepared = prepare(frame, clock, fits);
        limit_series(&mut prepared, host, series);
        prepared.gap = match prepared.gap.take().or(given_up) {
            None => told_of_strangers(&prepared, host, series),
            told => told,
        };
        prepared
    };
    let prepared = frames.into_iter().map(&mut prepare_next).collect();
    (prepared, gaps.into_iter().collect())
}

/// The gap of columns that are unknown here, when it is time to tell of them.
fn told_of_strangers(prepared: &Prepared, host: HostId, series: &SeriesLimit) -> Option<Gap> {
    let (index, rows) = prepared.rows.as_ref()?;
    series.strangers.note(host, sql_tables().get(*index)?, rows)
}

/// Takes samples of series out that are more than the host may have; they become the gap of the frame. The head
/// of the frame keeps the rows that came.
fn limit_series(prepared: &mut Prepared, host: HostId, limit: &SeriesLimit) {
    let Some((index, rows)) = &prepared.rows else {
        return;
    };
    let table = sql_tables().get(*index).filter(|table| table.is_metrics());
    let Some(table) = table else { return };
    let limited = limit.judge(host, &rows.batch).and_then(|stays| {
        let Some(stays) = stays else { return Ok(None) };
        let shape = |reason: String| ReadError::Shape {
            table: table.info.name,
            reason,
        };
        let batch = filter_record_batch(&rows.batch, &stays).map_err(|error| shape(error.to_string()))?;
        let body = batch::encode(&batch).map_err(|error| shape(chain(&error)))?;
        Ok(Some((align(table, &batch)?, body)))
    });
    let (left, body) = match limited {
        Ok(None) => return,
        Ok(Some((left, body))) if left.count > 0 => (Some(left), body.into()),
        Ok(Some(_)) => (None, Bytes::new()),
        Err(error) => {
            // The rows were read and aligned a moment ago.
            tracing::error!(%host, error = chain(&error), "cannot limit the series of a frame");
            return;
        }
    };
    let lost = rows
        .count
        .saturating_sub(left.as_ref().map_or(0, |left| left.count));
    counter!(names::REFUSED_SAMPLES).increment(lost);
    prepared.gap = Some(Gap {
        count: lost,
        exactness: Exactness::Exact,
        ..unreadable(&prepared.frame, prepared.clock, table.info.name, REASON)
    });
    prepared.frame.tombstone = left.is_none();
    prepared.frame.body = body;
    prepared.encoded = prepared.frame.encode();
    prepared.rows = left.map(|left| (*index, left));
}

/// Whether the rows of a stored frame are those that came with it; its digest says nothing when they are not.
pub(crate) fn is_whole(frame: &Frame, rows: &Rows) -> bool {
    u32::try_from(rows.batch.num_rows()).is_ok_and(|rows| rows == frame.rows)
}

/// Decodes and checks a frame. Rows that cannot be read never stop a host: the record is stored as a tombstone,
/// so that its number is not skipped, and the loss becomes a gap row in the same group.
fn prepare(frame: Frame, clock: ClockAhead, fits: bool) -> Prepared {
    if frame.tombstone {
        let encoded = frame.encode();
        return Prepared {
            frame,
            encoded,
            candidate: Candidate::Tombstone,
            digest: None,
            rows: None,
            gap: None,
            clock,
        };
    }
    let encoded = frame.encode();
    let plain = batch::decompress(&frame.body);
    let digest = digest_of_plain(&frame, plain.as_deref().ok());
    let candidate = Candidate::Rows(digest);
    let rows = if fits {
        rows_in(&frame, plain)
    } else {
        let table = table_by_id(frame.table).map_or("*", |table| table.name);
        let reason = format!("commit decodes to more than {COMMIT_PLAIN_BYTES_MAX} bytes");
        Err((table, reason))
    };
    match rows {
        Ok(rows) => Prepared {
            frame,
            encoded,
            candidate,
            digest: Some(digest),
            rows: Some(rows),
            gap: None,
            clock,
        },
        Err((table, reason)) => {
            let gap = unreadable(&frame, clock, table, &reason);
            let shed = frame.shed();
            let encoded = shed.encode();
            Prepared {
                frame: shed,
                encoded,
                candidate,
                digest: Some(digest),
                rows: None,
                gap: Some(gap),
                clock,
            }
        }
    }
}

/// The rows of a frame with the place of their table; otherwise the table's name, as far as known, and the reason.
pub(crate) fn rows_of(frame: &Frame) -> Result<(usize, Rows), (&'static str, String)> {
    rows_in(frame, batch::decompress(&frame.body))
}

/// The same of a frame whose body is decompressed already.
fn rows_in(
    frame: &Frame,
    plain: Result<Vec<u8>, BatchError>,
) -> Result<(usize, Rows), (&'static str, String)> {
    let place =
        table_index(frame.table).and_then(|index| sql_tables().get(index).map(|table| (index, table)));
    let (index, table) = place.ok_or_else(|| ("*", format!("unknown table {}", frame.table)))?;
    let name = table.info.name;
    if !frame.fits() {
        return Err((name, "frame is too long".to_owned()));
    }
    let batch = plain.and_then(|plain| batch::decode_plain(&plain));
    let batch = batch.map_err(|error| (name, chain(&error)))?;
    let mut rows = align(table, &batch).map_err(|error: ReadError| (name, chain(&error)))?;
    // The columns that are left out share the memory of those that stay.
    rows.bytes = rows.bytes.max(plain_bytes_max(&frame.body) as u64);
    Ok((index, rows))
}

/// What tells a frame from another one under the same identity.
pub(crate) fn digest(frame: &Frame) -> Digest {
    digest_of_plain(frame, batch::decompress(&frame.body).as_deref().ok())
}

/// First 16 bytes of a SHA-256 over what the frame says and its body before compression: a record that comes again
/// may have been compressed by another version, or have travelled relative to others. A body that cannot be
/// decompressed counts as it is.
fn digest_of_plain(frame: &Frame, plain: Option<&[u8]>) -> Digest {
    let hash = Sha256::new()
        .chain_update(frame.fixed_head())
        .chain_update([u8::from(plain.is_some())])
        .chain_update(plain.unwrap_or(&frame.body))
        .finalize();
    let mut first = [0; 16];
    for (byte, of_hash) in first.iter_mut().zip(hash) {
        *byte = of_hash;
    }
    first
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
