use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::Fact;
use fleetmend_event::table::{ConnectionOwner, Gap, NetworkEvent, NetworkEventKind, Source};
use tokio::sync::mpsc;

use super::diag::Diag;
use super::follow::SocketFollower;
use super::*;
use crate::PaceHandle;
use crate::process::proc_fs::ProcFs;
use crate::process::{Inventory, ProcessConfig};
use crate::source::Kind;
use crate::source::delivery::{Delivery, Tally};

/// Longest wait for a row.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    poller: Poller,
    facts: mpsc::Receiver<Fact>,
    seen: Vec<Fact>,
}

impl Rig {
    fn new(sockets_max: usize) -> Self {
        let (sender, facts) = mpsc::channel(100_000);
        let kinds = BTreeMap::from([(Kind::Network, Arc::<Tally>::default())]);
        let delivery = Delivery::new(sender, "socket_table", kinds, PaceHandle::default());
        let inventory = Inventory::new(ProcessConfig::default());
        let poll = Duration::from_millis(100);
        let mut poller = Poller::new(inventory, delivery, poll, sockets_max, PaceHandle::default());
        poller.round();
        Self {
            poller,
            facts,
            seen: Vec::new(),
        }
    }

    fn wait(&mut self, kind: NetworkEventKind, local: u16, remote: u16) -> NetworkEvent {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Ok(fact) = self.facts.try_recv() {
                self.seen.push(fact);
            }
            let found = self.seen.iter().find_map(|fact| match fact {
                Fact::NetworkEvent(row)
                    if row.kind == kind
                        && (row.local_port, row.remote_port) == (u32::from(local), u32::from(remote)) =>
                {
                    Some(row.as_ref().clone())
                }
                _ => None,
            });
            if let Some(found) = found {
                return found;
            }
            assert!(
                Instant::now() < end,
                "no {kind} from {local} to {remote} among {}",
                self.seen.len()
            );
            self.poller.round();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn own_listener_and_connection_are_told_with_their_holder_and_their_end() {
    let mut rig = Rig::new(100_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, from) = listener.accept().unwrap();
    let own = std::process::id();

    let listen = rig.wait(NetworkEventKind::Listen, port, 0);
    assert_eq!((listen.pid, listen.local_address.as_str()), (own, "127.0.0.1"));
    assert_eq!(
        (listen.source, listen.owner),
        (Source::SocketTable, ConnectionOwner::Caller)
    );
    assert!(
        listen.remote_address.is_empty() && listen.start_boot_ns > 0,
        "{listen:?}"
    );
    let connect = rig.wait(NetworkEventKind::Connect, from.port(), port);
    assert_eq!((connect.pid, connect.remote_address.as_str()), (own, "127.0.0.1"));
    assert_eq!((connect.bytes_sent, connect.error), (None, None), "not known");
    let accept = rig.wait(NetworkEventKind::Accept, port, from.port());
    assert_eq!((accept.pid, accept.uid), (own, nix::unistd::getuid().as_raw()));
    assert_eq!(accept.network_namespace, connect.network_namespace);
    drop((client, server));
    let close = rig.wait(NetworkEventKind::Close, from.port(), port);
    assert!(close.duration_us.is_some(), "{close:?}");
}

#[test]
fn what_was_open_before_is_not_news() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(100_000);
    let later = TcpListener::bind("127.0.0.1:0").unwrap();
    rig.wait(NetworkEventKind::Listen, later.local_addr().unwrap().port(), 0);
    let told = rig
        .seen
        .iter()
        .any(|fact| matches!(fact, Fact::NetworkEvent(row) if row.local_port == u32::from(port)));
    assert!(!told, "it listened before");
}

#[test]
fn both_readings_of_the_table_agree() {
    let listener = TcpListener::bind("[::1]:0")
        .or_else(|_| TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let own = |entries: &[SocketEntry]| {
        entries
            .iter()
            .find(|entry| entry.listens && entry.local == address)
            .copied()
    };
    let mut over_netlink = Vec::new();
    Diag::open()
        .unwrap()
        .dump(&mut |entry| over_netlink.push(entry))
        .unwrap();
    let mut of_proc = Vec::new();
    let table = if address.is_ipv6() { "net/tcp6" } else { "net/tcp" };
    let path = ProcFs::new(Path::new("/proc")).path(std::process::id(), table);
    assert!(proc_net::read(&path, &mut |entry| of_proc.push(entry)).unwrap());
    assert!(own(&over_netlink).is_some(), "sock_diag misses {address}");
    assert_eq!(own(&over_netlink), own(&of_proc));
}

#[test]
fn sockets_beyond_the_bound_are_one_gap() {
    let listeners: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut rig = Rig::new(1);
    rig.poller.round();
    let gaps: Vec<Gap> = std::iter::from_fn(|| rig.facts.try_recv().ok())
        .filter_map(|fact| match fact {
            Fact::Gap(gap) => Some(*gap),
            _ => None,
        })
        .collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(
        gaps[0].count >= 2 && gaps[0].reason == "too_many_sockets",
        "{gaps:?}"
    );
    drop(listeners);
}

#[test]
fn memory_is_bounded_while_no_reading_is_whole() {
    const SOCKETS: u64 = 40_000;
    let mut follower = SocketFollower::new(Inventory::new(ProcessConfig::default()));
    for round in 0..8 {
        let entry = |number: u64| SocketEntry {
            local: SocketAddr::from(([192, 0, 2, 1], 80)),
            remote: SocketAddr::from(([192, 0, 2, 2], 1_024)),
            // Beyond the 32 bits of real ones.
            inode: (1 << 40) + round * SOCKETS + number,
            listens: false,
            uid: 0,
        };
        let reading = Reading {
            sockets: (0..SOCKETS).map(|number| (None, entry(number))).collect(),
            whole: false,
            left_out: 1,
        };
        follower.take(&reading);
    }
    assert!(follower.remembered() <= 120_000, "{}", follower.remembered());
}
