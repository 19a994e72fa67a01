//! Socket records become rows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fleetmend_ebpf::abi::{OwnerSource, SocketEventKind, SocketRecord};
use fleetmend_event::table::{ConnectionOwner, NetworkEvent, NetworkEventKind, Source};

use super::clock::BootClock;
use super::enrich::text;
use crate::process::ProcessKey;

/// `AF_INET6`.
const FAMILY_V6: u16 = 10;

/// The row of a record.
pub(crate) fn network_event(kind: SocketEventKind, record: &SocketRecord, clock: &BootClock) -> NetworkEvent {
    let closed = kind == SocketEventKind::Close;
    let listening = kind == SocketEventKind::Listen;
    let known = record.owner_source() != OwnerSource::None;
    let start_boot_ns = ProcessKey::new(record.pid, record.pid_start_ns).start_boot_ns;
    NetworkEvent {
        time: clock.time_of(record.time_ns),
        boot_ns: record.time_ns,
        kind: match kind {
            SocketEventKind::Connect | SocketEventKind::ConnectFailed => NetworkEventKind::Connect,
            SocketEventKind::Accept => NetworkEventKind::Accept,
            SocketEventKind::Listen => NetworkEventKind::Listen,
            SocketEventKind::Close => NetworkEventKind::Close,
        },
        owner: match record.owner_source() {
            OwnerSource::Caller => ConnectionOwner::Caller,
            OwnerSource::Listener => ConnectionOwner::Listener,
            OwnerSource::None => ConnectionOwner::Unknown,
        },
        pid: if known { record.pid } else { 0 },
        start_boot_ns: if known { start_boot_ns } else { 0 },
        comm: text(&record.comm),
        uid: record.uid,
        protocol: "tcp".to_owned(),
        local_address: address(record.family, &record.local),
        local_port: u32::from(record.local_port),
        remote_address: if listening {
            String::new()
        } else {
            address(record.family, &record.remote)
        },
        remote_port: u32::from(record.remote_port),
        bytes_sent: closed.then_some(record.bytes_sent),
        bytes_received: closed.then_some(record.bytes_received),
        duration_us: (closed && record.elapsed_ns > 0).then_some(record.elapsed_ns / 1_000),
        error: failure(kind, record.error),
        source: Source::Ebpf,
        exe: None,
        cgroup: None,
        unit: None,
        container_id: None,
        retransmits: None,
        round_trip_us: None,
        network_namespace: None,
    }
}

/// A connect that ended without an error of the socket was given up by its caller.
fn failure(kind: SocketEventKind, error: u32) -> Option<i32> {
    match (kind, i32::try_from(error).ok()?) {
        (SocketEventKind::ConnectFailed, 0) => Some(libc::ECANCELED),
        (_, 0) => None,
        (_, error) => Some(error),
    }
}

/// IPv4 carried in IPv6 is shown as what it is.
fn address(family: u16, bytes: &[u8; 16]) -> String {
    if family == FAMILY_V6 {
        return Ipv6Addr::from(*bytes).to_canonical().to_string();
    }
    let [first, second, third, fourth, ..] = *bytes;
    IpAddr::V4(Ipv4Addr::new(first, second, third, fourth)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SocketRecord {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[127, 0, 0, 1]);
        SocketRecord {
            pid: 7,
            owner: 1,
            family: 2,
            local,
            remote: local,
            local_port: 40_000,
            remote_port: 80,
            bytes_sent: 10,
            elapsed_ns: 5_000,
            ..SocketRecord::default()
        }
    }

    #[test]
    fn bytes_and_duration_belong_to_a_close_only() {
        let clock = BootClock::now();
        let close = network_event(SocketEventKind::Close, &record(), &clock);
        assert_eq!(
            (close.bytes_sent, close.duration_us, close.pid),
            (Some(10), Some(5), 7)
        );
        let connect = network_event(SocketEventKind::Connect, &record(), &clock);
        assert_eq!(
            (connect.bytes_sent, connect.duration_us, connect.error),
            (None, None, None)
        );
    }

    #[test]
    fn failed_connect_always_has_an_error() {
        let clock = BootClock::now();
        let refused = SocketRecord {
            error: 111,
            ..record()
        };
        assert_eq!(
            network_event(SocketEventKind::ConnectFailed, &refused, &clock).error,
            Some(libc::ECONNREFUSED)
        );
        assert_eq!(
            network_event(SocketEventKind::ConnectFailed, &record(), &clock).error,
            Some(libc::ECANCELED)
        );
    }

    #[test]
    fn mapped_addresses_are_shown_as_version_4() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(address(10, &mapped), "10.1.2.3");
        assert_eq!(address(10, &Ipv6Addr::LOCALHOST.octets()), "::1");
        assert_eq!(address(2, &record().local), "127.0.0.1");
    }
}
