//! The spool as the stream reads it, and as the heal room writes to it.

use agent_heal::{FactSink, SinkClosed};
use agent_spool::{ReadLimit, SpoolHandle, SpoolReader};
use agent_stream::{FrameSource, SourceFrame, SourceLanes, SourceLimit};
use async_trait::async_trait;
use fleetmend_event::{Fact, Mark, SpoolEpoch};
use fleetmend_shutdown::BoxError;
use tokio::sync::mpsc;

/// Adapts the spool's reader to the stream's source.
pub(crate) struct SpoolSource {
    handle: SpoolHandle,
    reader: SpoolReader,
}

impl SpoolSource {
    /// A source that begins with the oldest record that is not acknowledged.
    pub(crate) fn new(handle: SpoolHandle) -> Self {
        let reader = handle.reader();
        Self { handle, reader }
    }
}

impl FrameSource for SpoolSource {
    fn epoch(&self) -> SpoolEpoch {
        self.handle.epoch()
    }

    fn spooled(&self) -> Vec<Mark> {
        self.handle.spooled()
    }

    fn resume(&mut self, durable: &[Mark]) {
        self.reader.resume(durable);
    }

    fn acknowledge(&self, marks: &[Mark]) {
        self.handle.acknowledge(marks);
    }

    async fn next_frames(&mut self, limit: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        let lanes = limit.lanes;
        let limit = ReadLimit {
            frames: limit.frames,
            bytes: limit.bytes,
        };
        let frames = match lanes {
            SourceLanes::All => self.reader.next_frames(limit).await?,
            SourceLanes::Critical => self.reader.next_critical_frames(limit).await?,
        };
        Ok(frames
            .into_iter()
            .map(|frame| SourceFrame {
                id: frame.id,
                bytes: frame.bytes,
            })
            .collect())
    }

    async fn changed(&mut self) -> bool {
        self.reader.changed().await
    }
}

/// Where the heal room's facts go: what the healer did is on disk before the room counts it as read, everything
/// else takes the way of all facts.
pub(crate) struct HealSink {
    /// The hub's channel.
    pub(crate) facts: mpsc::Sender<Fact>,
    /// The spool.
    pub(crate) spool: SpoolHandle,
}

#[async_trait]
impl FactSink for HealSink {
    async fn deliver(&self, facts: Vec<Fact>) -> Result<(), SinkClosed> {
        let mut spooled = false;
        for fact in facts {
            if matches!(fact, Fact::Ledger(_) | Fact::Action(_)) {
                self.spool.append(fact);
                spooled = true;
            } else {
                self.facts.send(fact).await.map_err(|_| SinkClosed)?;
            }
        }
        if spooled && !self.spool.flush().await {
            return Err(SinkClosed);
        }
        Ok(())
    }
}
