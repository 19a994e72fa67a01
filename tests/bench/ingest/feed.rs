//! A stock of frames that takes the place of a spool, and remembers when each was due, sent and acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_stream::{FrameSource, SourceFrame, SourceLimit};
use fleetmend_event::{Frame, Lane, Mark, Sequence, SpoolEpoch};
use fleetmend_shutdown::BoxError;
use tokio::sync::watch;

/// When frames are handed over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the collector acknowledges.
    FlatOut,
    /// One frame in each interval, whatever became of those before it.
    Every(Duration),
}

/// Whether frames may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Not yet.
    Closed,
    /// Since this moment.
    Open(Instant),
    /// Not any more.
    Over,
}

/// The frames of one agent. A closed loop goes through them again and again, each time with new numbers.
#[derive(Debug)]
pub(crate) struct Stock {
    /// Numbered from 1.
    pub(crate) frames: Vec<Frame>,
    /// Rows of each, as SQL counts them.
    pub(crate) rows: u64,
}

impl Stock {
    /// The frame that is sent as number `index`, counted from 0.
    fn frame(&self, index: usize) -> Option<&Frame> {
        self.frames.get(index.checked_rem(self.frames.len())?)
    }

    /// Bytes of that frame as a spool holds it.
    pub(crate) fn bytes(&self, index: usize) -> usize {
        self.frame(index).map_or(0, Frame::encoded_len)
    }

    /// How many frames are sent in all.
    pub(crate) fn limit(&self, pace: Pace) -> usize {
        match pace {
            Pace::FlatOut => usize::MAX,
            Pace::Every(_) => self.frames.len(),
        }
    }
}

fn sequence(index: usize) -> Sequence {
    Sequence(u64::try_from(index).unwrap_or(u64::MAX)).next()
}

/// What became of the frames.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Frames that were handed over.
    pub(crate) sent: usize,
    /// Frames that were acknowledged.
    pub(crate) acknowledged: usize,
    /// When the last of them was.
    pub(crate) last_acknowledged: Option<Instant>,
    /// From the moment at which a frame was due to its acknowledgement, milliseconds.
    pub(crate) latency_ms: Vec<f64>,
    /// When each frame that is not acknowledged was due.
    due: Vec<Instant>,
}

/// The source of one agent's stream in one phase.
pub(crate) struct Feed {
    stock: Arc<Stock>,
    epoch: SpoolEpoch,
    lane: Lane,
    pace: Pace,
    /// Part of an interval by which this agent is later than the first.
    offset: Duration,
    gate: watch::Receiver<Gate>,
    progress: Arc<Mutex<Progress>>,
}

impl Feed {
    pub(crate) fn new(
        stock: Arc<Stock>,
        lane: Lane,
        pace: Pace,
        offset: Duration,
        gate: watch::Receiver<Gate>,
        progress: Arc<Mutex<Progress>>,
    ) -> Self {
        let epoch = stock
            .frames
            .first()
            .map_or_else(SpoolEpoch::random, |first| first.id.epoch);
        Self {
            stock,
            epoch,
            lane,
            pace,
            offset,
            gate,
            progress,
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When frame `index` may be sent; none while the gate is closed or when there is none.
    fn due(&self, gate: Gate, index: usize) -> Option<Instant> {
        let Gate::Open(since) = gate else { return None };
        (index < self.stock.limit(self.pace)).then_some(())?;
        match self.pace {
            Pace::FlatOut => Some(since),
            Pace::Every(interval) => {
                let intervals = u32::try_from(index).unwrap_or(u32::MAX);
                Some(since + self.offset + interval.saturating_mul(intervals))
            }
        }
    }
}

impl FrameSource for Feed {
    fn epoch(&self) -> SpoolEpoch {
        self.epoch
    }

    fn spooled(&self) -> Vec<Mark> {
        let sent = self.progress().sent;
        let mark = |last| Mark {
            epoch: self.epoch,
            lane: self.lane,
            sequence: sequence(last),
        };
        sent.checked_sub(1).map(mark).into_iter().collect()
    }

    fn resume(&mut self, durable: &[Mark]) {
        self.acknowledge(durable);
        // What was sent and is not durable is sent again; it is still due when it was.
        let mut progress = self.progress();
        progress.sent = progress.acknowledged;
        let acknowledged = progress.acknowledged;
        progress.due.truncate(acknowledged);
    }

    fn acknowledge(&self, marks: &[Mark]) {
        let now = Instant::now();
        let covered = |index: usize| {
            marks.iter().any(|mark| {
                mark.epoch == self.epoch && mark.lane == self.lane && sequence(index) <= mark.sequence
            })
        };
        let mut progress = self.progress();
        while progress.acknowledged < progress.sent && covered(progress.acknowledged) {
            let due = progress.due.get(progress.acknowledged).copied().unwrap_or(now);
            progress
                .latency_ms
                .push(now.saturating_duration_since(due).as_secs_f64() * 1e3);
            progress.acknowledged += 1;
            progress.last_acknowledged = Some(now);
        }
    }

    async fn next_frames(&mut self, limit: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        let gate = *self.gate.borrow();
        let now = Instant::now();
        let mut progress = self.progress();
        let mut frames = Vec::new();
        let mut bytes = 0_usize;
        while frames.len() < limit.frames {
            let (Some(frame), Some(due)) = (self.stock.frame(progress.sent), self.due(gate, progress.sent))
            else {
                break;
            };
            bytes = bytes.saturating_add(frame.encoded_len());
            if due > now || (bytes > limit.bytes && !frames.is_empty()) {
                break;
            }
            let mut frame = frame.clone();
            frame.id.sequence = sequence(progress.sent);
            frames.push(SourceFrame {
                id: frame.id,
                bytes: frame.encode(),
            });
            progress.sent += 1;
            // A frame of the closed loop is due when it is handed over.
            progress.due.push(match self.pace {
                Pace::FlatOut => now,
                Pace::Every(_) => due,
            });
        }
        Ok(frames)
    }

    async fn changed(&mut self) -> bool {
        loop {
            let gate = *self.gate.borrow_and_update();
            let next = self.progress().sent;
            if gate == Gate::Over || next >= self.stock.limit(self.pace) {
                return false;
            }
            if let Some(due) = self.due(gate, next) {
                tokio::time::sleep_until(due.into()).await;
                return true;
            }
            if self.gate.changed().await.is_err() {
                return false;
            }
        }
    }
}
