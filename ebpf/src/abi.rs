//! The records of `abi.h` and of the headers beside it, read from the bytes of a ring.
//!
//! Numbers are read one by one at fixed offsets as little-endian (the objects are compiled for it), so no
//! struct is ever laid over foreign bytes. The offsets are compared with the compiled headers by the tests. Each family
//! has a module with its records; kinds are numbered within their family, for each has a ring of its own.

pub mod credential;
pub mod file;
pub mod kernel;
mod layout;
pub mod memory;
pub mod network;
pub mod process;
pub mod resource;
pub mod signal;
#[cfg(test)]
mod tests;

use layout::record;
pub use layout::{FieldLayout, Layout};

/// Version of the layouts below; equals `ABI_VERSION` in `abi.h`.
pub const VERSION: u32 = 3;
/// Bytes of a task's name, NUL included.
pub const COMM_BYTES: usize = 16;
/// Most duties of a family: `DUTIES_MAX` in `abi.h`.
pub const DUTIES_MAX: usize = 32;
/// What `actor.loginuid` is when no session set it.
pub const UID_UNSET: u32 = u32::MAX;

/// The bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    /// Fewer bytes than the record's kind has.
    #[error("a record of {wanted} bytes was cut to {found}")]
    Short {
        /// Bytes that the record has.
        wanted: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// A kind that this version does not know.
    #[error("record kind {0} is not known")]
    Kind(u16),
}

/// Places of the per-CPU counters of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Records that entered a ring.
    Delivered = 0,
    /// Events lost because the ring was full.
    RingFull = 1,
    /// Events lost because a map had no room.
    MapFull = 2,
    /// Events left out because the family was over its budget.
    Shed = 3,
    /// Events that are not told by design.
    Filtered = 4,
    /// Events that are counted in another row's repeats.
    Aggregated = 5,
    /// Entries that made room for others.
    Evicted = 6,
    /// Every event.
    Seen = 7,
}

/// How many counters an object has.
pub const COUNTERS: usize = 8;

/// `struct settings`: whose acts are not told, and how much is shed.
pub const fn settings(own_pid: u32, shed_level: u32) -> [u32; 2] {
    [own_pid, shed_level]
}

/// Reads a record's kind.
///
/// # Errors
/// When there are fewer bytes than a head has.
pub fn kind_of(bytes: &[u8]) -> Result<u16, AbiError> {
    layout::read_u16(bytes, 8)
}

record! {
    /// `act_head`: the beginning of every record of an act.
    pub struct Act("act_head", 104) {
        time_ns: u64 = 0, "head.time_ns";
        kind: u16 = 8, "head.kind";
        flags: u16 = 10, "head.flags";
        start_ns: u64 = 16, "actor.start_ns";
        parent_start_ns: u64 = 24, "actor.parent_start_ns";
        cgroup_id: u64 = 32, "actor.cgroup_id";
        cgroup_set: u64 = 40, "actor.cgroup_set";
        pid: u32 = 48, "actor.pid";
        ppid: u32 = 52, "actor.ppid";
        uid: u32 = 56, "actor.uid";
        euid: u32 = 60, "actor.euid";
        gid: u32 = 64, "actor.gid";
        loginuid: u32 = 68, "actor.loginuid";
        comm: [u8; 16] = 72, "actor.comm";
        error: u32 = 88, "error";
        repeats: u32 = 92, "repeats";
        key: u64 = 96, "key";
    }
}

/// Kind of a [`RepeatsRecord`]; no family has an act of this number.
pub const KIND_REPEATS: u16 = 32;

record! {
    /// `repeats_record`: how often an act was repeated that is not remembered in the kernel any longer.
    pub struct RepeatsRecord("repeats_record", 32) {
        time_ns: u64 = 0, "head.time_ns";
        key: u64 = 16, "key";
        count: u64 = 24, "count";
    }
}

/// Sizes of the tables of repeats.
pub mod repeats {
    /// Places of one set: `REPEAT_WAYS` in `abi.h`.
    pub const WAYS: usize = 4;
    /// Words of one place, `struct repeat`: key, until, count, last.
    pub const WORDS: usize = 4;
    /// Sets of the family `file`: `REPEAT_SETS` in `abi/file.h`.
    pub const FILE_SETS: usize = 2048;
    /// Sets of the other families of acts: `REPEAT_SETS` in `acts.h`.
    pub const ACT_SETS: usize = 1024;
}

const fn repeat_field(name: &'static str, offset: usize) -> FieldLayout {
    FieldLayout {
        name,
        offset,
        size: 8,
    }
}

/// Layouts that all families share.
pub const SHARED: &[Layout] = &[
    Act::LAYOUT,
    RepeatsRecord::LAYOUT,
    Layout {
        name: "repeat",
        size: 32,
        fields: &[
            repeat_field("key", 0),
            repeat_field("until_ns", 8),
            repeat_field("count", 16),
            repeat_field("last_ns", 24),
        ],
    },
];

/// Reads bytes as repeats, or else as an act.
fn check_act<T>(bytes: &[u8], read: fn(&[u8]) -> Result<T, AbiError>) -> Result<(), AbiError> {
    match kind_of(bytes)? {
        KIND_REPEATS => RepeatsRecord::parse(bytes).map(drop),
        _ => read(bytes).map(drop),
    }
}

/// Reads bytes as a record of a family; whatever they are, this only says whether they are one.
pub type Check = fn(&[u8]) -> Result<(), AbiError>;

/// How each family's bytes are read, with the layouts of its records.
pub const FAMILIES: &[(&str, &[Layout], Check)] = &[
    ("process", process::LAYOUTS, process::check),
    ("network", network::LAYOUTS, network::check),
    ("file", file::LAYOUTS, file::check),
    ("credential", credential::LAYOUTS, credential::check),
    ("memory", memory::LAYOUTS, memory::check),
    ("kernel", kernel::LAYOUTS, kernel::check),
    ("signal", signal::LAYOUTS, signal::check),
    ("resource", resource::LAYOUTS, resource::check),
];
