//! Addresses of sockets, and the calls that connect them.

use std::net::{Ipv4Addr, Ipv6Addr};

use fleetmend_event::table::{Actor, ConnectionOwner, NetworkEvent, NetworkEventKind, Source};

use super::rows::Call;
use super::value;

/// `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`.
const UNIX: u16 = 1;
const INET: u16 = 2;
const INET6: u16 = 10;
const NETLINK: u16 = 16;

/// What auditd's ENRICHED format says of an address.
pub(super) fn address_fields(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let Some((family, rest)) = family(bytes) else {
        return Vec::new();
    };
    if let Some((address, port)) = internet(bytes) {
        let name = if family == INET { "inet" } else { "inet6" };
        return vec![
            ("saddr_fam", name.to_owned()),
            ("laddr", address),
            ("lport", port.to_string()),
        ];
    }
    match family {
        UNIX => {
            let path = rest
                .split(|byte| *byte == 0)
                .find(|part| !part.is_empty())
                .unwrap_or_default();
            vec![
                ("saddr_fam", "local".to_owned()),
                ("path", String::from_utf8_lossy(path).into_owned()),
            ]
        }
        NETLINK => vec![("saddr_fam", "netlink".to_owned())],
        _ => Vec::new(),
    }
}

/// Both architectures that are read are little endian.
fn family(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_le_bytes(*family), rest))
}

/// Address and port of an internet socket.
fn internet(bytes: &[u8]) -> Option<(String, u16)> {
    let (family, rest) = family(bytes)?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match family {
        INET => Some((Ipv4Addr::from(*rest.first_chunk::<4>()?).to_string(), port)),
        INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            Some((
                Ipv6Addr::from(*rest.first_chunk::<16>()?)
                    .to_canonical()
                    .to_string(),
                port,
            ))
        }
        _ => None,
    }
}

/// The row of a connect or accept of the internet; the own side and the protocol are not in the log.
pub(super) fn row(call: &Call<'_>, actor: &Actor) -> Option<NetworkEvent> {
    let bytes = call
        .event
        .record("SOCKADDR")?
        .field("saddr")
        .and_then(value::hex)?;
    let (remote_address, remote_port) = internet(&bytes)?;
    let kind = if call.name == "connect" {
        NetworkEventKind::Connect
    } else {
        NetworkEventKind::Accept
    };
    if kind == NetworkEventKind::Accept && call.error.is_some() {
        return None;
    }
    Some(NetworkEvent {
        time: call.time,
        boot_ns: call.boot_ns,
        kind,
        owner: ConnectionOwner::Caller,
        pid: actor.pid,
        start_boot_ns: actor.start_boot_ns,
        comm: actor.comm.clone(),
        uid: actor.uid,
        protocol: String::new(),
        local_address: String::new(),
        local_port: 0,
        remote_address,
        remote_port: u32::from(remote_port),
        bytes_sent: None,
        bytes_received: None,
        duration_us: None,
        // A socket that does not wait is told that it is on its way.
        error: call.error.filter(|error| *error != libc::EINPROGRESS),
        source: Source::Audit,
        exe: actor.exe.clone(),
        cgroup: actor.cgroup.clone(),
        unit: actor.unit.clone(),
        container_id: actor.container_id.clone(),
        retransmits: None,
        round_trip_us: None,
        network_namespace: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_family_are_read() {
        let fields = |hex: &str| address_fields(&value::hex(hex).unwrap());
        let inet = fields("02000050C0000201");
        assert_eq!((inet[1].1.as_str(), inet[2].1.as_str()), ("192.0.2.1", "80"));
        let inet6 = fields("0A0001BB0000000020010DB800000000000000000000000100000000");
        assert_eq!((inet6[1].1.as_str(), inet6[2].1.as_str()), ("2001:db8::1", "443"));
        assert_eq!(fields("01002F72756E2F6C6F6700")[1].1, "/run/log");
        assert_eq!(fields("0100002F72756E")[1].1, "/run", "an abstract name");
        for cut in ["", "02", "0200", "020000", "0200005001", "FFFF"] {
            assert!(
                value::hex(cut).is_none_or(|bytes| address_fields(&bytes).is_empty()),
                "{cut}"
            );
        }
    }
}
