//! Connections as the kernel opens, accepts and closes them.

use super::process::Source;
use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// What happened to a connection.
    pub enum NetworkEventKind {
        /// This host opened it.
        Connect = "connect",
        /// This host accepted it.
        Accept = "accept",
        /// It ended.
        Close = "close",
        /// A process of this host began to listen; the remote address is empty.
        Listen = "listen",
    }
}

words! {
    /// How the owning process is known.
    pub enum ConnectionOwner {
        /// It made the call that was seen.
        Caller = "caller",
        /// It owns the listening socket; which of its processes accepted is not known.
        Listener = "listener",
        /// Not known.
        Unknown = "unknown",
    }
}

table! {
    /// A TCP connection opened, accepted or closed.
    pub struct NetworkEvent("network_events", id 3, version 2, Lane::Events) {
        /// When it happened.
        time: TimeMicros,
        /// Nanoseconds on the boot clock when it happened.
        boot_ns: u64,
        /// What happened.
        kind: NetworkEventKind,
        /// How `pid` is known.
        owner: ConnectionOwner,
        /// Process id of the owner; 0 when unknown.
        pid: u32,
        /// Nanoseconds on the boot clock when the owner began; 0 when unknown.
        start_boot_ns: u64,
        /// Command name of the owner.
        comm: String,
        /// User id of the owner.
        uid: u32,
        /// `tcp`.
        protocol: String,
        /// Local address.
        local_address: String,
        /// Local port.
        local_port: u32,
        /// Remote address.
        remote_address: String,
        /// Remote port.
        remote_port: u32,
        /// Bytes sent, for a close.
        bytes_sent: Option<u64>,
        /// Bytes received, for a close.
        bytes_received: Option<u64>,
        /// How long it lasted, in microseconds, for a close of a connection whose opening was seen.
        duration_us: Option<u64>,
        /// Error number, for a connect that failed, when known.
        error: Option<i32>,
        /// Where it was seen.
        source: Source,
        /// Path of the owner's program, when known.
        exe: Option<String>,
        /// Control group of the owner, when known.
        cgroup: Option<String>,
        /// systemd unit of the owner, when its control group names one.
        unit: Option<String>,
        /// Container id of the owner, when its control group names one.
        container_id: Option<String>,
        /// Segments sent again, for a close, when known.
        retransmits: Option<u32>,
        /// Smoothed round trip in microseconds, for a close, when known.
        round_trip_us: Option<u32>,
        /// Namespace of the network, as its inode in /proc/PID/ns/net, when known.
        network_namespace: Option<u32>,
    }
}
