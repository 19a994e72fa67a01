//! Who listened before the probes were loaded: read once from /proc, for every network namespace in use.

use std::collections::{HashMap, HashSet};
use std::fs;

use fleetmend_ebpf::abi::network::ListenerSeed;

use crate::process::proc_fs::ProcFs;

/// Namespaces whose sockets are read.
const NAMESPACES_MAX: usize = 64;
/// Bytes of a namespace's table of sockets that are read.
const TABLE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;
/// State `TCP_LISTEN` in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The listeners that can be attributed. A process that cannot be read is left out: its port stays unknown.
pub(crate) fn listeners(proc: &ProcFs) -> Vec<ListenerSeed> {
    let pids = proc.pids().unwrap_or_default();
    let mut by_namespace: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids {
        if let Some(namespace) = network_namespace(proc, pid) {
            by_namespace.entry(namespace).or_default().push(pid);
        }
    }
    let mut seeds = Vec::new();
    for (netns, pids) in by_namespace.into_iter().take(NAMESPACES_MAX) {
        let mut sockets = HashMap::new();
        if let Some(pid) = pids.first() {
            for table in ["net/tcp", "net/tcp6"] {
                listening_sockets(proc, *pid, table, &mut sockets);
            }
        }
        attribute(proc, netns, &pids, sockets, &mut seeds);
    }
    seeds
}

/// Inode number out of `net:[4026531833]`.
fn network_namespace(proc: &ProcFs, pid: u32) -> Option<u32> {
    inode_in_brackets(fs::read_link(proc.path(pid, "ns/net")).ok()?.to_str()?, "net:[")
}

fn inode_in_brackets<T: std::str::FromStr>(text: &str, prefix: &str) -> Option<T> {
    text.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

/// Address and port that a socket listens on.
type Local = ([u8; 16], u16);

/// Out of `0100007F:1F90`, or four such words for IPv6, as `/proc/net/tcp` writes them: each in the order of the host. The
/// address is as the probe's key has it.
fn local_of(text: &str) -> Option<Local> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut words = [0; 4];
    let hex = |from: usize| u32::from_str_radix(address.get(from..from + 8)?, 16).ok();
    match address.len() {
        8 => words[3] = hex(0)?,
        32 => {
            for (at, word) in words.iter_mut().enumerate() {
                *word = hex(8 * at)?;
            }
        }
        _ => return None,
    }
    let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    if words[..2] == [0, 0] && [0, mapped].contains(&words[2]) && (address.len() == 8 || words[2] == mapped) {
        words[2] = if words[3] == 0 { 0 } else { mapped };
    }
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Some((bytes, port))
}

/// Socket inode to address and port, of the sockets that listen.
fn listening_sockets(proc: &ProcFs, pid: u32, table: &str, sockets: &mut HashMap<u64, Local>) {
    use std::io::Read as _;
    let mut text = String::new();
    let Ok(file) = fs::File::open(proc.path(pid, table)) else {
        return;
    };
    // A table that cannot be read leaves its listeners unknown, which the rows then say.
    if file.take(TABLE_BYTES_MAX).read_to_string(&mut text).is_err() {
        return;
    }
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (Some(local), Some(&LISTENING), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
        else {
            continue;
        };
        if let (Some(local), Ok(inode)) = (local_of(local), inode.parse()) {
            sockets.insert(inode, local);
        }
    }
}

fn attribute(
    proc: &ProcFs,
    netns: u32,
    pids: &[u32],
    sockets: HashMap<u64, Local>,
    seeds: &mut Vec<ListenerSeed>,
) {
    let mut found: HashSet<Local> = HashSet::new();
    for pid in pids {
        if found.len() == sockets.len() {
            return;
        }
        let Ok(descriptors) = fs::read_dir(proc.path(*pid, "fd")) else {
            continue;
        };
        for descriptor in descriptors.take(DESCRIPTORS_MAX).flatten() {
            let target = fs::read_link(descriptor.path()).ok();
            let target = target.as_deref().and_then(|target| target.to_str());
            let inode: Option<u64> = target.and_then(|target| inode_in_brackets(target, "socket:["));
            let Some(local) = inode.and_then(|inode| sockets.get(&inode)) else {
                continue;
            };
            // The first is the oldest: the parent of the workers that share it.
            if found.insert(*local) {
                seeds.extend(seed(proc, netns, *local, *pid));
            }
        }
    }
}

fn seed(proc: &ProcFs, netns: u32, (address, port): Local, pid: u32) -> Option<ListenerSeed> {
    let stat = proc.stat(pid)?;
    let (uid, _) = proc.owner(pid)?;
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().take(15).zip(stat.comm.bytes()) {
        *to = from;
    }
    Some(ListenerSeed {
        address,
        netns,
        port,
        pid,
        uid,
        pid_start_ns: stat.start_boot_ns,
        comm,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
    use std::path::Path;

    use super::*;

    #[test]
    fn listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seeds = listeners(&ProcFs::new(Path::new("/proc")));
        let seed = seeds
            .iter()
            .find(|seed| seed.port == port)
            .expect("the port is attributed");
        assert_eq!(seed.pid, std::process::id());
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        assert_eq!(seed.address, mapped);
    }

    #[test]
    fn addresses_are_read_as_the_probe_has_them() {
        let of = |text: &str| local_of(text).map(|(address, port)| (Ipv6Addr::from(address), port));
        let cases: [(&str, Ipv6Addr, u16); 6] = [
            ("0100007F:1F90", Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 8080),
            ("00000000:0050", Ipv6Addr::UNSPECIFIED, 80),
            ("00000000000000000000000000000000:0016", Ipv6Addr::UNSPECIFIED, 22),
            (
                "0000000000000000FFFF00000100007F:0050",
                Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
                80,
            ),
            ("0000000000000000FFFF000000000000:0050", Ipv6Addr::UNSPECIFIED, 80),
            ("00000000000000000000000001000000:0050", Ipv6Addr::LOCALHOST, 80),
        ];
        for (text, address, port) in cases {
            assert_eq!(of(text), Some((address, port)), "{text}");
        }
        for text in [
            "",
            "0100007F",
            "0100007:1F90",
            "0100007F:1F90:1",
            "\u{e9}100007F:1F90",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
