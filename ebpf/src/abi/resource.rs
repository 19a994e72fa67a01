//! What the family `resource` counts, in maps instead of records: `abi/resource.h`.

use super::layout::{self, record};
use super::{AbiError, FieldLayout, Layout, kind_of};

/// Buckets of a histogram: bucket `i` counts what took less than 4^i microseconds, the last one the rest.
pub const BUCKETS: usize = 12;
/// Histograms, by their place: of the run queue, of reads and of writes.
pub const HISTOGRAMS: usize = 3;
/// Words of `struct histogram`: the buckets and the sum in nanoseconds.
pub const HISTOGRAM_WORDS: usize = BUCKETS + 1;
/// Bytes of `struct remote_key`.
pub const REMOTE_KEY_BYTES: usize = 24;
/// Bytes of `struct profile_sequence`.
pub const SEQUENCE_BYTES: usize = 544;
/// Calls whose order is kept.
pub const SEQUENCE_CALLS: usize = 256;

record! {
    /// `remote_key`: who was sent to again.
    pub struct RemoteKey("remote_key", 24) {
        address: [u8; 16] = 0, "address";
        family: u16 = 16, "family";
        port: u16 = 18, "port";
    }
}

record! {
    /// `profile_key`: a call of a process.
    pub struct ProfileKey("profile_key", 8) {
        pid: u32 = 0, "pid";
        call: u32 = 4, "call";
    }
}

record! {
    /// `profile_sequence`, without the calls.
    pub struct ProfileSequence("profile_sequence", 544) {
        start_ns: u64 = 0, "start_ns";
        length: u32 = 8, "length";
        dropped: u32 = 12, "dropped";
        comm: [u8; 16] = 16, "comm";
    }
}

const CALLS: FieldLayout = FieldLayout {
    name: "calls",
    offset: 32,
    size: 2 * SEQUENCE_CALLS,
};

impl ProfileSequence {
    /// The first calls in their order.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn order(&self, bytes: &[u8]) -> Result<Vec<u32>, AbiError> {
        let kept = usize::try_from(self.length).unwrap_or(usize::MAX);
        let call = |bytes: &[u8; 2]| u32::from(u16::from_le_bytes(*bytes));
        let calls = layout::tail(bytes, CALLS.offset, CALLS.size)?;
        Ok(calls.as_chunks().0.iter().take(kept).map(call).collect())
    }
}

const ORDER: Layout = Layout {
    name: "profile_sequence",
    size: SEQUENCE_BYTES,
    fields: &[CALLS],
};

/// `struct profile_settings`.
pub const fn profile_settings(only_suspects: bool, own_pid: u32) -> [u32; 2] {
    [only_suspects as u32, own_pid]
}

const HISTOGRAM: Layout = Layout {
    name: "histogram",
    size: HISTOGRAM_WORDS * 8,
    fields: &[],
};

/// Layouts of what lies in the maps.
pub const LAYOUTS: &[Layout] = &[
    HISTOGRAM,
    RemoteKey::LAYOUT,
    ProfileKey::LAYOUT,
    ProfileSequence::LAYOUT,
    ORDER,
];

/// Reads bytes as a record: there is none.
///
/// # Errors
/// Always.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    Err(AbiError::Kind(kind_of(bytes)?))
}
