//! Two readings become rows: what began, and what is gone.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use fleetmend_event::table::{ConnectionOwner, NetworkEvent, NetworkEventKind, Source};

use super::owners::Owners;
use super::{Reading, SocketEntry, shown};
use crate::bpf::BootClock;
use crate::process::{Inventory, Process};

/// Sockets that are remembered while no reading is whole, unless a reading has more than half as many.
const OPEN_MAX: usize = 65_536;

/// A socket, told apart from one that has its number or its addresses again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: Option<u32>,
    inode: u64,
    local: SocketAddr,
    remote: SocketAddr,
}

#[derive(Debug, Clone)]
struct Open {
    entry: SocketEntry,
    owner: Option<u32>,
    /// When it was first seen; `None` when it was there at the first reading.
    since_ns: Option<u64>,
}

/// See the module.
pub(super) struct SocketFollower {
    inventory: Inventory,
    owners: Owners,
    open: HashMap<Key, Open>,
    begun: bool,
}

impl SocketFollower {
    pub(super) fn new(inventory: Inventory) -> Self {
        Self {
            inventory,
            owners: Owners::default(),
            open: HashMap::new(),
            begun: false,
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.open.len()
    }

    /// The rows between the last reading and this one.
    pub(super) fn take(&mut self, reading: &Reading) -> Vec<NetworkEvent> {
        let clock = BootClock::now();
        let inodes: HashSet<u64> = reading.sockets.iter().map(|(_, entry)| entry.inode).collect();
        self.owners.keep(&inodes);
        let listened: HashSet<(Option<u32>, u16)> = reading
            .sockets
            .iter()
            .filter(|(_, entry)| entry.listens)
            .map(|(namespace, entry)| (*namespace, entry.local.port()))
            .collect();
        let present: HashMap<Key, SocketEntry> = reading
            .sockets
            .iter()
            .map(|(namespace, entry)| (key(*namespace, entry), *entry))
            .collect();
        let fresh: Vec<Key> = present
            .keys()
            .filter(|key| !self.open.contains_key(key))
            .cloned()
            .collect();
        let proc = self.inventory.proc().clone();
        self.owners.search(&proc, fresh.iter().map(|key| key.inode));
        let mut rows = Vec::new();
        if reading.whole {
            let gone: Vec<Key> = self
                .open
                .keys()
                .filter(|key| !present.contains_key(key))
                .cloned()
                .collect();
            for key in gone {
                if let Some(open) = self.open.remove(&key).filter(|open| !open.entry.listens) {
                    rows.push(self.row(NetworkEventKind::Close, &key, &open, &clock));
                }
            }
        } else if self.open.len() > present.len().saturating_mul(2).max(OPEN_MAX) {
            // Which of them ended nobody can tell.
            self.open.retain(|key, _| present.contains_key(key));
        }
        for key in fresh {
            let Some(entry) = present.get(&key).copied() else {
                continue;
            };
            let accepted = !entry.listens && listened.contains(&(key.namespace, entry.local.port()));
            let open = Open {
                entry,
                owner: self.owners.of(entry.inode),
                since_ns: self.begun.then_some(clock.boot_ns()),
            };
            let kind = match (entry.listens, accepted) {
                (true, _) => NetworkEventKind::Listen,
                (false, true) => NetworkEventKind::Accept,
                (false, false) => NetworkEventKind::Connect,
            };
            if self.begun {
                rows.push(self.row(kind, &key, &open, &clock));
            }
            self.open.insert(key, open);
        }
        self.begun = true;
        rows
    }

    fn row(&self, kind: NetworkEventKind, key: &Key, open: &Open, clock: &BootClock) -> NetworkEvent {
        let owner: Option<Process> = open.owner.and_then(|pid| self.inventory.running(pid));
        let stat = open
            .owner
            .filter(|_| owner.is_none())
            .and_then(|pid| self.inventory.proc().stat(pid));
        let placement = owner.as_ref().and_then(|owner| owner.placement.clone());
        let boot_ns = clock.boot_ns();
        let closed = kind == NetworkEventKind::Close;
        let unbound = key.remote.port() == 0 && open.entry.listens;
        NetworkEvent {
            time: clock.time_of(boot_ns),
            boot_ns,
            kind,
            // Who holds it is who called, but for one that was handed on.
            owner: open
                .owner
                .map_or(ConnectionOwner::Unknown, |_| ConnectionOwner::Caller),
            pid: open.owner.unwrap_or(0),
            start_boot_ns: owner
                .as_ref()
                .map(|owner| owner.key.start_boot_ns)
                .or(stat.as_ref().map(|stat| stat.start_boot_ns))
                .unwrap_or(0),
            comm: owner
                .as_ref()
                .map(|owner| owner.program.comm.clone())
                .or(stat.map(|stat| stat.comm))
                .unwrap_or_default(),
            uid: open.entry.uid,
            protocol: "tcp".to_owned(),
            local_address: shown(key.local.ip()),
            local_port: u32::from(key.local.port()),
            remote_address: if unbound {
                String::new()
            } else {
                shown(key.remote.ip())
            },
            remote_port: u32::from(key.remote.port()),
            bytes_sent: None,
            bytes_received: None,
            duration_us: open
                .since_ns
                .filter(|_| closed)
                .map(|since| boot_ns.saturating_sub(since) / 1_000),
            error: None,
            source: Source::SocketTable,
            exe: owner.as_ref().and_then(|owner| owner.program.exe.clone()),
            cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
            unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
            container_id: placement.and_then(|placement| placement.container_id.clone()),
            retransmits: None,
            round_trip_us: None,
            network_namespace: key.namespace,
        }
    }
}

fn key(namespace: Option<u32>, entry: &SocketEntry) -> Key {
    Key {
        namespace,
        inode: entry.inode,
        local: entry.local,
        remote: entry.remote,
    }
}
