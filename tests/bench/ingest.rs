//! `ingest`: what a collector takes from fifty agents, acknowledged durable.
//!
//! The agents are simulated as far as their facts go: each enrols with a token of its own use, has a real key and
//! certificate, and sends through the agent's own stream. Bodies of frames are made before a phase begins, so that
//! the phase measures the collector; agents and collector share the machine all the same. A flat-out phase goes
//! through its bodies again and again with new numbers until its time is over: a burst would not show whether the
//! collector keeps up while it compacts. What travels is counted by that stream, which makes each frame relative to
//! the one before it while the phase runs, as an agent does; where the bodies begin anew, the last is a bad base for
//! the first.

pub(crate) mod data;
pub(crate) mod feed;
pub(crate) mod phase;
mod series;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_stream::enrol::{HostFacts, enroll};
use agent_stream::network::Dialer;
use anyhow::{Context, Result};
use fleetmend_event::{HostId, Lane};
use fleetmend_identity::{EnrolmentToken, LiveIdentity, TrustedTime};
use serde_json::{Value, json};

use self::data::{Kind, SERIES, prepare};
use self::feed::Pace;
use self::phase::{Outcome, phase};
use crate::api::Api;
use crate::instance::Instance;
use crate::process::rss_mib;
use crate::report::{Bar, Report, progress};
use crate::statistics::quantile;

/// Simulated agents.
const AGENTS: u32 = 50;
/// Seed of everything that is made up.
const SEED: u64 = 20_260_101;
/// Events a second at which latency is measured, over all agents.
const PACED_EVENTS_PER_S: u32 = 10_000;
/// How often an agent hands over events; the spool's default.
const EVENTS_FLUSH: Duration = Duration::from_millis(250);
/// Events in one frame when a hundred thousand a second come from fifty agents that flush four times a second.
const EVENTS_PER_FRAME: u32 = 500;
/// Bodies that each agent has in a flat-out phase.
const BODIES: u32 = 40;
/// How long the store may take to count what it holds: it may still compact.
const COUNT_WITHIN: Duration = Duration::from_secs(180);
/// Time between two attempts to count.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// Time between two readings of the collector's memory.
const MEMORY_EVERY: Duration = Duration::from_millis(200);

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let seconds = if quick { 3 } else { 20 };
    let parameters = json!({
        "agents": AGENTS, "series_per_host": SERIES, "phase_s": seconds, "events_per_frame": EVENTS_PER_FRAME,
        "paced_events_per_s": PACED_EVENTS_PER_S, "quick": quick,
        "data": "random walks, counters, pages and constants in the mix of a host; bodies are sent again with new numbers in the flat-out phases",
    });
    let mut report = Report::new("ingest", SEED, parameters);
    let instance = Instance::start()?;
    let collector = instance.collector_pid()?;
    let stop = AtomicBool::new(false);
    let peak = std::thread::scope(|scope| {
        let memory = scope.spawn(|| watch_memory(collector, &stop));
        let measured = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start the runtime")
            .and_then(|runtime| runtime.block_on(measure(&mut report, &instance, seconds)));
        stop.store(true, Ordering::Relaxed);
        let peak = memory.join().unwrap_or(f64::NAN);
        measured.map(|()| peak)
    })?;
    report.figure("collector_rss_mib", peak, Bar::AtMost(1_024.0));
    Ok(report)
}

/// The largest resident set until `stop`.
fn watch_memory(collector: u32, stop: &AtomicBool) -> f64 {
    let mut peak = 0.0_f64;
    while !stop.load(Ordering::Relaxed) {
        peak = peak.max(rss_mib(collector).unwrap_or(0.0));
        std::thread::sleep(MEMORY_EVERY);
    }
    peak
}

async fn measure(report: &mut Report, instance: &Instance, seconds: u32) -> Result<()> {
    let agents = enrol(instance).await?;
    report.figure("agents", f64::from(AGENTS), Bar::None);
    let address = instance.carrier();
    let within = Duration::from_secs(seconds.into());
    let mut phases = Vec::new();
    for (kind, frames, rate, bytes) in [
        (
            Kind::Metrics { ticks: 10 },
            BODIES,
            ("acked_samples_per_s_10s_batches", 1_000_000.0),
            Some((["wire_bytes_per_sample_10s", "spooled_bytes_per_sample_10s"], 2.5)),
        ),
        (
            Kind::Metrics { ticks: 1 },
            BODIES,
            ("acked_samples_per_s_1s_batches", 500_000.0),
            Some((["wire_bytes_per_sample_1s", "spooled_bytes_per_sample_1s"], 4.0)),
        ),
        (
            Kind::Events {
                rows: EVENTS_PER_FRAME,
            },
            BODIES,
            ("acked_events_per_s", 100_000.0),
            None,
        ),
    ] {
        progress(format!("make {} frames for {}", frames * AGENTS, rate.0));
        let feeds = prepare(kind, AGENTS, frames, SEED).await?;
        progress(format!("measure {}", rate.0));
        let outcome = phase(&agents, &address, kind.lane(), feeds, Pace::FlatOut, within).await?;
        report.figure(rate.0, outcome.acknowledged_rows_per_s(), Bar::AtLeast(rate.1));
        let (wire, spooled) = (outcome.wire_bytes_per_row(), outcome.spooled_bytes_per_row());
        if let Some(([of_wire, of_spool], limit)) = bytes {
            report.figure(of_wire, wire, Bar::AtMost(limit));
            report.figure(of_spool, spooled, Bar::None);
        } else {
            report.figure("wire_bytes_per_event", wire, Bar::None);
            report.figure("spooled_bytes_per_event", spooled, Bar::None);
        }
        phases.push((rate.0, kind.lane(), outcome));
    }
    phases.push((
        "paced",
        Lane::Events,
        paced(report, &agents, &address, within).await?,
    ));
    let described: serde_json::Map<String, Value> = phases
        .iter()
        .map(|(name, _, outcome)| ((*name).to_owned(), outcome.condition()))
        .collect();
    report.condition("phases", Value::Object(described));
    // The rates stand even when the store cannot be counted; then this is said.
    if let Err(error) = count(report, instance, &agents, &phases).await {
        for name in ["lost", "doubled"] {
            report.not_measured(name, format!("{error:#}"));
        }
    }
    Ok(())
}

async fn paced(
    report: &mut Report,
    agents: &[LiveIdentity],
    address: &str,
    within: Duration,
) -> Result<Outcome> {
    let flushes_per_s = 4;
    let rows = PACED_EVENTS_PER_S / AGENTS / flushes_per_s;
    let frames = u32::try_from(within.as_secs()).unwrap_or(1) * flushes_per_s;
    progress("make the frames of the paced phase");
    let feeds = prepare(Kind::Events { rows }, AGENTS, frames, SEED + 1).await?;
    progress(format!(
        "measure publish to durable at {PACED_EVENTS_PER_S} events a second"
    ));
    let pace = Pace::Every(EVENTS_FLUSH);
    let outcome = phase(agents, address, Lane::Events, feeds, pace, within * 2).await?;
    report.figure(
        "publish_to_durable_p99_ms",
        quantile(&outcome.latency_ms, 0.99),
        Bar::AtMost(50.0),
    );
    report.figure(
        "publish_to_durable_p50_ms",
        quantile(&outcome.latency_ms, 0.5),
        Bar::None,
    );
    Ok(outcome)
}

/// Enrols every agent through the enrolment listener.
async fn enrol(instance: &Instance) -> Result<Vec<LiveIdentity>> {
    progress(format!("enrol {AGENTS} agents"));
    let text = instance.api().await?.enrolment_token(AGENTS).await?;
    let token: EnrolmentToken = text.parse().context("read the enrolment token")?;
    let time = TrustedTime::system();
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let folder = instance.path(&format!("host-{number}"));
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let facts = HostFacts {
            hostname: format!("bench-{number:02}"),
            ..HostFacts::default()
        };
        let identity = enroll(&Dialer::direct(), &token, &folder, facts, &time)
            .await
            .with_context(|| format!("enrol agent {number}"))?;
        agents.push(LiveIdentity::new(identity, None));
    }
    Ok(agents)
}

/// Compares the rows of the store, host by host, with what was sent and acknowledged.
async fn count(
    report: &mut Report,
    instance: &Instance,
    agents: &[LiveIdentity],
    phases: &[(&str, Lane, Outcome)],
) -> Result<()> {
    let api = instance.api().await?;
    let (mut lost, mut doubled, mut stored) = (0_u64, 0_u64, 0_u64);
    for (table, lane) in [("metrics", Lane::Metrics), ("process_events", Lane::Events)] {
        progress(format!("count the rows of {table}"));
        let query = format!("SELECT host_id, count(*) FROM {table} GROUP BY host_id");
        let rows = count_patiently(&api, &query).await?;
        for (index, agent) in agents.iter().enumerate() {
            let host = agent.current().host();
            let here = rows_of(&rows, host);
            let sum = |rows: fn(&phase::AgentOutcome) -> u64| {
                let of_lane = phases.iter().filter(|(_, of, _)| *of == lane);
                of_lane
                    .filter_map(|(_, _, outcome)| outcome.agents.get(index).map(rows))
                    .sum::<u64>()
            };
            lost += sum(|agent| agent.rows_acknowledged).saturating_sub(here);
            doubled += here.saturating_sub(sum(|agent| agent.rows_sent));
            stored += here;
        }
    }
    report.figure("lost", lost as f64, Bar::AtMost(0.0));
    report.figure("doubled", doubled as f64, Bar::AtMost(0.0));
    report.condition("rows_in_the_store", json!(stored));
    Ok(())
}

/// A query over everything may run out of time while the store still compacts.
async fn count_patiently(api: &Api, query: &str) -> Result<Vec<Vec<Value>>> {
    let begun = Instant::now();
    loop {
        match api.sql(query).await {
            Ok(rows) => return Ok(rows),
            Err(error) if begun.elapsed() > COUNT_WITHIN => return Err(error.context("count the rows")),
            Err(error) => progress(format!("count again: {error:#}")),
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

pub(crate) fn rows_of(rows: &[Vec<Value>], host: HostId) -> u64 {
    let name = host.to_string();
    let row = rows
        .iter()
        .find(|row| row.first().and_then(Value::as_str) == Some(name.as_str()));
    // Whole numbers may come as text where they could be larger than a double holds.
    row.and_then(|row| match row.get(1)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    })
    .unwrap_or(0)
}
