//! Who is connected, and who was.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use fleetmend_event::{HostId, TimeMicros};
use tokio_util::sync::CancellationToken;

use crate::metrics;

/// Hosts that are remembered after their stream ended; the one seen longest ago makes room.
const HOSTS_MAX: usize = 16_384;

/// A host as the carrier knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveHost {
    /// The host.
    pub host: HostId,
    /// Since when its stream is open; `None` when it has none.
    pub connected_since: Option<TimeMicros>,
    /// Where it connects from.
    pub address: SocketAddr,
    /// Version of its agent.
    pub agent_version: String,
    /// When its last message came.
    pub last_seen: TimeMicros,
    /// Its clock minus ours at its last heartbeat, network delay included, in microseconds.
    pub clock_offset_us: Option<i64>,
}

struct Entry {
    host: LiveHost,
    boot_id: Vec<u8>,
    end: CancellationToken,
    stream: u64,
}

#[derive(Default)]
struct Table {
    hosts: HashMap<HostId, Entry>,
    streams: u64,
    open: usize,
}

/// Every host's stream; clones are the same table.
#[derive(Clone, Default)]
pub struct HostsLive(Arc<Mutex<Table>>);

/// A stream's place in the table.
pub(crate) struct Place {
    live: HostsLive,
    host: HostId,
    stream: u64,
    /// Cancelled when a newer stream of the host takes over.
    pub(crate) superseded: CancellationToken,
    /// Whether another boot of the same host was connected: a clone.
    pub(crate) clone: bool,
}

impl HostsLive {
    /// Every host, in no order.
    pub fn snapshot(&self) -> Vec<LiveHost> {
        self.with(|table| table.hosts.values().map(|entry| entry.host.clone()).collect())
    }

    /// Takes the host's place; an older stream of it is told to end.
    pub(crate) fn enter(&self, host: LiveHost, boot_id: &[u8]) -> Place {
        let end = CancellationToken::new();
        let superseded = end.clone();
        let host_id = host.host;
        let (stream, clone) = self.with(|table| {
            table.streams = table.streams.saturating_add(1);
            table.make_room(host_id);
            let entry = Entry { host, boot_id: boot_id.to_vec(), end, stream: table.streams };
            let older = table.hosts.insert(host_id, entry);
            table.open = table.open.saturating_add(1);
            metrics::streams(table.open);
            let clone = older.is_some_and(|older| {
                older.end.cancel();
                older.host.connected_since.is_some() && older.boot_id != boot_id
            });
            (table.streams, clone)
        });
        Place { live: self.clone(), host: host_id, stream, superseded, clone }
    }

    fn with<R>(&self, body: impl FnOnce(&mut Table) -> R) -> R {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn make_room(&mut self, newcomer: HostId) {
        if self.hosts.len() < HOSTS_MAX || self.hosts.contains_key(&newcomer) {
            return;
        }
        let gone = self.hosts.values().filter(|entry| entry.host.connected_since.is_none());
        if let Some(host) = gone.min_by_key(|entry| entry.host.last_seen).map(|entry| entry.host.host) {
            self.hosts.remove(&host);
        }
    }
}

impl Place {
    /// A message came.
    pub(crate) fn seen(&self, clock_offset_us: Option<i64>) {
        self.live.with(|table| {
            if let Some(entry) = table.hosts.get_mut(&self.host).filter(|entry| entry.stream == self.stream) {
                entry.host.last_seen = TimeMicros::now();
                entry.host.clock_offset_us = clock_offset_us.or(entry.host.clock_offset_us);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.with(|table| {
            table.open = table.open.saturating_sub(1);
            metrics::streams(table.open);
            if let Some(entry) = table.hosts.get_mut(&self.host).filter(|entry| entry.stream == self.stream) {
                entry.host.connected_since = None;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: HostId) -> LiveHost {
        LiveHost {
            host: id,
            connected_since: Some(TimeMicros(1)),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            agent_version: "0".into(),
            last_seen: TimeMicros(1),
            clock_offset_us: None,
        }
    }

    #[test]
    fn newer_stream_ends_the_older_and_another_boot_is_a_clone() {
        let live = HostsLive::default();
        let id = HostId::random();
        let first = live.enter(host(id), b"boot-1");
        assert!(!first.clone && !first.superseded.is_cancelled());
        let again = live.enter(host(id), b"boot-1");
        assert!(!again.clone && first.superseded.is_cancelled());
        let other = live.enter(host(id), b"boot-2");
        assert!(other.clone && again.superseded.is_cancelled() && !other.superseded.is_cancelled());
        drop(first);
        assert!(live.snapshot()[0].connected_since.is_some(), "an older stream's end leaves the newer one connected");
        drop(other);
        assert!(live.snapshot()[0].connected_since.is_none());
        let back = live.enter(host(id), b"boot-3");
        assert!(!back.clone, "a host that came back after its stream ended has booted, not been cloned");
    }
}
