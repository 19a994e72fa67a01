//! What the stream needs of the spool.

use bytes::Bytes;
use fleetmend_event::{Mark, RecordId, SpoolEpoch};
use fleetmend_shutdown::BoxError;

/// An encoded frame and its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFrame {
    /// Its identity.
    pub id: RecordId,
    /// The encoded frame.
    pub bytes: Bytes,
}

/// Which lanes may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceLanes {
    /// All, strictly by priority.
    #[default]
    All,
    /// The critical lane alone: the cap on what leaves the host holds the others back.
    Critical,
}

/// How much one call may return; the first frame is always returned.
#[derive(Debug, Clone, Copy)]
pub struct SourceLimit {
    /// Most frames.
    pub frames: usize,
    /// Most bytes of all frames together.
    pub bytes: usize,
    /// Of which lanes.
    pub lanes: SourceLanes,
}

/// Durable frames in the order in which they are sent: by lane, in a lane by epoch and number.
pub trait FrameSource: Send + 'static {
    /// The epoch that is being written.
    fn epoch(&self) -> SpoolEpoch;

    /// Highest durable number of every epoch and lane.
    fn spooled(&self) -> Vec<Mark>;

    /// Goes on after what the collector has, and takes exactly that as acknowledged.
    fn resume(&mut self, durable: &[Mark]);

    /// The collector has made these durable.
    fn acknowledge(&self, marks: &[Mark]);

    /// The next frames; none when everything durable was returned.
    fn next_frames(
        &mut self,
        limit: SourceLimit,
    ) -> impl Future<Output = Result<Vec<SourceFrame>, BoxError>> + Send;

    /// Waits until there may be more than the last [`FrameSource::next_frames`] saw; `false` when there never
    /// will be.
    ///
    /// # Cancel safety
    /// Must be safe: the stream drops it whenever something else happens.
    fn changed(&mut self) -> impl Future<Output = bool> + Send;
}
