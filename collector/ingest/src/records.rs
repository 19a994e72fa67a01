//! From the bytes of a message to durable records.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk, table_by_id};
use fleetmend_event::{Frame, FrameError, HostId, Lane, Mark, RecordId, SpoolEpoch, Table, TimeMicros};
use tokio::time::timeout;

use crate::clock::StreamClock;
use crate::config::MESSAGE_FRAMES_MAX;
use crate::sink::{DurableSink, SinkError, TimedFrame};

/// Reason of the gap that tells of a record refused because another one has its number. Whoever sent it is named in the
/// audit at once.
pub const CONFLICT: &str = "identity_conflict";

/// Messages up to this size are checked where they are; larger ones on a blocking thread.
const CHECKED_HERE_BYTES: usize = 64 * 1024;

/// Streams of a host whose marks are kept between two messages; with more the sink is asked again, which bounds them.
const STREAMS_MAX: usize = 256;

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
    /// Losses of frames that became tombstones here, with the times of their host.
    pub(crate) gaps: Vec<(RecordId, Gap)>,
    /// Frames that became tombstones and whose loss is still to be counted.
    astray: Vec<Frame>,
}

/// A message that was not checked to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The check panicked or was cancelled; nothing is known of the frames.
    #[error("the check of a message did not finish")]
    Unfinished,
}

/// Takes the frames apart and checks them, as far as can be said without their rows.
pub(crate) async fn check(encoded: Vec<Bytes>) -> Result<Checked, CheckError> {
    if encoded.len() > MESSAGE_FRAMES_MAX {
        let frames = encoded.len();
        return Err(Malformed::TooMany { frames }.into());
    }
    let checked = if encoded.iter().map(Bytes::len).sum::<usize>() <= CHECKED_HERE_BYTES {
        check_all(&encoded)?
    } else {
        blocking(move || check_all(&encoded)).await?
    };
    if checked.astray.is_empty() {
        return Ok(checked);
    }
    // However short the message is: a body of some bytes may be long before compression.
    blocking(move || Ok(checked.counted())).await
}

impl Checked {
    /// With the losses of what went astray; decodes it.
    fn counted(mut self) -> Self {
        for frame in std::mem::take(&mut self.astray) {
            self.gaps.push((frame.id, gap(&frame, "wrong_lane")));
        }
        self
    }
}

/// Never an empty message in the place of one that could not be checked: its numbers would count as lost.
async fn blocking(
    check: impl FnOnce() -> Result<Checked, Malformed> + Send + 'static,
) -> Result<Checked, CheckError> {
    let checked = tokio::task::spawn_blocking(check).await;
    Ok(checked.map_err(|_| CheckError::Unfinished)??)
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
                checked.frames.push(frame.shed());
                checked.astray.push(frame);
            }
            // Tables that only a newer collector knows are the sink's to count.
            _ => checked.frames.push(frame),
        }
    }
    Ok(checked)
}

/// The loss of a frame, with the times of its host. A row of metrics holds many samples, each a row of SQL: where they
/// cannot be counted, at least one was in each. Decodes the frame; not on the runtime.
fn gap(frame: &Frame, reason: &'static str) -> Gap {
    crate::metrics::refused(reason);
    let (count, exactness) = match frame.facts() {
        Some(facts) => (facts, Exactness::Exact),
        None if frame.table == MetricChunk::ID => (frame.rows.into(), Exactness::AtLeast),
        None => (frame.rows.into(), Exactness::Exact),
    };
    Gap {
        time: TimeMicros::now(),
        table: table_by_id(frame.table).map_or_else(|| "*".to_owned(), |table| table.name.to_owned()),
        lane: frame.id.lane,
        from_time: frame.from_time,
        to_time: frame.to_time,
        count,
        exactness,
        stage: GapStage::Ingest,
        reason: reason.to_owned(),
    }
}

/// The highest number of each stream among the marks of a host.
pub(crate) fn by_stream(marks: &[Mark]) -> HashMap<(SpoolEpoch, Lane), u64> {
    let marks = marks.iter();
    marks
        .map(|mark| ((mark.epoch, mark.lane), mark.sequence.0))
        .collect()
}

/// One host's way into the sink.
pub(crate) struct Committer<'a> {
    pub(crate) sink: &'a dyn DurableSink,
    pub(crate) host: HostId,
    pub(crate) clock: StreamClock,
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
        let (mut frames, mut gaps) = self.timed(checked);
        let ids = frames.iter().map(|timed| timed.frame.id);
        let streams: Vec<_> = ids.map(|id| (id.epoch, id.lane)).collect();
        if self.marks.len() > STREAMS_MAX {
            self.marks = by_stream(&self.within(self.sink.marks(self.host)).await?);
        }
        self.declare_lost(&frames);
        let mut done = Committed::default();
        let mut declared = None;
        let begun = Instant::now();
        // Each turn but one takes a frame out or declares another number lost, so this ends.
        while !frames.is_empty() || !gaps.is_empty() {
            let commit = self.sink.commit(self.host, frames.clone(), gaps.clone());
            match self.within(commit).await {
                Ok(marks) => {
                    done.marks = marks;
                    break;
                }
                Err(SinkError::Conflict { id }) => {
                    let index = frames.iter().position(|timed| timed.frame.id == id);
                    let refused = index.map(|index| frames.remove(index));
                    let refused = refused.ok_or(SinkError::Conflict { id })?;
                    gaps.push((id, conflict(refused).await));
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
        if done.marks.is_empty() {
            done.marks = self.within(self.sink.marks(self.host)).await?;
        }
        done.marks
            .retain(|mark| streams.contains(&(mark.epoch, mark.lane)));
        for mark in &done.marks {
            self.marks.insert((mark.epoch, mark.lane), mark.sequence.0);
        }
        Ok(done)
    }

    /// What is known of the clock that stamped each frame, and the losses by the collector's clock.
    fn timed(&self, checked: Checked) -> (Vec<TimedFrame>, Vec<(RecordId, Gap)>) {
        let Checked { frames, mut gaps, .. } = checked;
        let now = TimeMicros::now();
        let timed = |frame: Frame| TimedFrame {
            clock_ahead_us: self.clock.ahead_of(&frame, now),
            frame,
        };
        let frames: Vec<TimedFrame> = frames.into_iter().map(timed).collect();
        for (id, gap) in &mut gaps {
            let of = frames.iter().find(|timed| timed.frame.id == *id);
            set_back(gap, of.and_then(|timed| timed.clock_ahead_us));
        }
        (frames, gaps)
    }

    /// A host sends in order: what a stream jumps over it does not have.
    fn declare_lost(&mut self, frames: &[TimedFrame]) {
        for TimedFrame { frame, .. } in frames {
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

/// The loss of a frame whose number is stored with other content, by the collector's clock. Of a batch of metrics that
/// two copies of a disk completed, the stored one has the ticks before the copy, and may have all: at least none is lost.
async fn conflict(refused: TimedFrame) -> Gap {
    let TimedFrame {
        frame,
        clock_ahead_us,
    } = refused;
    let shed = frame.shed();
    let counted = tokio::task::spawn_blocking(move || gap(&frame, CONFLICT)).await;
    // Without the rows, as when the count did not finish.
    let mut gap = counted.unwrap_or_else(|_| gap(&shed, CONFLICT));
    if gap.lane == Lane::Metrics {
        (gap.count, gap.exactness) = (0, Exactness::AtLeast);
    }
    set_back(&mut gap, clock_ahead_us);
    gap
}

/// Tells a gap's span by the collector's clock, as far as the host's is known.
fn set_back(gap: &mut Gap, clock_ahead_us: Option<i64>) {
    let behind = clock_ahead_us.unwrap_or(0).saturating_neg();
    gap.from_time = gap.from_time.plus_micros(behind);
    gap.to_time = gap.to_time.plus_micros(behind);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use fleetmend_event::Sequence;
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_went_astray_is_not_decoded_on_the_runtime() {
        let frame = Frame {
            id: RecordId {
                epoch: SpoolEpoch::from_bytes([1; 16]),
                lane: Lane::Critical,
                sequence: Sequence(1),
            },
            table: MetricChunk::ID,
            schema_version: MetricChunk::VERSION,
            tombstone: false,
            rows: 3,
            made_at: TimeMicros(1),
            made_boot_us: 1,
            from_time: TimeMicros(1),
            to_time: TimeMicros(1),
            body: Bytes::from_static(b"no batch"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (release, held) = mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            let mut checking = Box::pin(check(vec![frame.encode()]));
            assert!(
                checking.as_mut().now_or_never().is_none(),
                "it was decoded on the runtime"
            );
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            let checked = checking.await.unwrap();
            assert!(checked.frames.iter().all(|frame| frame.tombstone));
            let (id, gap) = &checked.gaps[0];
            assert_eq!((*id, gap.count, gap.exactness), (frame.id, 3, Exactness::AtLeast));
        });
    }

    #[tokio::test]
    async fn check_that_panics_is_no_empty_message() {
        let outcome = blocking(|| std::panic::resume_unwind(Box::new("a fault of ours"))).await;
        assert!(matches!(outcome, Err(CheckError::Unfinished)));
    }
}
