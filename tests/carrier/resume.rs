//! Nothing is lost and nothing doubled, whoever stops when.

use std::path::Path;

use agent_spool::SpoolConfig;
use agent_stream::StreamPhase;
use collector_ingest::IngestConfig;
use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::Lane;
use fleetmend_testkit::proxy::Fault;
use fleetmend_testkit::{FaultProxy, TestFleet, wait_for};

use super::PATIENCE;
use super::agent::{Agent, spool_config};
use super::collector::{Collector, impatient};
use super::sink::{MemorySink, Mood};

/// What a kill leaves: the files without the mark of a clean stop.
fn unclean(folder: &Path) {
    std::fs::remove_file(folder.join("spool/clean")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_arrive_once_and_are_acknowledged() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let agent = Agent::start(&fleet.host().unwrap(), collector.address, fleet.folder());
    agent.append(0..500);
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..500).collect::<Vec<_>>());
    let state = agent.phase(StreamPhase::Connected).await;
    assert_eq!(state.frames_sent, state.frames_acknowledged);
    let live = collector.hosts.host(agent.host).unwrap();
    assert_eq!(live.agent_version, "test");
    let clock = async || collector.hosts.host(agent.host).unwrap().clock_ahead_ms;
    let ahead = wait_for(PATIENCE, clock, Option::is_some).await.unwrap();
    assert!(ahead.unwrap().abs() < 5_000, "{ahead:?}");
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_restarts_lose_and_double_nothing() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let mut collector = Collector::start(&fleet, &sink).await;
    let address = collector.address;
    let agent = Agent::start(&fleet.host().unwrap(), address, fleet.folder());
    for round in 0..5 {
        agent.append(round * 100..round * 100 + 50);
        agent.flush().await;
        collector.stop().await;
        agent.append(round * 100 + 50..(round + 1) * 100);
        agent.flush().await;
        collector = Collector::start_at(&fleet, &sink, address, IngestConfig::default()).await;
    }
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..500).collect::<Vec<_>>());
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_restarts_lose_and_double_nothing() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let identity = fleet.host().unwrap();
    let mut epochs = std::collections::BTreeSet::new();
    for round in 0..6 {
        let agent = Agent::start(&identity, collector.address, fleet.folder());
        epochs.insert(agent.spool.epoch());
        assert_eq!(agent.recovered.clean, round == 0 || round % 2 == 1);
        agent.append(round * 50..(round + 1) * 50);
        agent.flush().await;
        agent.stop().await;
        if round % 2 == 1 {
            unclean(fleet.folder());
        }
    }
    let agent = Agent::start(&identity, collector.address, fleet.folder());
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..300).collect::<Vec<_>>());
    assert_eq!(
        epochs.len(),
        3,
        "a new epoch after each unclean stop and no other"
    );
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_and_stalled_connections_lose_and_double_nothing() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let proxy = FaultProxy::start(collector.address).await.unwrap();
    let agent = Agent::start(&fleet.host().unwrap(), proxy.address(), fleet.folder());
    for round in 0..6 {
        agent.append(round * 200..(round + 1) * 200);
        agent.flush().await;
        let commits = sink.commits();
        let more = async || sink.commits();
        wait_for(PATIENCE, more, |now| *now > commits || round > 0)
            .await
            .unwrap();
        proxy.set(if round % 2 == 0 { Fault::Cut } else { Fault::Stall });
        agent.append(10_000 + round..10_001 + round);
        agent.flush().await;
        proxy.set(Fault::None);
    }
    agent.delivered().await;
    let expected: Vec<u64> = (0..1200).chain(10_000..10_006).collect();
    assert_eq!(sink.units(agent.host), expected);
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sink_that_cannot_is_waited_for() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let collector = Collector::start_at(&fleet, &sink, address, impatient()).await;
    let agent = Agent::start(&fleet.host().unwrap(), collector.address, fleet.folder());
    agent.phase(StreamPhase::Connected).await;
    sink.set(Mood::Unavailable);
    agent.append(0..10);
    agent.flush().await;
    let state = agent.phase(StreamPhase::Waiting).await;
    assert!(
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("the test says so")),
        "{state:?}"
    );
    assert!(
        sink.units(agent.host).is_empty(),
        "nothing is acknowledged that is not durable"
    );
    assert_eq!(agent.spool.stat().lanes[1].acknowledged, 0);
    sink.set(Mood::Well);
    agent.delivered().await;

    sink.set(Mood::Stuck);
    agent.append(10..20);
    agent.flush().await;
    let state = async || agent.state.borrow().clone();
    let late = |state: &agent_stream::StreamState| {
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("longer than"))
    };
    wait_for(PATIENCE, state, late).await.unwrap();
    sink.set(Mood::Well);
    agent.delivered().await;
    assert_eq!(sink.units(agent.host), (0..20).collect::<Vec<_>>());
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_made_anew_is_filled_with_what_is_kept() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let address = collector.address;
    let agent = Agent::start(&fleet.host().unwrap(), address, fleet.folder());
    agent.append(0..100);
    agent.delivered().await;
    collector.stop().await;
    let anew = sink.made_anew();
    let collector = Collector::start_at(&fleet, &anew, address, IngestConfig::default()).await;
    let units = async || anew.units(agent.host);
    wait_for(PATIENCE, units, |units| *units == (0..100).collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(anew.repeated(), 0);
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_are_gone_do_not_hold_the_rest_up() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let address = collector.address;
    let config = SpoolConfig {
        retention: HumanDuration::from_millis(0),
        segment_size: ByteSize(1),
        ..spool_config(fleet.folder())
    };
    let agent = Agent::start_with(&fleet.host().unwrap(), address, config);
    agent.append(0..10);
    agent.delivered().await;
    let segments = async || agent.spool.stat().lanes[1].segments;
    wait_for(PATIENCE, segments, |segments| *segments == 0)
        .await
        .unwrap();
    collector.stop().await;
    let anew = sink.made_anew();
    let collector = Collector::start_at(&fleet, &anew, address, IngestConfig::default()).await;
    agent.append(10..20);
    agent.delivered().await;
    assert_eq!(anew.units(agent.host), (10..20).collect::<Vec<_>>());
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shed_records_arrive_as_tombstones_with_their_gaps() {
    use fleetmend_event::table::{Gap, Table};
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let address = collector.address;
    collector.stop().await;
    let config = SpoolConfig {
        events_quota: ByteSize::from_mib(1),
        ..spool_config(fleet.folder())
    };
    let agent = Agent::start_with(&fleet.host().unwrap(), address, config);
    let held = || agent.spool.stat().lanes[1].clone();
    let count = 2_000;
    for round in 0..20 {
        agent.append_noisy(round * 100..(round + 1) * 100);
        agent.flush().await;
    }
    let tidy = async || held().bytes;
    wait_for(PATIENCE, tidy, |bytes| *bytes <= 1 << 20).await.unwrap();
    let collector = Collector::start_at(&fleet, &sink, address, IngestConfig::default()).await;
    agent.delivered().await;
    let frames = sink.frames(agent.host);
    let events: Vec<u64> = frames
        .iter()
        .filter(|frame| frame.id.lane == Lane::Events)
        .map(|frame| frame.id.sequence.0)
        .collect();
    assert_eq!(
        events,
        (1..=held().highest).collect::<Vec<_>>(),
        "no number is skipped"
    );
    let gaps = frames
        .iter()
        .filter(|frame| frame.table == Gap::ID && !frame.tombstone);
    let lost: u64 = gaps
        .flat_map(|frame| Gap::from_batch(&frame.batch().unwrap().unwrap()).unwrap())
        .map(|gap| gap.count)
        .sum();
    let units = sink.units(agent.host);
    assert_eq!(
        units.len() as u64 + lost,
        count,
        "every row is there or in a gap row"
    );
    assert!(lost > 0);
    agent.stop().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_hints_and_results_travel() {
    use collector_ingest::OrderError;
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let mut collector = Collector::start(&fleet, &sink).await;
    let identity = fleet.host().unwrap();
    let host = identity.current().host();
    assert_eq!(
        collector.hosts.send_order(host, [7; 16], "{}".to_owned()),
        Err(OrderError::NotConnected)
    );
    let mut agent = Agent::start(&identity, collector.address, fleet.folder());
    collector.connected(host).await;
    collector
        .hosts
        .send_order(host, [7; 16], "{\"order\":1}".to_owned())
        .unwrap();
    let order = tokio::time::timeout(PATIENCE, agent.orders.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (order.order_id, order.envelope.as_str()),
        ([7; 16], "{\"order\":1}")
    );
    let result = agent_stream::OrderResult {
        order_id: [7; 16],
        accepted: false,
        reason: "no policy".to_owned(),
    };
    agent.results.send(result).await.unwrap();
    let result = tokio::time::timeout(PATIENCE, collector.results.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (result.host, result.accepted, result.reason.as_str()),
        (host, false, "no policy")
    );
    collector.hosts.hint_metrics_interval(host, 1_000).unwrap();
    let hinted = tokio::time::timeout(
        PATIENCE,
        agent.hints.wait_for(|hint| hint.metrics_interval_ms.is_some()),
    )
    .await;
    assert_eq!(hinted.unwrap().unwrap().metrics_interval_ms, Some(1_000));
    agent.stop().await;
    collector.disconnected(host).await;
    collector.stop().await;
}
