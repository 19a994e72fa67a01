//! `hostile`: what peers that speak wrongly on purpose cost a collector, and what the others notice.
//!
//! First the memory under load: the same load comes over 50 streams and over 1,000. Then attack after
//! attack, each with honest hosts beside it that send at an even pace: the collector's memory before, at its peak and
//! after, what the audit says, and what the honest ones got acknowledged and how late. At the end the collector is
//! asked to stop while 50 streams are loaded.

mod attack;
mod peer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fleetmend_event::Lane;
use fleetmend_identity::LiveIdentity;
use serde_json::{Value, json};
use sqlx::Row as _;

use self::attack::{Attack, Target};
use crate::enrol::rollout;
use crate::ingest::data::{Kind, prepare};
use crate::ingest::feed::Pace;
use crate::ingest::phase::phase;
use crate::instance::Instance;
use crate::process::rss_mib;
use crate::report::{Bar, Report, progress};
use crate::statistics::quantile;

const SEED: u64 = 20_260_301;
/// Honest hosts beside each attack.
const HONEST: usize = 20;
/// How often each of them hands over events, and how many.
const FLUSH: Duration = Duration::from_millis(250);
const ROWS: u32 = 25;
/// Hosts with a valid certificate that attack.
const HOSTILE: usize = 4;
/// Streams of the small and of the large load, and of the large one of a quick run.
const STREAMS_FEW: usize = 50;
const STREAMS_MANY: usize = 1_000;
const STREAMS_QUICK: usize = 200;
/// Ten seconds of metrics that all hosts of a load together send each second: 900,000 samples.
const LOAD_FRAMES_PER_S: u32 = 300;
/// Different bodies of each host that sends flat out while the collector stops.
const BODIES: u32 = 4;
/// The collector's memory may take so long to settle after an attack.
const SETTLE: Duration = Duration::from_secs(3);
/// Of the collector, short enough to end within an attack.
const DEADLINES: &str = "[ingest]\nmessage_timeout = \"1s\"\nidle_timeout = \"2s\"\nanswer_timeout = \"2s\"\n\
                         hello_timeout = \"5s\"\nhandshake_timeout = \"5s\"\n";
const MEMORY_EVERY: Duration = Duration::from_millis(100);
/// Within this the collector must have stopped.
const DRAIN_S_MAX: f64 = 20.0;

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let seconds: u32 = if quick { 3 } else { 15 };
    let many = if quick { STREAMS_QUICK } else { STREAMS_MANY };
    let connections: u32 = if quick { 3_000 } else { 10_000 };
    let parameters = json!({
        "honest_hosts": HONEST, "honest_events_per_s_each": ROWS * 4, "hostile_hosts": HOSTILE,
        "attack_s": seconds, "connections_and_streams": connections, "streams_under_load": [STREAMS_FEW, many],
        "collector": DEADLINES, "quick": quick,
    });
    let mut report = Report::new("hostile", SEED, parameters);
    let mut instance = Instance::start()?;
    shorten_patience(&mut instance)?;
    let memory = Memory::watch(instance.collector_pid()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let hosts = runtime.block_on(measure(
        &mut report,
        &instance,
        &memory,
        many,
        (seconds, connections),
    ))?;
    runtime.block_on(drain(&mut report, &mut instance, &hosts, seconds))?;
    Ok(report)
}

/// Starts the collector again with deadlines that end within an attack; its limits stay as they are.
fn shorten_patience(instance: &mut Instance) -> Result<()> {
    instance.stop_collector();
    let path = instance.path("collector.toml");
    let text = std::fs::read_to_string(&path).context("read the configuration")?;
    instance.write("collector.toml", &format!("{text}\n{DEADLINES}"))?;
    instance.run_collector()
}

async fn measure(
    report: &mut Report,
    instance: &Instance,
    memory: &Memory,
    many: usize,
    (seconds, connections): (u32, u32),
) -> Result<Vec<LiveIdentity>> {
    let mut enrolment = Report::new("enrol", 0, json!({}));
    let count = u32::try_from(many + HOSTILE * Attack::ALL.len()).context("count the hosts")?;
    let hosts = rollout(&mut enrolment, instance, count).await?;
    let mut hosts: Vec<_> = hosts
        .into_iter()
        .map(|host| LiveIdentity::new(host, None))
        .collect();
    let mut hostile = hosts.split_off(many);
    let within = Duration::from_secs(seconds.into());
    for streams in [STREAMS_FEW, many] {
        let peak = load(
            report,
            instance,
            memory,
            hosts.get(..streams).unwrap_or(&hosts),
            within,
        )
        .await?;
        let name = format!("rss_{streams}_streams_mib");
        report.figure(&name, peak, Bar::AtMost(1_024.0));
    }
    let honest = hosts.get(..HONEST).unwrap_or(&hosts);
    let (mut worst_peak, mut worst_share, mut worst_late) = (0.0_f64, 100.0_f64, 0.0_f64);
    let mut unnamed = Vec::new();
    for attack in [None].into_iter().chain(Attack::ALL.map(Some)) {
        let target = Target {
            address: instance.carrier(),
            // Each attack has hosts of its own: how often one is named is limited.
            hosts: hostile.split_off(
                hostile
                    .len()
                    .saturating_sub(HOSTILE * usize::from(attack.is_some())),
            ),
            connections,
        };
        let seen = under(instance, memory, attack, honest, target, within).await?;
        let name = attack.map_or("none", Attack::name);
        progress(format!("{name}: {}", seen.told));
        report.condition(&format!("attack_{name}"), seen.told.clone());
        if let Some(attack) = attack {
            (worst_peak, worst_share) = (
                worst_peak.max(seen.peak_mib),
                worst_share.min(seen.acknowledged_pct),
            );
            worst_late = worst_late.max(seen.p99_ms);
            if !seen
                .audit
                .iter()
                .any(|word| attack.words().contains(&word.as_str()))
            {
                unnamed.push(name);
            }
        } else {
            report.figure("honest_p99_undisturbed_ms", seen.p99_ms, Bar::None);
        }
    }
    report.figure("hostile_rss_peak_mib", worst_peak, Bar::AtMost(1_024.0));
    report.figure("honest_acked_least_pct", worst_share, Bar::AtLeast(100.0));
    report.figure("honest_p99_most_ms", worst_late, Bar::None);
    report.figure("attacks_not_named", unnamed.len() as f64, Bar::AtMost(0.0));
    report.condition("not_named", json!(unnamed));
    Ok(hosts)
}

/// The peak of the memory while these hosts send: the same in all, however many they are.
async fn load(
    report: &mut Report,
    instance: &Instance,
    memory: &Memory,
    hosts: &[LiveIdentity],
    within: Duration,
) -> Result<f64> {
    let streams = hosts.len();
    progress(format!("load {streams} streams"));
    let kind = Kind::Metrics { ticks: 10 };
    let count = u32::try_from(streams).context("count the streams")?;
    let interval = Duration::from_secs(1) * count / LOAD_FRAMES_PER_S;
    let frames = u32::try_from(within.as_millis() / interval.as_millis().max(1)).unwrap_or(1);
    let feeds = prepare(kind, count, frames.max(2), SEED).await?;
    memory.begin();
    let (carrier, pace) = (instance.carrier(), Pace::Every(interval));
    let outcome = phase(hosts, &carrier, Lane::Metrics, feeds, pace, within * 3).await?;
    report.figure(
        &format!("acked_samples_per_s_{streams}_streams"),
        outcome.acknowledged_rows_per_s(),
        Bar::None,
    );
    Ok(memory.peak())
}

struct Seen {
    told: Value,
    peak_mib: f64,
    acknowledged_pct: f64,
    p99_ms: f64,
    audit: Vec<String>,
}

/// One attack, or none, with honest hosts beside it.
async fn under(
    instance: &Instance,
    memory: &Memory,
    attack: Option<Attack>,
    honest: &[LiveIdentity],
    target: Target,
    within: Duration,
) -> Result<Seen> {
    let count = u32::try_from(honest.len()).context("count the hosts")?;
    let frames = u32::try_from(within.as_millis() / FLUSH.as_millis()).context("count the frames")?;
    let feeds = prepare(Kind::Events { rows: ROWS }, count, frames, SEED + 1).await?;
    if let Some(attack) = attack {
        tokio::task::block_in_place(|| attack.prepare());
    }
    let last_row = audit_rows(instance, 0).await?.0;
    memory.begin();
    let before = memory.peak();
    let carrier = instance.carrier();
    let sending = phase(
        honest,
        &carrier,
        Lane::Events,
        feeds,
        Pace::Every(FLUSH),
        within * 3,
    );
    let until = Instant::now() + within;
    let attacking = async {
        match attack {
            Some(attack) => attack.run(&target, until).await,
            None => json!({}),
        }
    };
    let (outcome, done) = tokio::join!(sending, attacking);
    let outcome = outcome.context("send honestly")?;
    let peak = memory.peak();
    tokio::time::sleep(SETTLE).await;
    memory.begin();
    tokio::time::sleep(MEMORY_EVERY * 2).await;
    let (_, audit, suppressed) = audit_rows(instance, last_row).await?;
    let (sent, acknowledged) = outcome.agents.iter().fold((0, 0), |(sent, acknowledged), agent| {
        (sent + agent.rows_sent, acknowledged + agent.rows_acknowledged)
    });
    let acknowledged_pct = acknowledged as f64 / (sent as f64).max(1.0) * 100.0;
    let p99_ms = quantile(&outcome.latency_ms, 0.99);
    let told = json!({
        "did": done, "rss_before_mib": before, "rss_peak_mib": peak, "rss_after_mib": memory.peak(),
        "audit": audit, "audit_rows_suppressed": suppressed,
        "honest_rows_sent": sent, "honest_acked_pct": acknowledged_pct, "honest_p99_ms": p99_ms,
    });
    Ok(Seen {
        told,
        peak_mib: peak,
        acknowledged_pct,
        p99_ms,
        audit,
    })
}

/// The newest row of ingest's audit, and of those after `last` the code words of refusals and how many more there were.
async fn audit_rows(instance: &Instance, last: i64) -> Result<(i64, Vec<String>, i64)> {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(instance.path("collector/control.sqlite"))
        .read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .context("open the control database")?;
    let rows =
        sqlx::query("SELECT id, detail, suppressed FROM ingest_audit WHERE id > ? AND refused ORDER BY id")
            .bind(last)
            .fetch_all(&pool)
            .await
            .context("read the audit")?;
    pool.close().await;
    let (mut newest, mut words, mut suppressed) = (last, Vec::new(), 0);
    for row in rows {
        newest = newest.max(row.try_get("id").context("read an audit row")?);
        suppressed += row.try_get::<i64, _>("suppressed").context("read an audit row")?;
        let detail: String = row.try_get("detail").context("read an audit row")?;
        let word = detail.split([':', ' ']).next().unwrap_or_default().to_owned();
        if !words.contains(&word) {
            words.push(word);
        }
    }
    Ok((newest, words, suppressed))
}

/// Stops the collector while 50 streams are loaded, starts it again, and counts what was acknowledged.
async fn drain(
    report: &mut Report,
    instance: &mut Instance,
    hosts: &[LiveIdentity],
    seconds: u32,
) -> Result<()> {
    let hosts = hosts
        .get(hosts.len().saturating_sub(STREAMS_FEW)..)
        .unwrap_or(hosts);
    let count = u32::try_from(hosts.len()).context("count the streams")?;
    progress(format!("stop the collector under {count} loaded streams"));
    let feeds = prepare(Kind::Events { rows: 500 }, count, BODIES, SEED + 2).await?;
    let carrier = instance.carrier();
    let within = Duration::from_secs(seconds.into());
    let sending = phase(hosts, &carrier, Lane::Events, feeds, Pace::FlatOut, within);
    let restarting = async {
        tokio::time::sleep(within / 3).await;
        tokio::task::block_in_place(|| {
            let begun = Instant::now();
            instance.stop_collector();
            let stopped = begun.elapsed().as_secs_f64();
            instance.run_collector().map(|()| stopped)
        })
    };
    let (outcome, stopped) = tokio::join!(sending, restarting);
    let (outcome, stopped) = (outcome?, stopped?);
    report.figure("drain_s", stopped, Bar::AtMost(DRAIN_S_MAX));
    let api = instance.api().await?;
    let rows = api
        .sql("SELECT host_id, count(*) FROM process_events GROUP BY host_id")
        .await?;
    let (mut lost, mut doubled) = (0_u64, 0_u64);
    for (host, agent) in hosts.iter().zip(&outcome.agents) {
        let here = crate::ingest::rows_of(&rows, host.current().host());
        lost += agent.rows_acknowledged.saturating_sub(here);
        doubled += here.saturating_sub(agent.rows_sent);
    }
    report.figure("drain_lost", lost as f64, Bar::AtMost(0.0));
    report.figure("drain_doubled", doubled as f64, Bar::AtMost(0.0));
    Ok(())
}

/// The collector's resident set, read all the time.
struct Memory {
    peak: Arc<Mutex<f64>>,
    stop: Arc<AtomicBool>,
    pid: u32,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let (peak, stop) = (Arc::new(Mutex::new(0.0_f64)), Arc::new(AtomicBool::new(false)));
        let (seen, end) = (peak.clone(), stop.clone());
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let now = rss_mib(pid).unwrap_or(0.0);
                let mut peak = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *peak = peak.max(now);
                drop(peak);
                std::thread::sleep(MEMORY_EVERY);
            }
        });
        Self { peak, stop, pid }
    }

    /// Forgets the peak.
    fn begin(&self) {
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner) = rss_mib(self.pid).unwrap_or(0.0);
    }

    fn peak(&self) -> f64 {
        *self.peak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
