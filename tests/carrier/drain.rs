//! A collector that is asked to stop while fifty hosts send as fast as they can.

use std::collections::BTreeSet;

use collector_ingest::IngestConfig;
use fleetmend_testkit::{TestFleet, wait_for};

use super::PATIENCE;
use super::agent::Agent;
use super::collector::Collector;
use super::sink::MemorySink;

const HOSTS: usize = 50;
/// Records of each host, half of them before the stop.
const RECORDS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_that_stops_under_fifty_loaded_streams_loses_and_doubles_nothing() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let address = collector.address;
    let folder = tempfile::tempdir().unwrap();
    let mut agents = Vec::new();
    for number in 0..HOSTS {
        let own = folder.path().join(number.to_string());
        std::fs::create_dir(&own).unwrap();
        agents.push(Agent::start(&fleet.host().unwrap(), address, &own));
    }
    for agent in &agents {
        collector.connected(agent.host).await;
    }
    let feeding = async {
        for first in (0..RECORDS).step_by(20) {
            for agent in &agents {
                agent.append(first..first + 20);
            }
            tokio::task::yield_now().await;
        }
    };
    let stopping = async {
        // In the middle of it: something is durable of most hosts, and more is on its way.
        let commits = async || sink.commits();
        wait_for(PATIENCE, commits, |commits| *commits >= HOSTS as u64)
            .await
            .unwrap();
        // Asserts that no stream is left behind.
        collector.stop().await;
    };
    tokio::join!(feeding, stopping);
    let again = Collector::start_at(&fleet, &sink, address, IngestConfig::default()).await;
    assert_eq!(again.address, address);
    for agent in &agents {
        agent.delivered().await;
        let units = sink.units(agent.host);
        let distinct: BTreeSet<u64> = units.iter().copied().collect();
        assert_eq!((units.len() as u64, distinct.len() as u64), (RECORDS, RECORDS));
        assert!(sink.gaps(agent.host).is_empty(), "{:?}", sink.gaps(agent.host));
    }
    for agent in agents {
        agent.stop().await;
    }
    again.stop().await;
}
