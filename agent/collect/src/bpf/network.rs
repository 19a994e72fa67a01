//! Family `network`: socket records become rows, with the owner's program and placement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, MapData, MapError};
use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::network::{OwnerSource, SocketEventKind, SocketRecord};
use fleetmend_ebpf::abi::{AbiError, kind_of};
use fleetmend_event::table::{ConnectionOwner, NetworkEvent, NetworkEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::enrich::{Enricher, text};
use super::error::FamilyError;
use super::family::map_error;
use super::listeners::listeners;
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Maps, Way};
use crate::process::ProcessKey;

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Network,
    table: NetworkEvent::NAME,
    table_id: NetworkEvent::ID,
    lane: Lane::Events,
    duties: &[Duty {
        name: "connections",
        ways: &[
            Way {
                name: "socket state tracepoint",
                hooks: &[Hook::new("on_state", At::BtfTracepoint("inet_sock_set_state"))],
            },
            Way {
                name: "socket state tracepoint, plain reads",
                hooks: &[Hook::new(
                    "on_state_plain",
                    At::RawTracepoint("inet_sock_set_state"),
                )],
            },
        ],
    }],
    limits: "TCP only; which process accepted is known once it acts on the connection itself, before that the listening \
             one is named; connections that were open at the start have no duration",
    shed: &["closes", "accepts"],
    prepare: |_, _| {},
    handler: |_| Box::new(Sockets),
};

/// `BPF_NOEXIST`: leave an entry that is there.
const NO_EXIST: u64 = 1;

/// See the module.
struct Sockets;

impl Handler for Sockets {
    /// Tells the probes who listened before they were loaded.
    fn begin(&mut self, maps: &mut Maps<'_>, cx: &mut Enricher) -> Result<(), FamilyError> {
        let fault = map_error("LISTENERS");
        let mut known: HashMap<MapData, [u8; 24], [u8; 64]> =
            HashMap::try_from(maps.take("LISTENERS")?).map_err(&fault)?;
        for seed in listeners(cx.inventory().proc()) {
            // What the probe has seen itself meanwhile is newer.
            match known.insert(seed.key(), seed.value(), NO_EXIST) {
                Ok(()) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                }
                Err(source) => return Err(fault(source)),
            }
        }
        Ok(())
    }

    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let kind = SocketEventKind::of(kind_of(bytes)?)?;
        out.push(network_event(kind, &SocketRecord::parse(bytes)?, cx).into());
        Ok(())
    }
}

/// `AF_INET6`.
const FAMILY_V6: u16 = 10;

/// The row of a record.
fn network_event(kind: SocketEventKind, record: &SocketRecord, cx: &mut Enricher) -> NetworkEvent {
    let closed = kind == SocketEventKind::Close;
    let listening = kind == SocketEventKind::Listen;
    let known = record.owner_source() != OwnerSource::None;
    let key = ProcessKey::new(record.pid, record.pid_start_ns);
    let start_boot_ns = key.start_boot_ns;
    let process = known
        .then(|| cx.process(record.pid, record.pid_start_ns))
        .flatten();
    // Of a socket whose owner was guessed by its listener the sets of control groups are the listener's.
    let read = || match record.owner_source() {
        OwnerSource::Caller => cx.placement(record.pid, record.cgroup_set, record.cgroup_id, record.time_ns),
        OwnerSource::Listener | OwnerSource::None => None,
    };
    let placement = process
        .as_ref()
        .and_then(|process| process.placement.clone())
        .or_else(read);
    let clock = cx.clock;
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
        exe: process.and_then(|process| process.program.exe.clone()),
        cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
        unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
        container_id: placement
            .as_ref()
            .and_then(|placement| placement.container_id.clone()),
        retransmits: closed.then_some(record.retransmits),
        round_trip_us: (closed && record.srtt_us > 0).then_some(record.srtt_us),
        network_namespace: Some(record.netns).filter(|netns| *netns != 0),
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
        let mut cx = Enricher::new(crate::process::Inventory::new(
            crate::process::ProcessConfig::default(),
        ));
        let close = network_event(SocketEventKind::Close, &record(), &mut cx);
        assert_eq!(
            (close.bytes_sent, close.duration_us, close.pid),
            (Some(10), Some(5), 7)
        );
        let connect = network_event(SocketEventKind::Connect, &record(), &mut cx);
        assert_eq!(
            (connect.bytes_sent, connect.duration_us, connect.error),
            (None, None, None)
        );
    }

    #[test]
    fn failed_connect_always_has_an_error() {
        let mut cx = Enricher::new(crate::process::Inventory::new(
            crate::process::ProcessConfig::default(),
        ));
        let refused = SocketRecord {
            error: 111,
            ..record()
        };
        assert_eq!(
            network_event(SocketEventKind::ConnectFailed, &refused, &mut cx).error,
            Some(libc::ECONNREFUSED)
        );
        assert_eq!(
            network_event(SocketEventKind::ConnectFailed, &record(), &mut cx).error,
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
