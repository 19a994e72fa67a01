//! Commit: what happens to frames before the writer gets them, off the runtime.

use std::collections::BTreeMap;

use bytes::Bytes;
use fleetmend_event::batch::{BODY_BYTES_MAX, plain_bytes_max};
use fleetmend_event::table::{Gap, table_by_id};
use fleetmend_event::{Frame, HostId, Mark, RecordId};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::{CommitError, ReadError};
use crate::mark::{Candidate, Digest};
use crate::own::{OwnFrame, unreadable};
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
        /// Losses that belong to none of them.
        gaps: Vec<Gap>,
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
pub(crate) fn prepare_all(frames: Vec<Frame>, gaps: Vec<(RecordId, Gap)>) -> (Vec<Prepared>, Vec<Gap>) {
    let mut left = COMMIT_PLAIN_BYTES_MAX;
    let mut gaps: BTreeMap<RecordId, Gap> = gaps.into_iter().collect();
    let mut prepare_next = |frame: Frame| {
        let fits = plain_bytes_max(&frame.body) <= left;
        if fits && !frame.tombstone {
            left = left.saturating_sub(plain_bytes_max(&frame.body));
        }
        let given_up = gaps.remove(&frame.id);
        let mut prepared = prepare(frame, fits);
        prepared.gap = prepared.gap.or(given_up);
        prepared
    };
    let prepared = frames.into_iter().map(&mut prepare_next).collect();
    (prepared, gaps.into_values().collect())
}

/// Decodes and checks a frame. Rows that cannot be read never stop a host: the record is stored as a tombstone,
/// so that its number is not skipped, and the loss becomes a gap row in the same group.
fn prepare(frame: Frame, fits: bool) -> Prepared {
    if frame.tombstone {
        let encoded = frame.encode();
        return Prepared {
            frame,
            encoded,
            candidate: Candidate::Tombstone,
            digest: None,
            rows: None,
            gap: None,
        };
    }
    let encoded = frame.encode();
    let digest = digest(&encoded);
    let candidate = Candidate::Rows(digest);
    let rows = if fits {
        rows_of(&frame)
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
        },
        Err((table, reason)) => {
            let gap = unreadable(&frame, table, &reason);
            let shed = frame.shed();
            let encoded = shed.encode();
            Prepared {
                frame: shed,
                encoded,
                candidate,
                digest: Some(digest),
                rows: None,
                gap: Some(gap),
            }
        }
    }
}

/// The rows of a frame with the place of their table; otherwise the table's name, as far as known, and the reason.
pub(crate) fn rows_of(frame: &Frame) -> Result<(usize, Rows), (&'static str, String)> {
    let place =
        table_index(frame.table).and_then(|index| sql_tables().get(index).map(|table| (index, table)));
    let (index, table) = place.ok_or_else(|| ("*", format!("unknown table {}", frame.table)))?;
    let name = table.info.name;
    if !frame.fits() {
        return Err((name, "frame is too long".to_owned()));
    }
    let batch = frame.batch().map_err(|error| (name, chain(&error)))?;
    let batch = batch.ok_or_else(|| (name, "frame is a tombstone".to_owned()))?;
    let mut rows = align(table, &batch).map_err(|error: ReadError| (name, chain(&error)))?;
    // The columns that are left out share the memory of those that stay.
    rows.bytes = rows.bytes.max(plain_bytes_max(&frame.body) as u64);
    Ok((index, rows))
}

/// First 16 bytes of the SHA-256 of an encoded frame.
pub(crate) fn digest(encoded: &[u8]) -> Digest {
    let mut first = [0; 16];
    for (byte, of_hash) in first.iter_mut().zip(Sha256::digest(encoded)) {
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
