//! Records of the family `network`: `abi/network.h`.

use super::layout::{self, record};
use super::{AbiError, COMM_BYTES, FieldLayout, Layout, kind_of};

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

impl SocketEventKind {
    /// What the kind of a record stands for.
    ///
    /// # Errors
    /// When it is unknown.
    pub const fn of(kind: u16) -> Result<Self, AbiError> {
        Ok(match kind {
            1 => SocketEventKind::Connect,
            2 => SocketEventKind::ConnectFailed,
            3 => SocketEventKind::Accept,
            4 => SocketEventKind::Listen,
            5 => SocketEventKind::Close,
            other => return Err(AbiError::Kind(other)),
        })
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

/// Who listens on an address and port, as the agent seeds it for sockets that listened before the probe was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerSeed {
    /// The address as IPv6 has it, of IPv4 the mapped one; all 0 for any.
    pub address: [u8; 16],
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
    pub fn key(&self) -> [u8; 24] {
        let mut key = [0; 24];
        layout::write(&mut key, 0, &self.address);
        layout::write(&mut key, 16, &self.netns.to_le_bytes());
        layout::write(&mut key, 20, &self.port.to_le_bytes());
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

/// Layouts of the records and of what the map of listeners holds.
pub const LAYOUTS: &[Layout] = &[
    SocketRecord::LAYOUT,
    Layout {
        name: "listener_key",
        size: 24,
        fields: &[
            field("address", 0, 16),
            field("netns", 16, 4),
            field("port", 20, 2),
        ],
    },
    Layout {
        name: "socket_owner",
        size: 64,
        fields: &[
            field("pid_start_ns", 8, 8),
            field("pid", 32, 4),
            field("uid", 36, 4),
            field("owner", 40, 1),
            field("direction", 41, 1),
            field("comm", 48, 16),
        ],
    },
];

const fn field(name: &'static str, offset: usize, size: usize) -> FieldLayout {
    FieldLayout { name, offset, size }
}

/// Reads bytes as a record.
///
/// # Errors
/// When they are not one.
pub fn check(bytes: &[u8]) -> Result<(), AbiError> {
    SocketEventKind::of(kind_of(bytes)?)?;
    SocketRecord::parse(bytes).map(drop)
}
