//! What ingest needs of the store.

use std::time::Duration;

use async_trait::async_trait;
use fleetmend_event::table::Gap;
use fleetmend_event::{Frame, HostId, Mark, RecordId, TimeMicros};

/// A frame with what its receiver knows of the clock that stamped it.
#[derive(Debug, Clone)]
pub struct TimedFrame {
    /// The frame.
    pub frame: Frame,
    /// How much the host's clock was ahead of the collector's when it was made, microseconds; `None` when nobody
    /// knows. It is stored with the rows.
    pub clock_ahead_us: Option<i64>,
}

/// Where frames become durable.
#[async_trait]
pub trait DurableSink: Send + Sync + 'static {
    /// Makes frames of a host durable, all or none, and returns the marks of their streams. A record that is
    /// stored already is left out; one whose rows cannot be read is stored as a tombstone, with a gap row.
    ///
    /// `gaps` are losses that are known before, each with the record it is of, durable in the same step: one of a
    /// record among `frames` is stored when that record is, any other in any case. Their times are the collector's.
    ///
    /// # Cancel safety
    /// May be dropped; the frames may become durable all the same. Sending again stores them once.
    async fn commit(
        &self,
        host: HostId,
        frames: Vec<TimedFrame>,
        gaps: Vec<(RecordId, Gap)>,
    ) -> Result<Vec<Mark>, SinkError>;

    /// What is durable of a host, at most some hundred marks: they go into one message. Where several collectors
    /// share a store, this one takes the host over.
    ///
    /// # Cancel safety
    /// May be dropped; asking again is answered.
    async fn marks(&self, host: HostId) -> Result<Vec<Mark>, SinkError>;

    /// When anything of a host was last made durable, by the clock of the collector; `None` when nobody knows, as
    /// before its marks were asked for.
    fn last_durable(&self, host: HostId) -> Option<TimeMicros>;

    /// The host does not have the records before `id` any more: that record may come next, and what it skips is
    /// a gap.
    fn declare_lost(&self, host: HostId, id: RecordId);

    /// The life of the store: changes when it is made anew or restored.
    fn store_epoch(&self) -> [u8; 16];
}

/// Frames were not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// A number was skipped.
    #[error("record {} of lane {} came where {expected} was expected", id.sequence, id.lane)]
    OutOfOrder {
        /// The record that came.
        id: RecordId,
        /// The number that was expected.
        expected: u64,
    },
    /// Another record is stored under this identity.
    #[error("record {} of lane {} differs from the one stored under its number", id.sequence, id.lane)]
    Conflict {
        /// The identity both claim.
        id: RecordId,
    },
    /// Later, perhaps.
    #[error("the store cannot take records now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// Not in time.
    #[error("the store took longer than {} s", after.as_secs())]
    Late {
        /// How long it was given.
        after: Duration,
    },
    /// Never.
    #[error("the store refuses the records: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}
