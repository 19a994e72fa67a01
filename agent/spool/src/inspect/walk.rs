//! Frame by frame.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use fleetmend_event::batch::BatchError;
use fleetmend_event::{Frame, Lane, SpoolEpoch};
use serde_json::Value;

use super::InspectError;
use super::list::{EpochFolder, SpoolFolder, read_segment};
use crate::layout::Entry;
use crate::scan::{Expected, Piece, scan};

/// Columns that hold JSON as text.
const JSON_COLUMNS: [&str; 5] = ["factors", "evidence", "before", "after", "labels"];

/// What part of a spool is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this lane.
    pub lane: Option<Lane>,
    /// Only of epochs whose id, or whose folder's name, begins with this.
    pub epoch: Option<String>,
    /// Only from this number on.
    pub from: u64,
}

/// Something that lies in the spool.
#[derive(Debug)]
pub enum Record {
    /// A frame.
    Frame {
        /// Place of its epoch among the epochs.
        ordinal: u32,
        /// Its file.
        file: PathBuf,
        /// Where in the file it begins.
        offset: u64,
        /// The frame.
        frame: Box<Frame>,
    },
    /// Numbers whose records were shed.
    Shed {
        /// Place of the epoch among the epochs.
        ordinal: u32,
        /// The epoch.
        epoch: SpoolEpoch,
        /// The lane.
        lane: Lane,
        /// First number.
        first: u64,
        /// Last number.
        last: u64,
    },
    /// Bytes that are no frame, or not a whole one.
    Bad {
        /// Place of the epoch among the epochs.
        ordinal: u32,
        /// The epoch.
        epoch: SpoolEpoch,
        /// The lane.
        lane: Lane,
        /// Their file.
        file: PathBuf,
        /// Where in the file they begin.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Why they are no frame.
        reason: String,
    },
}

/// The rows of a frame cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The body is none.
    #[error(transparent)]
    Body(#[from] BatchError),
    /// Arrow cannot write them as JSON.
    #[error("the rows have no form in JSON")]
    Arrow(#[from] ArrowError),
    /// Arrow's JSON is none.
    #[error("the rows have no form in JSON")]
    Json(#[from] serde_json::Error),
}

/// Gives every record to `each`, epoch by epoch and lane by lane in the order of numbers, until it breaks.
///
/// # Errors
/// As [`inspect`](super::inspect).
pub fn walk(
    folder: &Path,
    wanted: &Wanted,
    each: &mut dyn FnMut(Record) -> ControlFlow<()>,
) -> Result<(), InspectError> {
    let found = SpoolFolder::list(folder)?;
    let chosen = |epoch: &&EpochFolder| {
        let named = wanted.epoch.as_deref().unwrap_or_default();
        let (id, name) = (
            epoch.epoch.to_string(),
            format!("{:08}-{}", epoch.ordinal, epoch.epoch),
        );
        id.starts_with(named) || name.starts_with(named)
    };
    for epoch in found.epochs.iter().filter(chosen) {
        let entries = epoch.entries()?;
        let lanes = Lane::ALL.iter().copied();
        for lane in lanes.filter(|lane| wanted.lane.is_none_or(|wanted| wanted == *lane)) {
            for entry in entries.of(lane) {
                if walk_entry(epoch, lane, entry, wanted.from, each).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn walk_entry(
    epoch: &EpochFolder,
    lane: Lane,
    entry: Entry,
    from: u64,
    each: &mut dyn FnMut(Record) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let ordinal = epoch.ordinal;
    match entry {
        Entry::Shed { next, .. } if next <= from => ControlFlow::Continue(()),
        Entry::Shed { first, next, .. } => each(Record::Shed {
            ordinal,
            epoch: epoch.epoch,
            lane,
            first: first.max(from),
            last: next.saturating_sub(1),
        }),
        Entry::Segment { first, .. } => {
            let file = epoch.segment(lane, first);
            let bad = |(offset, bytes), reason: String| Record::Bad {
                ordinal,
                epoch: epoch.epoch,
                lane,
                file: file.clone(),
                offset,
                bytes,
                reason,
            };
            let bytes = match read_segment(&file) {
                Ok(Some((bytes, _))) => bytes,
                Ok(None) => return ControlFlow::Continue(()),
                Err(error) => return each(bad((0, 0), format!("the file cannot be read: {error}"))),
            };
            let expected = Expected {
                epoch: epoch.epoch,
                lane,
            };
            for piece in scan(&bytes, expected) {
                match piece {
                    Piece::Bad { offset, bytes } => {
                        each(bad((length(offset), length(bytes)), "damaged".to_owned()))?;
                    }
                    Piece::Torn { offset, bytes } => {
                        each(bad((length(offset), length(bytes)), "torn tail".to_owned()))?;
                    }
                    Piece::Good { offset, next, .. } if next > from => {
                        let mut at = offset;
                        while let Some(frame) = frame_at(&bytes, at, next) {
                            let offset = length(at);
                            at = at.saturating_add(frame.encoded_len());
                            if frame.id.sequence.0 >= from {
                                let (file, frame) = (file.clone(), Box::new(frame));
                                each(Record::Frame {
                                    ordinal,
                                    file,
                                    offset,
                                    frame,
                                })?;
                            }
                        }
                    }
                    Piece::Good { .. } => {}
                }
            }
            ControlFlow::Continue(())
        }
    }
}

/// The frame at this place, if it is of the run that ends before number `next`.
fn frame_at(bytes: &bytes::Bytes, at: usize, next: u64) -> Option<Frame> {
    if at >= bytes.len() {
        return None;
    }
    let frame = Frame::decode(&bytes.slice(at..)).ok()?;
    (frame.id.sequence.0 < next).then_some(frame)
}

/// The rows of a frame as JSON objects; none of a tombstone. Columns that hold JSON as text come parsed.
///
/// # Errors
/// When the body is no batch.
pub fn rows(frame: &Frame) -> Result<Vec<Value>, RowsError> {
    let Some(batch) = frame.batch()? else {
        return Ok(Vec::new());
    };
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(&mut text);
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    let rows = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
    rows.map(|row| Ok(row.map(parsed)?)).collect()
}

fn parsed(mut row: Value) -> Value {
    for name in JSON_COLUMNS {
        let value = row.get_mut(name);
        if let Some(value) = value
            && let Some(inner) = value.as_str().and_then(|text| serde_json::from_str(text).ok())
        {
            *value = inner;
        }
    }
    row
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
