//! kill −9 of a whole agent process, again and again, while it appends and sends.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::authority::HOST_LIFETIME;
use fleetmend_identity::host::Grant;
use fleetmend_identity::{HostIdentity, HostKey, LiveIdentity};
use fleetmend_testkit::TestFleet;
use rand::Rng as _;

use super::agent::Agent;
use super::collector::Collector;
use super::sink::MemorySink;

const FOLDER: &str = "FLEETMEND_CARRIER_TEST_FOLDER";
const COLLECTOR: &str = "FLEETMEND_CARRIER_TEST_COLLECTOR";
const FIRST: &str = "FLEETMEND_CARRIER_TEST_FIRST";
/// Numbers of one life of the agent.
const LIFE: u64 = 1_000_000;

/// The agent that is killed: this very test in a process of its own. Run by itself it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_process() {
    let (Ok(folder), Ok(collector), Ok(first)) = (
        std::env::var(FOLDER),
        std::env::var(COLLECTOR),
        std::env::var(FIRST),
    ) else {
        return;
    };
    let (folder, collector): (&Path, SocketAddr) = (Path::new(&folder), collector.parse().unwrap());
    let mut number: u64 = first.parse().unwrap();
    let identity = HostIdentity::load(&folder.join("identity")).unwrap().unwrap();
    let agent = Agent::start(&LiveIdentity::new(identity, None), collector, folder);
    let end = Instant::now() + Duration::from_secs(20);
    // The parent kills it long before.
    while Instant::now() < end {
        agent.append(number..number + 7);
        number += 7;
        agent.flush().await;
        println!("\ndurable {number}");
    }
}

fn enrolled(fleet: &TestFleet) -> HostIdentity {
    let folder = fleet.folder().join("identity");
    let key = Arc::new(HostKey::load_or_create(&folder).unwrap());
    let request = key.request().unwrap();
    let issued = fleet
        .authority()
        .issue_host(&request, HostId::random(), TimeMicros::now(), HOST_LIFETIME)
        .unwrap();
    let grant = Grant {
        chain: issued
            .chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        bundle: fleet.authority().signed_bundle().clone(),
        collectors: Vec::new(),
        enrolment: "127.0.0.1:1".to_owned(),
    };
    let identity = HostIdentity::accept(key, fleet.root().fingerprint(), grant).unwrap();
    identity.save(&folder).unwrap();
    identity
}

fn spawn(folder: &Path, collector: SocketAddr, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::agent_process", "--nocapture"])
        .env(FOLDER, folder)
        .env(COLLECTOR, collector.to_string())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads what the child says to be durable for a while, kills it, and reads what it had said before it died.
fn kill_after(mut child: Child, lines: usize) -> u64 {
    let mut durable = 0;
    let mut said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let number = |line: &String| {
        line.strip_prefix("durable ")
            .and_then(|number| number.parse::<u64>().ok())
    };
    durable = said
        .by_ref()
        .filter_map(|line| number(&line))
        .take(lines)
        .last()
        .unwrap_or(durable);
    child.kill().unwrap();
    child.wait().unwrap();
    said.filter_map(|line| number(&line)).last().unwrap_or(durable)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn killed_agents_lose_nothing_durable_and_double_nothing() {
    let (fleet, sink) = (TestFleet::new().unwrap(), MemorySink::new());
    let collector = Collector::start(&fleet, &sink).await;
    let identity = enrolled(&fleet);
    let mut promised = Vec::new();
    for life in 0..6 {
        let first = life * LIFE;
        let child = spawn(fleet.folder(), collector.address, first);
        let lines = rand::rng().random_range(1..60);
        let durable = tokio::task::spawn_blocking(move || kill_after(child, lines))
            .await
            .unwrap();
        assert!(durable > first, "the agent of life {life} did nothing");
        promised.push((first, durable));
    }
    let agent = Agent::start(
        &LiveIdentity::new(identity, None),
        collector.address,
        fleet.folder(),
    );
    assert!(!agent.recovered.clean);
    agent.delivered().await;
    let units = sink.units(agent.host);
    for (first, durable) in promised {
        let life: Vec<u64> = units
            .iter()
            .copied()
            .filter(|unit| (first..first + LIFE).contains(unit))
            .collect();
        let highest = life.last().map_or(first, |last| last + 1);
        assert!(highest >= durable, "{highest} of {durable} durable rows arrived");
        assert_eq!(
            life,
            (first..highest).collect::<Vec<_>>(),
            "each row once, none in between missing"
        );
    }
    agent.stop().await;
    collector.stop().await;
}
