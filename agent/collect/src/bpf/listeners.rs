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

/// Socket inode to port, of the sockets that listen.
fn listening_sockets(proc: &ProcFs, pid: u32, table: &str, sockets: &mut HashMap<u64, u16>) {
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
        let port = local
            .rsplit(':')
            .next()
            .and_then(|port| u16::from_str_radix(port, 16).ok());
        if let (Some(port), Ok(inode)) = (port, inode.parse()) {
            sockets.insert(inode, port);
        }
    }
}

fn attribute(
    proc: &ProcFs,
    netns: u32,
    pids: &[u32],
    sockets: HashMap<u64, u16>,
    seeds: &mut Vec<ListenerSeed>,
) {
    let mut found: HashSet<u16> = HashSet::new();
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
            let Some(port) = inode.and_then(|inode| sockets.get(&inode)) else {
                continue;
            };
            // The first is the oldest: the parent of the workers that share it.
            if found.insert(*port) {
                seeds.extend(seed(proc, netns, *port, *pid));
            }
        }
    }
}

fn seed(proc: &ProcFs, netns: u32, port: u16, pid: u32) -> Option<ListenerSeed> {
    let stat = proc.stat(pid)?;
    let (uid, _) = proc.owner(pid)?;
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().take(15).zip(stat.comm.bytes()) {
        *to = from;
    }
    Some(ListenerSeed {
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
    use std::net::TcpListener;
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
    }
}
