//! Records of the family `process`: `abi/process.h`.

use super::layout::{self, record};
use super::{AbiError, Layout, kind_of};

/// Most bytes of an executable's path that a record carries.
pub const FILENAME_BYTES_MAX: usize = 256;
/// Most bytes of arguments that a record carries.
pub const ARGV_BYTES_MAX: usize = 1024;

/// A program was executed.
pub const KIND_EXEC: u16 = 1;
/// A process was made.
pub const KIND_FORK: u16 = 2;
/// A process ended.
pub const KIND_EXIT: u16 = 3;

/// Flags of an exec record.
pub mod flag {
    /// The arguments are longer than the record.
    pub const ARGV_TRUNCATED: u16 = 1;
    /// The arguments could not be read.
    pub const ARGV_UNREADABLE: u16 = 2;
    /// The executable has no name left in its file system.
    pub const EXE_DELETED: u16 = 4;
    /// The path is longer than the record.
    pub const FILENAME_TRUNCATED: u16 = 8;
}

record! {
    /// `exec_record`, without the text that follows it.
    pub struct ExecRecord("exec_record", 128) {
        time_ns: u64 = 0, "head.time_ns";
        kind: u16 = 8, "head.kind";
        flags: u16 = 10, "head.flags";
        pid: u32 = 12, "head.pid";
        start_ns: u64 = 16, "process.start_ns";
        parent_start_ns: u64 = 24, "process.parent_start_ns";
        cgroup_id: u64 = 32, "process.cgroup_id";
        cgroup_set: u64 = 40, "process.cgroup_set";
        ppid: u32 = 48, "process.ppid";
        uid: u32 = 52, "process.uid";
        gid: u32 = 56, "process.gid";
        euid: u32 = 60, "process.euid";
        loginuid: u32 = 64, "process.loginuid";
        comm: [u8; 16] = 72, "process.comm";
        parent_comm: [u8; 16] = 88, "process.parent_comm";
        exe_inode: u64 = 104, "exe_inode";
        exe_device: u32 = 112, "exe_device";
        argv_total: u32 = 116, "argv_total";
        argv_len: u16 = 120, "argv_len";
        filename_len: u16 = 122, "filename_len";
    }
}

record! {
    /// `fork_record`: a new process, seen before it first runs.
    pub struct ForkRecord("fork_record", 104) {
        time_ns: u64 = 0, "head.time_ns";
        pid: u32 = 12, "head.pid";
        start_ns: u64 = 16, "process.start_ns";
        parent_start_ns: u64 = 24, "process.parent_start_ns";
        cgroup_id: u64 = 32, "process.cgroup_id";
        cgroup_set: u64 = 40, "process.cgroup_set";
        ppid: u32 = 48, "process.ppid";
        uid: u32 = 52, "process.uid";
        gid: u32 = 56, "process.gid";
        euid: u32 = 60, "process.euid";
        loginuid: u32 = 64, "process.loginuid";
        comm: [u8; 16] = 72, "process.comm";
        parent_comm: [u8; 16] = 88, "process.parent_comm";
    }
}

record! {
    /// `exit_record`: the last thread of a process ended.
    pub struct ExitRecord("exit_record", 144) {
        time_ns: u64 = 0, "head.time_ns";
        pid: u32 = 12, "head.pid";
        start_ns: u64 = 16, "process.start_ns";
        parent_start_ns: u64 = 24, "process.parent_start_ns";
        cgroup_id: u64 = 32, "process.cgroup_id";
        cgroup_set: u64 = 40, "process.cgroup_set";
        ppid: u32 = 48, "process.ppid";
        uid: u32 = 52, "process.uid";
        gid: u32 = 56, "process.gid";
        euid: u32 = 60, "process.euid";
        loginuid: u32 = 64, "process.loginuid";
        comm: [u8; 16] = 72, "process.comm";
        parent_comm: [u8; 16] = 88, "process.parent_comm";
        utime_ns: u64 = 104, "utime_ns";
        stime_ns: u64 = 112, "stime_ns";
        cpu_ns: u64 = 120, "cpu_ns";
        maxrss_pages: u64 = 128, "maxrss_pages";
        exit_code: u32 = 136, "exit_code";
    }
}

/// One record of the family's ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A process replaced its program.
    Exec {
        /// The fixed part.
        record: ExecRecord,
        /// The program's path as it was given to the kernel; of a script, its interpreter's.
        filename: &'a [u8],
        /// The arguments, each ended by a NUL; the last may be cut.
        argv: &'a [u8],
    },
    /// A process was made.
    Fork(ForkRecord),
    /// A process ended.
    Exit(ExitRecord),
}

impl<'a> Record<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// When the bytes are fewer than the record says or its kind is unknown.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, AbiError> {
        match kind_of(bytes)? {
            KIND_EXEC => {
                let record = ExecRecord::parse(bytes)?;
                let filename = layout::tail(bytes, ExecRecord::SIZE, record.filename_len)?;
                let argv = layout::tail(bytes, ExecRecord::SIZE + filename.len(), record.argv_len)?;
                Ok(Record::Exec {
                    record,
                    filename,
                    argv,
                })
            }
            KIND_FORK => Ok(Record::Fork(ForkRecord::parse(bytes)?)),
            KIND_EXIT => Ok(Record::Exit(ExitRecord::parse(bytes)?)),
            other => Err(AbiError::Kind(other)),
        }
    }
}

/// Layouts of the records.
pub const LAYOUTS: &[Layout] = &[ExecRecord::LAYOUT, ForkRecord::LAYOUT, ExitRecord::LAYOUT];

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    Record::parse(bytes).map(drop)
}
