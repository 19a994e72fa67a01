//! Time and keys of a fleet under live streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agent_stream::enrol::{HostFacts, enroll, recover, renew};
use agent_stream::network::Dialer;
use agent_stream::{StreamConfig, StreamPhase};
use fleetmend_config::HumanDuration;
use fleetmend_event::TimeMicros;
use fleetmend_identity::authority::Stage;
use fleetmend_identity::time::{Clocks, SystemClocks};
use fleetmend_identity::{CollectorAuthority, FleetRoot, LiveIdentity, TimeSource, TrustedTime};
use fleetmend_testkit::proxy::Fault;
use fleetmend_testkit::{FaultProxy, TestFleet, wait_for};

use super::PATIENCE;
use super::agent::{Agent, spool_config, stream_config};
use super::collector::Collector;
use super::sink::MemorySink;

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// The clocks of this machine, but for a system clock that somebody sets.
struct SetClocks(Arc<AtomicI64>);

impl Clocks for SetClocks {
    fn wall(&self) -> TimeMicros {
        TimeMicros::now().plus_millis(self.0.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        SystemClocks.since_boot()
    }

    fn boot_id(&self) -> String {
        SystemClocks.boot_id()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_clock_is_set_while_connected_goes_by_the_collectors_time() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let way = FaultProxy::start(collector.address).await.unwrap();
    let ahead = Arc::new(AtomicI64::new(0));
    let time = TrustedTime::over(Box::new(SetClocks(ahead.clone())));
    let stream = stream_config(&[way.address().to_string()]);
    let agent = Agent::start_as(
        &fleet.host().unwrap(),
        &time,
        stream,
        spool_config(fleet.folder()),
    );
    agent.append(0..5);
    agent.delivered().await;
    assert_eq!(time.now().1, TimeSource::Collector, "the welcome brought it");
    for by in [YEAR_MS, -YEAR_MS] {
        ahead.store(by, Ordering::Relaxed);
        // The clock is seen to be off with the next heartbeat, whose answer says by how much.
        let seen = async || agent.state.borrow().collector_ahead_ms.unwrap_or_default();
        wait_for(PATIENCE, seen, |seen| (seen + by).abs() < 3_600_000)
            .await
            .unwrap();
        let (now, source) = time.now();
        assert_eq!(source, TimeSource::Collector);
        assert!(now.micros_since(TimeMicros::now()).abs() < 3_600_000_000, "{now}");
        // A new handshake judges certificates by it.
        cut(&way, &agent).await;
        agent.phase(StreamPhase::Connected).await;
    }
    agent.append(5..10);
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..10).collect::<Vec<_>>());
    agent.stop().await;
    collector.stop().await;
}

/// Ends the connection of an agent; the next one is let through.
async fn cut(way: &FaultProxy, agent: &Agent) {
    way.set(Fault::Cut);
    let phase = async || agent.state.borrow().phase;
    wait_for(PATIENCE, phase, |phase| *phase != StreamPhase::Connected)
        .await
        .unwrap();
    way.set(Fault::None);
}

struct Rotating {
    fleet: TestFleet,
    collector: Collector,
    successor: FleetRoot,
    identity: LiveIdentity,
    time: Arc<TrustedTime>,
    way: FaultProxy,
    agent: Agent,
}

impl Rotating {
    async fn start() -> Self {
        let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
        let collector = Collector::start(&fleet, &sink).await;
        let enrolment = collector.serve_enrolment(([127, 0, 0, 1], 0).into()).await;
        let token = collector.token(enrolment).await;
        let (folder, time) = (fleet.folder().join("identity"), TrustedTime::system());
        let identity = enroll(&Dialer::direct(), &token, &folder, HostFacts::default(), &time)
            .await
            .unwrap();
        let identity = LiveIdentity::new(identity, None);
        let way = FaultProxy::start(collector.address).await.unwrap();
        let stream = StreamConfig {
            // Longer than the test: what is refused must not wait for it.
            refused_wait: HumanDuration::from_secs(600),
            ..stream_config(&[way.address().to_string()])
        };
        let agent = Agent::start_as(&identity, &time, stream, spool_config(fleet.folder()));
        agent.phase(StreamPhase::Connected).await;
        Self {
            successor: FleetRoot::in_memory("lab".parse().unwrap()).unwrap(),
            fleet,
            collector,
            identity,
            time,
            way,
            agent,
        }
    }

    async fn rotate(&self, stage: Stage) {
        let folder = self.fleet.folder().join("collector");
        let (root, now) = (self.fleet.root(), TimeMicros::now());
        CollectorAuthority::rotate(&folder, stage, root, Some(&self.successor), now).unwrap();
        self.collector.enroller.look_after().await.unwrap();
    }

    async fn doubted(&self) {
        let doubted = tokio::time::timeout(PATIENCE, self.identity.doubted()).await;
        doubted.unwrap_or_else(|_| panic!("no doubt; {:?}", *self.agent.state.borrow()));
    }

    async fn end(self) {
        self.agent.append(0..3);
        self.agent.delivered().await;
        self.agent.stop().await;
        self.collector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_behind_the_fleets_trust_bundle_renews_early() {
    let scene = Rotating::start().await;
    scene.rotate(Stage::Introduce).await;
    cut(&scene.way, &scene.agent).await;
    scene.doubted().await;
    let address = scene.collector.address.to_string();
    renew(&Dialer::direct(), &scene.identity, &address, &scene.time)
        .await
        .unwrap();
    assert_eq!(scene.identity.current().bundle().version, 2);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_issuer_was_retired_doubts_and_comes_back_with_a_new_certificate() {
    let scene = Rotating::start().await;
    scene.rotate(Stage::Introduce).await;
    let address = scene.collector.address.to_string();
    // It knows the new keys, and its certificate is of the old ones.
    renew(&Dialer::direct(), &scene.identity, &address, &scene.time)
        .await
        .unwrap();
    scene.rotate(Stage::Switch).await;
    scene.rotate(Stage::Retire).await;
    cut(&scene.way, &scene.agent).await;
    scene.agent.phase(StreamPhase::Refused).await;
    let error = scene.agent.state.borrow().last_error.clone().unwrap_or_default();
    assert!(error.contains("does not know who issued"), "{error}");
    scene.doubted().await;
    recover(&Dialer::direct(), &scene.identity, &scene.time)
        .await
        .unwrap();
    scene.agent.phase(StreamPhase::Connected).await;
    scene.end().await;
}
