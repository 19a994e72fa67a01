//! The records of `abi.h`, read from the bytes of a ring.
//!
//! Numbers are read one by one at fixed offsets as little-endian (the objects are compiled for it), so no
//! struct is ever laid over foreign bytes. The offsets are compared with the compiled objects by the tests.

mod layout;
#[cfg(test)]
mod tests;

pub use layout::FieldLayout;
use layout::record;

/// Version of the layouts below; equals `ABI_VERSION` in `abi.h`.
pub const VERSION: u32 = 1;
/// Bytes of a task's name, NUL included.
pub const COMM_BYTES: usize = 16;
/// Most bytes of an executable's path that a record carries.
pub const FILENAME_BYTES_MAX: usize = 256;
/// Most bytes of arguments that a record carries.
pub const ARGV_BYTES_MAX: usize = 1024;

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

/// Indexes of the per-CPU counters of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Events that should become a record.
    Seen = 0,
    /// Records that entered the ring.
    Delivered = 1,
    /// Records that found the ring full.
    RingFull = 2,
}

/// How the owner of a socket is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerSource {
    /// Not at all.
    None,
    /// Seen in the owner's own context.
    Caller,
    /// Taken from the listener on the port.
    Listener,
}

/// Which side opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It was open before the probe was loaded.
    Unknown,
    /// This host connected.
    Outbound,
    /// This host accepted.
    Inbound,
}

/// What happened to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEventKind {
    /// A connection to elsewhere was established.
    Connect,
    /// A connection to elsewhere could not be established.
    ConnectFailed,
    /// A connection from elsewhere was established.
    Accept,
    /// A socket began to listen.
    Listen,
    /// An established connection ended.
    Close,
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

record! {
    /// `socket_record`: a TCP socket changed its state.
    pub struct SocketRecord("socket_record", 152) {
        time_ns: u64 = 0, "head.time_ns";
        kind: u16 = 8, "head.kind";
        pid: u32 = 12, "head.pid";
        pid_start_ns: u64 = 16, "pid_start_ns";
        cgroup_id: u64 = 24, "cgroup_id";
        cgroup_set: u64 = 32, "cgroup_set";
        socket: u64 = 40, "socket";
        bytes_sent: u64 = 48, "bytes_sent";
        bytes_received: u64 = 56, "bytes_received";
        elapsed_ns: u64 = 64, "elapsed_ns";
        uid: u32 = 72, "uid";
        netns: u32 = 76, "netns";
        error: u32 = 80, "error";
        retransmits: u32 = 84, "retransmits";
        srtt_us: u32 = 88, "srtt_us";
        family: u16 = 92, "family";
        local_port: u16 = 94, "local_port";
        remote_port: u16 = 96, "remote_port";
        owner: u8 = 98, "owner";
        direction: u8 = 99, "direction";
        local: [u8; 16] = 104, "local";
        remote: [u8; 16] = 120, "remote";
        comm: [u8; 16] = 136, "comm";
    }
}

/// One record of a ring.
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
    /// A socket changed.
    Socket(SocketEventKind, SocketRecord),
}

impl<'a> Record<'a> {
    /// Reads one record.
    ///
    /// # Errors
    /// When the bytes are fewer than the record says or its kind is unknown.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, AbiError> {
        let kind = layout::read_u16(bytes, 8)?;
        match kind {
            1 => {
                let record = ExecRecord::parse(bytes)?;
                let filename_end = ExecRecord::SIZE + usize::from(record.filename_len);
                let argv_end = filename_end + usize::from(record.argv_len);
                let short = AbiError::Short {
                    wanted: argv_end,
                    found: bytes.len(),
                };
                let filename = bytes.get(ExecRecord::SIZE..filename_end).ok_or(short.clone())?;
                let argv = bytes.get(filename_end..argv_end).ok_or(short)?;
                Ok(Record::Exec {
                    record,
                    filename,
                    argv,
                })
            }
            2 => Ok(Record::Fork(ForkRecord::parse(bytes)?)),
            3 => Ok(Record::Exit(ExitRecord::parse(bytes)?)),
            16 => Ok(Record::Socket(
                SocketEventKind::Connect,
                SocketRecord::parse(bytes)?,
            )),
            17 => Ok(Record::Socket(
                SocketEventKind::ConnectFailed,
                SocketRecord::parse(bytes)?,
            )),
            18 => Ok(Record::Socket(
                SocketEventKind::Accept,
                SocketRecord::parse(bytes)?,
            )),
            19 => Ok(Record::Socket(
                SocketEventKind::Listen,
                SocketRecord::parse(bytes)?,
            )),
            20 => Ok(Record::Socket(
                SocketEventKind::Close,
                SocketRecord::parse(bytes)?,
            )),
            other => Err(AbiError::Kind(other)),
        }
    }
}

impl SocketRecord {
    /// How the owner is known; an unknown byte counts as not at all.
    pub const fn owner_source(&self) -> OwnerSource {
        match self.owner {
            1 => OwnerSource::Caller,
            2 => OwnerSource::Listener,
            _ => OwnerSource::None,
        }
    }

    /// Which side opened the connection.
    pub const fn opened(&self) -> Direction {
        match self.direction {
            1 => Direction::Outbound,
            2 => Direction::Inbound,
            _ => Direction::Unknown,
        }
    }
}

/// Who listens on a port, as the agent seeds it for sockets that listened before the probe was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerSeed {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The port.
    pub port: u16,
    /// The owner's process id.
    pub pid: u32,
    /// The owner's user.
    pub uid: u32,
    /// When the owner started, boot clock, nanoseconds.
    pub pid_start_ns: u64,
    /// The owner's name.
    pub comm: [u8; COMM_BYTES],
}

impl ListenerSeed {
    /// Bytes of `struct listener_key`.
    pub fn key(&self) -> [u8; 8] {
        let mut key = [0; 8];
        layout::write(&mut key, 0, &self.netns.to_le_bytes());
        layout::write(&mut key, 4, &self.port.to_le_bytes());
        key
    }

    /// Bytes of `struct socket_owner`.
    pub fn value(&self) -> [u8; 64] {
        let mut value = [0; 64];
        layout::write(&mut value, 8, &self.pid_start_ns.to_le_bytes());
        layout::write(&mut value, 32, &self.pid.to_le_bytes());
        layout::write(&mut value, 36, &self.uid.to_le_bytes());
        layout::write(&mut value, 40, &[2, 2]);
        layout::write(&mut value, 48, &self.comm);
        value
    }
}
