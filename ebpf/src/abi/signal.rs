//! Records of the family `signal`: `abi/signal.h`.

use super::layout::record;
use super::{AbiError, Layout};

/// A signal from one process to another.
pub const KIND_SIGNAL: u16 = 112;
/// A fault.
pub const KIND_FAULT: u16 = 113;
/// A kill for lack of memory.
pub const KIND_OOM_KILL: u16 = 114;

record! {
    /// `signal_record`: a signal, a fault or a kill for lack of memory.
    pub struct SignalRecord("signal_record", 168) {
        time_ns: u64 = 0, "act.head.time_ns";
        kind: u16 = 8, "act.head.kind";
        flags: u16 = 10, "act.head.flags";
        target_start_ns: u64 = 104, "target.start_ns";
        target_pid: u32 = 112, "target.pid";
        target_uid: u32 = 116, "target.uid";
        target_comm: [u8; 16] = 120, "target.comm";
        target_cgroup_id: u64 = 136, "target_cgroup_id";
        target_cgroup_set: u64 = 144, "target_cgroup_set";
        rss_pages: u64 = 152, "rss_pages";
        signal: i32 = 160, "signal";
        code: i32 = 164, "code";
    }
}

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[SignalRecord::LAYOUT];

/// Reads bytes as a record.
///
/// # Errors
/// When they are fewer than it has, or of a kind that is not known.
pub fn read(bytes: &[u8]) -> Result<SignalRecord, AbiError> {
    match super::kind_of(bytes)? {
        KIND_SIGNAL..=KIND_OOM_KILL => SignalRecord::parse(bytes),
        other => Err(AbiError::Kind(other)),
    }
}

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    super::check_act(bytes, read)
}
