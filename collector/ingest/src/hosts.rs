//! Who is connected, and the way down to them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::{HostId, SpoolEpoch, TimeMicros};
use fleetmend_shutdown::CancellationToken;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::{HostClock, StreamClock};

/// Hosts that are remembered, connected or not; beyond it the one that was away longest is forgotten.
const HOSTS_MAX: usize = 100_000;
/// Orders and hints that wait for a stream.
const DOWNWARD_MAX: usize = 16;
/// An older stream that was silent for longer than two heartbeats is a broken one, not a rival.
const SILENT: Duration = Duration::from_secs(25);
/// So many replacements within [`FLAPPING_WINDOW`] are two agents that take turns.
const FLAPPING: usize = 4;
const FLAPPING_WINDOW: Duration = Duration::from_mins(10);

/// A host as its stream shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveHost {
    /// The host.
    pub host: HostId,
    /// Since when its stream stands; none when it does not.
    pub connected_since: Option<TimeMicros>,
    /// Where it connects or last connected from.
    pub address: SocketAddr,
    /// Version of its agent.
    pub agent_version: String,
    /// When it last sent anything.
    pub last_seen: TimeMicros,
    /// How much its clock is ahead of the collector's, as of the last heartbeat and but for the time that heartbeats
    /// are on their way.
    pub clock_ahead_ms: Option<i64>,
}

/// Every host that was seen since the collector started; clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct HostsLive {
    table: Arc<Mutex<HashMap<HostId, Entry>>>,
}

/// An order could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The host has no stream.
    #[error("the host is not connected")]
    NotConnected,
    /// Too many wait.
    #[error("too many orders wait for the host")]
    Full,
}

/// What a host said of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOrderResult {
    /// The host.
    pub host: HostId,
    /// The order.
    pub order_id: [u8; 16],
    /// Whether it was carried out or will be.
    pub accepted: bool,
    /// Why, or why not.
    pub reason: String,
}

/// What goes down a stream beside acknowledgements.
#[derive(Debug)]
pub(crate) enum Downward {
    Order { order_id: [u8; 16], envelope: String },
    MetricsInterval { millis: u32 },
}

#[derive(Debug)]
struct Entry {
    live: LiveHost,
    heard: Instant,
    stream: u64,
    epoch: SpoolEpoch,
    boot_id: Vec<u8>,
    clock: HostClock,
    replaced: CancellationToken,
    downward: mpsc::Sender<Downward>,
    replacements: VecDeque<Instant>,
}

/// What a hello says of its sender.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) host: HostId,
    pub(crate) address: SocketAddr,
    pub(crate) agent_version: String,
    pub(crate) epoch: SpoolEpoch,
    pub(crate) boot_id: Vec<u8>,
}

/// How a stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rivalry {
    /// No other stream of the host was there.
    None,
    /// The agent connected again; its older stream was closed.
    Reconnected,
    /// Two agents claim to be the host.
    Clone {
        /// Where the older stream comes from.
        other: SocketAddr,
    },
}

/// A live stream; the host counts as disconnected when it is dropped.
#[derive(Debug)]
pub(crate) struct LiveStream {
    hosts: HostsLive,
    host: HostId,
    stream: u64,
    clock: StreamClock,
    /// Cancelled when a newer stream of the host takes over.
    pub(crate) replaced: CancellationToken,
    pub(crate) downward: mpsc::Receiver<Downward>,
}

impl HostsLive {
    /// Every host, in no order.
    pub fn snapshot(&self) -> Vec<LiveHost> {
        self.table
            .lock()
            .values()
            .map(|entry| entry.live.clone())
            .collect()
    }

    /// One host.
    pub fn host(&self, host: HostId) -> Option<LiveHost> {
        self.table.lock().get(&host).map(|entry| entry.live.clone())
    }

    /// Sends a signed order down the host's stream. That it was sent does not mean that it arrives.
    pub fn send_order(&self, host: HostId, order_id: [u8; 16], envelope: String) -> Result<(), OrderError> {
        self.send(host, Downward::Order { order_id, envelope })
    }

    /// Asks the host to send metrics this often, as while somebody watches.
    pub fn hint_metrics_interval(&self, host: HostId, millis: u32) -> Result<(), OrderError> {
        self.send(host, Downward::MetricsInterval { millis })
    }

    fn send(&self, host: HostId, message: Downward) -> Result<(), OrderError> {
        let table = self.table.lock();
        let connected = table
            .get(&host)
            .filter(|entry| entry.live.connected_since.is_some());
        match connected
            .ok_or(OrderError::NotConnected)?
            .downward
            .try_send(message)
        {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(OrderError::Full),
            Err(TrySendError::Closed(_)) => Err(OrderError::NotConnected),
        }
    }

    /// A stream of a host begins; an older one is closed.
    pub(crate) fn arrive(&self, arrival: Arrival) -> (LiveStream, Rivalry) {
        let (now, heard) = (TimeMicros::now(), Instant::now());
        let (sender, downward) = mpsc::channel(DOWNWARD_MAX);
        let replaced = CancellationToken::new();
        let Arrival {
            host,
            address,
            agent_version,
            epoch,
            boot_id,
        } = arrival;
        let mut table = self.table.lock();
        let older = table.remove(&host);
        let (rivalry, replacements) = older.as_ref().map_or((Rivalry::None, VecDeque::new()), |older| {
            older.replaced.cancel();
            judge(older, epoch, &boot_id, heard)
        });
        let stream = older.as_ref().map_or(0, |older| older.stream).wrapping_add(1);
        let clock_ahead_ms = older.as_ref().and_then(|older| older.live.clock_ahead_ms);
        let clock = older.map(|older| older.clock).unwrap_or_default();
        let of_stream = clock.of_boot(&boot_id);
        if table.len() >= HOSTS_MAX {
            forget_one(&mut table);
        }
        let live = LiveHost {
            host,
            connected_since: Some(now),
            address,
            agent_version,
            last_seen: now,
            clock_ahead_ms,
        };
        let replaced_by = replaced.clone();
        table.insert(
            host,
            Entry {
                live,
                heard,
                stream,
                epoch,
                boot_id,
                clock,
                replaced: replaced_by,
                downward: sender,
                replacements,
            },
        );
        count(&table);
        drop(table);
        (
            LiveStream {
                hosts: self.clone(),
                host,
                stream,
                clock: of_stream,
                replaced,
                downward,
            },
            rivalry,
        )
    }
}

impl LiveStream {
    /// The host sent something.
    pub(crate) fn heard(&self) {
        self.change(|_| {});
    }

    /// The host said what its clocks show.
    pub(crate) fn clocks(&self, wall: TimeMicros, boot_us: u64) {
        let ahead = self.clock.heard(wall, boot_us, TimeMicros::now(), Instant::now());
        crate::metrics::clock_ahead(ahead);
        self.change(|live| live.clock_ahead_ms = Some(ahead / 1_000));
    }

    /// What is known of the clocks of its host.
    pub(crate) fn clock(&self) -> StreamClock {
        self.clock.clone()
    }

    fn change(&self, change: impl FnOnce(&mut LiveHost)) {
        let mut table = self.hosts.table.lock();
        if let Some(entry) = table
            .get_mut(&self.host)
            .filter(|entry| entry.stream == self.stream)
        {
            entry.heard = Instant::now();
            entry.live.last_seen = TimeMicros::now();
            change(&mut entry.live);
        }
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let mut table = self.hosts.table.lock();
        if let Some(entry) = table
            .get_mut(&self.host)
            .filter(|entry| entry.stream == self.stream)
        {
            entry.live.connected_since = None;
        }
        count(&table);
    }
}

fn judge(older: &Entry, epoch: SpoolEpoch, boot_id: &[u8], now: Instant) -> (Rivalry, VecDeque<Instant>) {
    let mut replacements = older.replacements.clone();
    replacements.retain(|at| now.saturating_duration_since(*at) < FLAPPING_WINDOW);
    let alive = older.live.connected_since.is_some() && now.saturating_duration_since(older.heard) < SILENT;
    if !alive {
        let rivalry = if older.live.connected_since.is_some() {
            Rivalry::Reconnected
        } else {
            Rivalry::None
        };
        return (rivalry, replacements);
    }
    if older.epoch != epoch {
        replacements.push_back(now);
    }
    let other_boot = older.boot_id != boot_id;
    let flapping = replacements.len() >= FLAPPING;
    while replacements.len() > FLAPPING {
        replacements.pop_front();
    }
    let clone = Rivalry::Clone {
        other: older.live.address,
    };
    (
        if other_boot || flapping {
            clone
        } else {
            Rivalry::Reconnected
        },
        replacements,
    )
}

fn forget_one(table: &mut HashMap<HostId, Entry>) {
    let away = table
        .values()
        .filter(|entry| entry.live.connected_since.is_none());
    if let Some(host) = away
        .min_by_key(|entry| entry.live.last_seen)
        .map(|entry| entry.live.host)
    {
        table.remove(&host);
    }
}

fn count(table: &HashMap<HostId, Entry>) {
    crate::metrics::connected(
        table
            .values()
            .filter(|entry| entry.live.connected_since.is_some())
            .count(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(host: HostId, epoch: SpoolEpoch, boot: u8) -> Arrival {
        Arrival {
            host,
            address: SocketAddr::from(([10, 0, 0, boot], 1)),
            agent_version: "1".to_owned(),
            epoch,
            boot_id: vec![boot; 16],
        }
    }

    #[test]
    fn newer_stream_takes_over_and_orders_follow_it() {
        let (hosts, host, epoch) = (HostsLive::default(), HostId::random(), SpoolEpoch::random());
        let (older, rivalry) = hosts.arrive(arrival(host, epoch, 1));
        assert_eq!(rivalry, Rivalry::None);
        let (mut newer, rivalry) = hosts.arrive(arrival(host, epoch, 1));
        assert_eq!(rivalry, Rivalry::Reconnected);
        assert!(older.replaced.is_cancelled() && !newer.replaced.is_cancelled());
        drop(older);
        assert!(
            hosts.host(host).unwrap().connected_since.is_some(),
            "the end of the older one changes nothing"
        );
        hosts.send_order(host, [1; 16], "{}".to_owned()).unwrap();
        assert!(matches!(newer.downward.try_recv(), Ok(Downward::Order { .. })));
        drop(newer);
        assert_eq!(
            hosts.send_order(host, [1; 16], "{}".to_owned()),
            Err(OrderError::NotConnected)
        );
    }

    #[test]
    fn another_boot_or_taking_turns_is_a_clone() {
        let (hosts, host) = (HostsLive::default(), HostId::random());
        let _first = hosts.arrive(arrival(host, SpoolEpoch::random(), 1));
        let (_second, rivalry) = hosts.arrive(arrival(host, SpoolEpoch::random(), 2));
        assert_eq!(
            rivalry,
            Rivalry::Clone {
                other: SocketAddr::from(([10, 0, 0, 1], 1))
            }
        );

        let host = HostId::random();
        let mut streams = Vec::new();
        let mut rivalries = Vec::new();
        for _ in 0..6 {
            let (stream, rivalry) = hosts.arrive(arrival(host, SpoolEpoch::random(), 1));
            streams.push(stream);
            rivalries.push(matches!(rivalry, Rivalry::Clone { .. }));
        }
        assert_eq!(rivalries, [false, false, false, false, true, true]);
    }

    #[test]
    fn full_queue_refuses_the_order() {
        let (hosts, host) = (HostsLive::default(), HostId::random());
        let _stream = hosts.arrive(arrival(host, SpoolEpoch::random(), 1));
        for _ in 0..DOWNWARD_MAX {
            hosts.send_order(host, [1; 16], String::new()).unwrap();
        }
        assert_eq!(
            hosts.send_order(host, [1; 16], String::new()),
            Err(OrderError::Full)
        );
    }
}
