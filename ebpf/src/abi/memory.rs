//! Records of the family `memory`: `abi/memory.h`.

use super::layout::{self, record};
use super::{AbiError, FieldLayout, Layout};

/// ptrace(2) that reaches into another process.
pub const KIND_PTRACE: u16 = 72;
/// process_vm_readv(2).
pub const KIND_PROCESS_VM_READ: u16 = 73;
/// process_vm_writev(2).
pub const KIND_PROCESS_VM_WRITE: u16 = 74;
/// /proc/PID/mem opened for reading.
pub const KIND_PROC_MEM_READ: u16 = 75;
/// /proc/PID/mem opened for writing.
pub const KIND_PROC_MEM_WRITE: u16 = 76;
/// memfd_create(2).
pub const KIND_MEMFD: u16 = 77;
/// A program executed that has no name.
pub const KIND_FILELESS_EXEC: u16 = 78;
/// Memory without a file mapped executable.
pub const KIND_MAP_ANONYMOUS: u16 = 79;
/// Memory made executable, perhaps of a file.
pub const KIND_PROTECT: u16 = 80;
/// A setting under /proc/sys opened for writing.
pub const KIND_SETTING: u16 = 81;
/// The target's pid is one of the actor's own pid namespace.
pub const FLAG_FOREIGN_PID: u16 = 1;

record! {
    /// `memory_record`: an act on memory, or a setting opened for writing.
    pub struct MemoryRecord("memory_record", 416) {
        time_ns: u64 = 0, "act.head.time_ns";
        kind: u16 = 8, "act.head.kind";
        flags: u16 = 10, "act.head.flags";
        target_start_ns: u64 = 104, "target.start_ns";
        target_pid: u32 = 112, "target.pid";
        target_uid: u32 = 116, "target.uid";
        target_comm: [u8; 16] = 120, "target.comm";
        address: u64 = 136, "address";
        length: u64 = 144, "length";
        protection: u32 = 152, "protection";
        request: u32 = 156, "request";
    }
}

const TEXT: FieldLayout = FieldLayout {
    name: "text",
    offset: 160,
    size: 128,
};
const OTHER: FieldLayout = FieldLayout {
    name: "other",
    offset: 288,
    size: 128,
};
const TEXTS: Layout = Layout {
    name: "memory_record",
    size: MemoryRecord::SIZE,
    fields: &[TEXT, OTHER],
};

impl MemoryRecord {
    /// The name or path that the record is about.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn text(bytes: &[u8]) -> Result<&[u8], AbiError> {
        layout::tail(bytes, TEXT.offset, TEXT.size)
    }

    /// The path a program was called by.
    ///
    /// # Errors
    /// When the bytes are too few.
    pub fn other(bytes: &[u8]) -> Result<&[u8], AbiError> {
        layout::tail(bytes, OTHER.offset, OTHER.size)
    }
}

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[MemoryRecord::LAYOUT, TEXTS];

/// Reads bytes as a record.
///
/// # Errors
/// When they are fewer than it has, or of a kind that is not known.
pub fn read(bytes: &[u8]) -> Result<MemoryRecord, AbiError> {
    match super::kind_of(bytes)? {
        KIND_PTRACE..=KIND_SETTING => MemoryRecord::parse(bytes),
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
