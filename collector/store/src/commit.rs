//! Commit: what happens to frames before the writer gets them, off the runtime.

use bytes::Bytes;
use fleetmend_event::table::Gap;
use fleetmend_event::{Frame, HostId, Mark};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::{CommitError, ReadError};
use crate::mark::{Candidate, Digest};
use crate::own::{OwnFrame, unreadable};
use crate::shape::{Rows, align, sql_tables, table_index};

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Make frames of a host durable.
    Commit {
        /// The host.
        host: HostId,
        /// Its frames, in order.
        frames: Vec<Prepared>,
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
    /// What is lost when the rows cannot be read.
    pub(crate) gap: Option<Gap>,
}

/// Decodes and checks a frame. Rows that cannot be read never stop a host: the record is stored as a tombstone,
/// so that its number is not skipped, and the loss becomes a gap row in the same group.
pub(crate) fn prepare(frame: Frame) -> Prepared {
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
    match rows_of(&frame) {
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
    let rows = align(table, &batch).map_err(|error: ReadError| (name, chain(&error)))?;
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
