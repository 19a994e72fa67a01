//! From the bytes of a message to durable records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage, table_by_id};
use fleetmend_event::{Frame, FrameError, HostId, Lane, Mark, RecordId, SpoolEpoch, TimeMicros};
use tokio::time::timeout;

use crate::config::MESSAGE_FRAMES_MAX;
use crate::sink::{DurableSink, SinkError};

/// Messages up to this size are checked where they are; larger ones on a blocking thread.
const CHECKED_HERE_BYTES: usize = 64 * 1024;

/// A message that is no set of frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("frame {index} of the message is none: {error}")]
    Frame { index: usize, error: FrameError },
    #[error("frame {index} of the message is followed by {bytes} bytes that belong to nothing")]
    Trailing { index: usize, bytes: usize },
    #[error("frame {index} of the message has the number 0")]
    Number { index: usize },
    #[error("the message holds {frames} frames, more than {MESSAGE_FRAMES_MAX}")]
    TooMany { frames: usize },
}

/// Frames of one message, each with a number that is consumed.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) frames: Vec<Frame>,
    /// Losses of frames that became tombstones here.
    pub(crate) gaps: Vec<Gap>,
}

/// Takes the frames apart and checks them, as far as can be said without their rows.
pub(crate) async fn check(encoded: Vec<Bytes>) -> Result<Checked, Malformed> {
    if encoded.len() > MESSAGE_FRAMES_MAX {
        return Err(Malformed::TooMany {
            frames: encoded.len(),
        });
    }
    if encoded.iter().map(Bytes::len).sum::<usize>() <= CHECKED_HERE_BYTES {
        return check_all(&encoded);
    }
    let checked = tokio::task::spawn_blocking(move || check_all(&encoded)).await;
    // A blocking thread is only cancelled when the process ends.
    checked.unwrap_or_else(|_| Ok(Checked::default()))
}

fn check_all(encoded: &[Bytes]) -> Result<Checked, Malformed> {
    let mut checked = Checked::default();
    for (index, bytes) in encoded.iter().enumerate() {
        let frame = Frame::decode(bytes).map_err(|error| Malformed::Frame { index, error })?;
        let trailing = bytes.len().saturating_sub(frame.encoded_len());
        if trailing > 0 {
            return Err(Malformed::Trailing {
                index,
                bytes: trailing,
            });
        }
        if frame.id.sequence.0 == 0 {
            return Err(Malformed::Number { index });
        }
        crate::metrics::received(frame.id.lane, frame.rows, bytes.len());
        match table_by_id(frame.table) {
            // Rows of one lane in another would pass by its quota and its rate.
            Some(table) if table.lane != frame.id.lane && !frame.tombstone => {
                checked.gaps.push(gap(&frame, "wrong_lane"));
                checked.frames.push(frame.shed());
            }
            // Tables that only a newer collector knows are the sink's to count.
            _ => checked.frames.push(frame),
        }
    }
    Ok(checked)
}

fn gap(frame: &Frame, reason: &'static str) -> Gap {
    crate::metrics::refused(reason);
    Gap {
        time: TimeMicros::now(),
        table: table_by_id(frame.table).map_or_else(|| "*".to_owned(), |table| table.name.to_owned()),
        lane: frame.id.lane,
        from_time: frame.from_time,
        to_time: frame.to_time,
        count: frame.rows.into(),
        exactness: Exactness::Exact,
        stage: GapStage::Ingest,
        reason: reason.to_owned(),
    }
}

/// One host's way into the sink.
pub(crate) struct Committer<'a> {
    pub(crate) sink: &'a dyn DurableSink,
    pub(crate) host: HostId,
    pub(crate) timeout: Duration,
    /// The highest number of each stream that the sink has, or will have with the present commit.
    pub(crate) marks: HashMap<(SpoolEpoch, Lane), u64>,
}

/// What a commit did.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    pub(crate) marks: Vec<Mark>,
    /// Identities that are stored with other content.
    pub(crate) conflicts: Vec<RecordId>,
}

impl Committer<'_> {
    /// Commits the frames of one message.
    pub(crate) async fn commit(&mut self, checked: Checked) -> Result<Committed, SinkError> {
        let Checked { mut frames, mut gaps } = checked;
        let streams: Vec<_> = frames
            .iter()
            .map(|frame| (frame.id.epoch, frame.id.lane))
            .collect();
        self.declare_lost(&frames);
        let mut done = Committed::default();
        let mut declared = None;
        let begun = Instant::now();
        // Each turn but one takes a frame out or declares another number lost, so this ends.
        while !frames.is_empty() {
            match self.within(self.sink.commit(self.host, frames.clone())).await {
                Ok(marks) => {
                    done.marks = marks;
                    break;
                }
                Err(SinkError::Conflict { id }) => {
                    gaps.extend(
                        frames
                            .iter()
                            .find(|frame| frame.id == id)
                            .map(|frame| gap(frame, "identity_conflict")),
                    );
                    let before = frames.len();
                    frames.retain(|frame| frame.id != id);
                    if frames.len() == before {
                        return Err(SinkError::Conflict { id });
                    }
                    done.conflicts.push(id);
                }
                Err(SinkError::OutOfOrder { id, expected }) if declared < Some(id) => {
                    tracing::warn!(host = %self.host, ?id, expected, "host skips numbers; they are declared lost");
                    declared = Some(id);
                    self.sink.declare_lost(self.host, id);
                }
                Err(error) => return Err(error),
            }
        }
        crate::metrics::committed(begun.elapsed());
        if !gaps.is_empty() {
            self.within(self.sink.record_gaps(self.host, gaps)).await?;
        }
        if done.marks.is_empty() {
            done.marks = self.sink.marks(self.host);
        }
        done.marks
            .retain(|mark| streams.contains(&(mark.epoch, mark.lane)));
        for mark in &done.marks {
            self.marks.insert((mark.epoch, mark.lane), mark.sequence.0);
        }
        Ok(done)
    }

    /// A host sends in order: what a stream jumps over it does not have.
    fn declare_lost(&mut self, frames: &[Frame]) {
        for frame in frames {
            let id = frame.id;
            let mark = self.marks.entry((id.epoch, id.lane)).or_insert(0);
            if id.sequence.0 > mark.saturating_add(1) {
                self.sink.declare_lost(self.host, id);
            }
            *mark = id.sequence.0.max(*mark);
        }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, SinkError>>) -> Result<T, SinkError> {
        timeout(self.timeout, work)
            .await
            .unwrap_or(Err(SinkError::Late { after: self.timeout }))
    }
}
