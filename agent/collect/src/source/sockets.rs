//! The kernel's socket tables, read every few seconds: listeners and TCP connections that began or ended since.
//!
//! The own network namespace is read over sock_diag (`SOCK_DIAG_BY_FAMILY`, include/uapi/linux/inet_diag.h), or of
//! /proc/net/tcp and tcp6 where that is refused; other namespaces of /proc/PID/net/tcp and tcp6. Who holds a socket is
//! found by its inode among the descriptors of /proc/PID/fd, once for each socket.
//!
//! Limits: a connection that begins and ends between two readings is missed; a time is known to the interval; bytes,
//! errors and who called connect(2) are not known (the owner is who holds the socket). The first reading is what was
//! there before, and makes no rows.

mod diag;
mod follow;
mod owners;
mod proc_net;
mod task;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub(crate) use task::{Poller, works};

/// `TCP_LISTEN`, and `TCP_TIME_WAIT`, which nobody holds, as the kernel numbers states (include/net/tcp_states.h).
const LISTEN: u8 = 10;
const TIME_WAIT: u8 = 6;

/// A socket of a table that somebody holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SocketEntry {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) inode: u64,
    pub(crate) listens: bool,
    pub(crate) uid: u32,
}

/// What one reading gave.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// By network namespace; `None` is the own one where its number is not known.
    pub(crate) sockets: Vec<(Option<u32>, SocketEntry)>,
    /// Whether every table was read to its end: what is missing in a whole reading has ended.
    pub(crate) whole: bool,
    /// Sockets that were more than are followed.
    pub(crate) left_out: u64,
}

/// IPv4 carried in IPv6 is shown as what it is.
fn shown(address: IpAddr) -> String {
    address.to_canonical().to_string()
}
