//! What the spool says of itself, for `fleetmend-agent status`.

use fleetmend_event::{Lane, SpoolEpoch};
use serde::Serialize;

/// State of the spool.
#[derive(Debug, Clone, Serialize)]
pub struct SpoolStat {
    /// The epoch that is being written.
    pub epoch: SpoolEpoch,
    /// Epochs of which something is left.
    pub epochs: usize,
    /// Facts that wait for the writer.
    pub intake_facts: usize,
    /// Whether the disk refused the last write.
    pub disk_refuses: bool,
    /// The lanes, by priority.
    pub lanes: Vec<LaneStat>,
}

/// State of one lane, over all epochs.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStat {
    /// The lane.
    pub lane: Lane,
    /// Records that the collector does not have yet.
    pub waiting: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Most bytes it may have.
    pub quota_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Highest number in the current epoch; 0 when there is none.
    pub highest: u64,
    /// Highest number of the current epoch that the collector has.
    pub acknowledged: u64,
}
