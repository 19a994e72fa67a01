//! The stream over other ways than a plain IPv4 connection, and from one collector to another.

use std::net::SocketAddr;

use agent_stream::StreamPhase;
use agent_stream::enrol::{HostFacts, enroll};
use agent_stream::network::Dialer;
use collector_ingest::IngestConfig;
use fleetmend_event::HostId;
use fleetmend_identity::{LiveIdentity, TrustedTime};
use fleetmend_testkit::connect::Manner;
use fleetmend_testkit::{ConnectProxy, FaultProxy, TestFleet, wait_for};

use super::PATIENCE;
use super::agent::{Agent, spool_config, stream_config};
use super::collector::Collector;
use super::sink::MemorySink;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_through_a_proxy_whenever_it_lets_them() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let name = "collector.test:7444";
    let proxy = ConnectProxy::start(&[(name, collector.address)]).await.unwrap();
    proxy.set(Manner::Says("503 Service Unavailable".to_owned()));
    let mut stream = stream_config(&[name.to_owned()]);
    stream.proxy = Some(format!("http://{}", proxy.address()));
    let agent = Agent::start_as(
        &fleet.host().unwrap(),
        &TrustedTime::system(),
        stream,
        spool_config(fleet.folder()),
    );
    agent.append(0..50);
    let state = async || agent.state.borrow().clone();
    let told = |state: &agent_stream::StreamState| {
        let error = state.last_error.clone().unwrap_or_default();
        error.contains("refuses the tunnel (503") && error.contains(name)
    };
    wait_for(PATIENCE, state, told).await.unwrap();
    proxy.set(Manner::Willing);
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..50).collect::<Vec<_>>());
    assert!(proxy.tunnels().iter().all(|asked| asked == name));
    assert_eq!(sink.repeated(), 0);
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_enrols_and_streams_over_ipv6() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let local = "[::1]:0".parse().unwrap();
    let collector = Collector::start_at(&fleet, &sink, local, IngestConfig::default()).await;
    let enrolment = collector.serve_enrolment(local).await;
    let token = collector.token(enrolment).await;
    assert!(token.address().starts_with("[::1]:"), "{}", token.address());
    let (folder, time) = (fleet.folder().join("identity"), TrustedTime::system());
    let identity = enroll(&Dialer::direct(), &token, &folder, HostFacts::default(), &time)
        .await
        .unwrap();
    let identity = LiveIdentity::new(identity, None);
    let agent = Agent::start(&identity, collector.address, fleet.folder());
    agent.append(0..20);
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..20).collect::<Vec<_>>());
    agent.stop().await;
    collector.stop().await;
}

/// Agents of a fleet with the same list of collectors, over one store.
struct Rolling {
    fleet: TestFleet,
    sink: MemorySink,
    agents: Vec<Agent>,
    _folders: Vec<tempfile::TempDir>,
}

impl Rolling {
    fn start(fleet: TestFleet, sink: MemorySink, collectors: &[String], count: usize) -> Self {
        let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let start = |folder: &tempfile::TempDir| {
            Agent::start_as(
                &fleet.host().unwrap(),
                &TrustedTime::system(),
                stream_config(collectors),
                spool_config(folder.path()),
            )
        };
        let agents = folders.iter().map(start).collect();
        Self {
            fleet,
            sink,
            agents,
            _folders: folders,
        }
    }

    async fn collector(&self, at: SocketAddr) -> Collector {
        Collector::start_at(&self.fleet, &self.sink, at, IngestConfig::default()).await
    }

    /// All hosts are connected to this collector.
    async fn all_at(&self, collector: &Collector) {
        for host in self.hosts() {
            collector.connected(host).await;
        }
    }

    fn hosts(&self) -> Vec<HostId> {
        self.agents.iter().map(|agent| agent.host).collect()
    }

    fn append(&self, numbers: std::ops::Range<u64>) {
        for agent in &self.agents {
            agent.append(numbers.clone());
        }
    }

    /// The first records arrive, wherever each agent begins.
    async fn begin(&self) {
        self.append(0..10);
        for agent in &self.agents {
            agent.delivered().await;
        }
    }

    /// Stops one collector, starts it again, and stops the other: everybody moves with it, twice.
    async fn restart(&self, first: Collector, second: Collector) -> Collector {
        let at_first = first.address;
        first.stop().await;
        self.append(10..20);
        self.all_at(&second).await;
        let first = self.collector(at_first).await;
        second.stop().await;
        self.append(20..30);
        self.all_at(&first).await;
        first
    }

    /// Everything arrived, once.
    async fn end(self, count: u64) {
        for agent in self.agents {
            agent.delivered().await;
            assert_eq!(self.sink.units(agent.host), (0..count).collect::<Vec<_>>());
            agent.stop().await;
        }
    }
}

const AGENTS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_a_draining_collector_go_to_the_other_and_come_back_later() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let second = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let (at_first, at_second) = (first.address, second.address);
    // Counted, and the same whichever collector stands behind.
    let ways = [
        FaultProxy::start(at_first).await.unwrap(),
        FaultProxy::start(at_second).await.unwrap(),
    ];
    let list: Vec<String> = ways.iter().map(|way| way.address().to_string()).collect();
    let rolling = Rolling::start(fleet, sink, &list, AGENTS);
    rolling.begin().await;
    // Each begins somewhere in the list.
    let begun: Vec<u64> = ways.iter().map(FaultProxy::accepted).collect();
    assert_eq!(begun.iter().sum::<u64>(), AGENTS as u64);

    let first = rolling.restart(first, second).await;
    // Moved once each by the drain, and tried the one that was not there at most a few times.
    let accepted: u64 = ways.iter().map(FaultProxy::accepted).sum();
    assert!(
        accepted <= 8 * AGENTS as u64,
        "{accepted} connections by {AGENTS} agents"
    );
    rolling.end(30).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_behind_a_balancer_find_the_collector_that_is_left() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let second = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let (at_first, at_second) = (first.address, second.address);
    let balancer = FaultProxy::balance(&[at_first, at_second]).await.unwrap();
    let rolling = Rolling::start(fleet, sink, &[balancer.address().to_string()], AGENTS);
    rolling.begin().await;
    let first = rolling.restart(first, second).await;
    assert!(
        balancer.accepted() <= 8 * AGENTS as u64,
        "{}",
        balancer.accepted()
    );
    rolling.end(30).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_leads_to_the_next_collector_before_its_wait_is_over() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let second = Collector::start_at(&fleet, &sink, any, IngestConfig::default()).await;
    let list = [first.address.to_string(), second.address.to_string()];
    let rolling = Rolling::start(fleet, sink, &list, 1);
    let agent = &rolling.agents[0];
    let state = agent.phase(StreamPhase::Connected).await;
    let (here, there) = if state.collector.as_ref() == Some(&list[0]) {
        (first, second)
    } else {
        (second, first)
    };
    here.stop().await;
    there.connected(agent.host).await;
    let error = agent.state.borrow().last_error.clone().unwrap_or_default();
    assert!(error.contains("the collector is stopping"), "{error}");
    rolling.append(0..5);
    rolling.end(5).await;
    there.stop().await;
}
