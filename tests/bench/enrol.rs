//! `enrol`: hosts that enrol through the real listener, and a fleet that comes back after a restart.
//!
//! Every host has a key of its own and asks for a certificate over TLS, as many at once as a rollout would start.
//! Collector and hosts share the machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_stream::enrol::{HostFacts, enroll};
use agent_stream::network::Dialer;
use agent_stream::{Hint, StreamConfig, StreamParts, StreamPhase, StreamState, StreamTask};
use anyhow::{Context, Result, ensure};
use fleetmend_event::Lane;
use fleetmend_identity::{EnrolmentToken, HostIdentity, LiveIdentity, TrustedTime};
use fleetmend_shutdown::Tasks;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::ingest::feed::{Feed, Gate, Pace, Stock};
use crate::instance::Instance;
use crate::report::{Bar, Report, progress};

/// Hosts that enrol at once.
const AT_ONCE: usize = 32;
/// Hosts that one token enrols: as many as a token may.
const TOKEN_USES: u32 = 1_000;
/// Hosts of the fleet that reconnects.
const FLEET: usize = 1_000;
/// One host may take so long; more is stuck.
const ENROL_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(180);
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let hosts: u32 = if quick { 200 } else { 10_000 };
    let parameters =
        json!({"hosts": hosts, "at_once": AT_ONCE, "fleet": FLEET.min(hosts as usize), "quick": quick});
    let mut report = Report::new("enrol", 0, parameters);
    let mut instance = Instance::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let identities = runtime.block_on(rollout(&mut report, &instance, hosts))?;
    let fleet: Vec<LiveIdentity> = identities
        .into_iter()
        .take(FLEET)
        .map(|identity| LiveIdentity::new(identity, None))
        .collect();
    reconnect(&mut report, &mut instance, &runtime, &fleet)?;
    Ok(report)
}

pub(crate) async fn rollout(
    report: &mut Report,
    instance: &Instance,
    hosts: u32,
) -> Result<Vec<HostIdentity>> {
    progress(format!("enrol {hosts} hosts, {AT_ONCE} at once"));
    let api = instance.api().await?;
    let mut tokens: Vec<Arc<EnrolmentToken>> = Vec::new();
    for first in (0..hosts).step_by(TOKEN_USES as usize) {
        let text = api.enrolment_token(TOKEN_USES.min(hosts - first)).await?;
        tokens.push(Arc::new(text.parse().context("read the enrolment token")?));
    }
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let begun = Instant::now();
    let mut enrolling = JoinSet::new();
    for number in 0..hosts {
        let folder = instance.path(&format!("host-{number}"));
        let token = tokens.get((number / TOKEN_USES) as usize).cloned();
        let (token, turns) = (token.context("find a token")?, turns.clone());
        enrolling.spawn(async move {
            let _turn = turns.acquire_owned().await.context("wait for a turn")?;
            std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
            let facts = HostFacts {
                hostname: format!("bench-{number:05}"),
                ..HostFacts::default()
            };
            let time = TrustedTime::system();
            tokio::time::timeout(
                ENROL_WITHIN,
                enroll(&Dialer::direct(), &token, &folder, facts, &time),
            )
            .await
            .context("wait for the enrolment")?
            .context("enrol")
        });
    }
    let (mut identities, mut failures) = (Vec::new(), Vec::new());
    while let Some(done) = enrolling.join_next().await {
        match done.context("enrol a host")? {
            Ok(identity) => identities.push(identity),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    report.figure(
        "enrolments_per_min",
        identities.len() as f64 / minutes,
        Bar::AtLeast(6_000.0),
    );
    report.figure("stuck", failures.len() as f64, Bar::AtMost(0.0));
    let distinct: BTreeSet<_> = identities.iter().map(HostIdentity::host).collect();
    let doubled = identities.len() - distinct.len();
    report.figure("doubled", doubled as f64, Bar::AtMost(0.0));
    failures.sort();
    failures.dedup();
    report.condition("failures", json!(failures));
    Ok(identities)
}

/// Connects a fleet, restarts the collector, and waits until every host is welcomed again.
fn reconnect(
    report: &mut Report,
    instance: &mut Instance,
    runtime: &tokio::runtime::Runtime,
    fleet: &[LiveIdentity],
) -> Result<()> {
    progress(format!("connect {} hosts", fleet.len()));
    let tasks = Tasks::new();
    let address = instance.carrier();
    // Nobody opens it: the streams only live.
    let gate = watch::Sender::new(Gate::Closed);
    let states = runtime.block_on(async {
        fleet
            .iter()
            .map(|host| open(host, &address, gate.subscribe(), &tasks))
            .collect::<Result<Vec<_>>>()
    })?;
    settle(&states, Instant::now(), &mut Vec::new())?;
    progress("restart the collector");
    instance.stop_collector();
    instance.run_collector()?;
    let (ready, mut curve) = (Instant::now(), Vec::new());
    let seconds = settle(&states, ready, &mut curve)?;
    report.figure("reconnect_1000_s", seconds, Bar::AtMost(30.0));
    let busiest = curve.windows(2).filter_map(|pair| match pair {
        [first, second] => Some(second.saturating_sub(*first)),
        _ => None,
    });
    report.figure(
        "reconnect_busiest_second_hosts",
        busiest.max().unwrap_or(0) as f64,
        Bar::None,
    );
    report.condition("connected_after_each_second", json!(curve));
    runtime.block_on(async {
        tasks.begin("the benchmark is over");
        tasks.drain(DRAIN_WITHIN).await;
    });
    Ok(())
}

fn open(
    host: &LiveIdentity,
    address: &str,
    gate: watch::Receiver<Gate>,
    tasks: &Tasks,
) -> Result<watch::Receiver<StreamState>> {
    let (state, states) = watch::channel(StreamState::default());
    let stock = Arc::new(Stock {
        frames: Vec::new(),
        rows: 0,
    });
    let pace = Pace::Every(Duration::from_secs(1));
    let feed = Feed::new(stock, Lane::Events, pace, Duration::ZERO, gate, Arc::default());
    // Nobody gives orders here.
    let (orders, _) = mpsc::channel(1);
    let (_, results) = mpsc::channel(1);
    let parts = StreamParts {
        config: StreamConfig {
            collectors: vec![address.to_owned()],
            ..StreamConfig::default()
        },
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: feed,
        orders,
        results,
        hints: watch::Sender::new(Hint::default()),
        state,
    };
    StreamTask::new(parts, host.clone(), &TrustedTime::system())
        .context("prepare a stream")?
        .spawn(tasks);
    Ok(states)
}

/// Seconds from `since` until all are connected; `curve` gets the number of connected hosts at each second.
fn settle(states: &[watch::Receiver<StreamState>], since: Instant, curve: &mut Vec<usize>) -> Result<f64> {
    let mut next = since + Duration::from_secs(1);
    loop {
        let connected = states
            .iter()
            .filter(|state| state.borrow().phase == StreamPhase::Connected)
            .count();
        if Instant::now() >= next {
            curve.push(connected);
            next += Duration::from_secs(1);
        }
        if connected == states.len() {
            curve.push(connected);
            return Ok(since.elapsed().as_secs_f64());
        }
        let last = states
            .iter()
            .find_map(|state| state.borrow().last_error.clone())
            .map_or(Value::Null, Value::from);
        ensure!(
            since.elapsed() < CONNECT_WITHIN,
            "{connected} of {} hosts were connected within {CONNECT_WITHIN:?}; one said {last}",
            states.len()
        );
        std::thread::sleep(LOOK_EVERY);
    }
}
