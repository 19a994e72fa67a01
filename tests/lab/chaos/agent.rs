//! The process of several agents: the real spool and the real stream of each, and a generator of numbered facts in
//! the place of the sensors. It is started by the lab and may be killed at any moment.
//!
//! SIGTERM ends it as an upgrade would. The end of its input makes it stop generating, deliver everything, and end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_spool::{ReadLimit, Spool, SpoolConfig, SpoolHandle, SpoolReader};
use agent_stream::{
    FrameSource, Hint, SourceFrame, SourceLanes, SourceLimit, StreamConfig, StreamParts, StreamState,
    StreamTask,
};
use anyhow::{Context, Result, ensure};
use fleetmend_config::{ByteSize, HumanDuration};
use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind, UnitState};
use fleetmend_event::{FindingId, Mark, MetricFrame, SeriesKey, SeriesSet, SpoolEpoch, TimeMicros};
use fleetmend_identity::{HostIdentity, LiveIdentity, TrustedTime};
use fleetmend_shutdown::{BoxError, CancellationToken, TaskKind, Tasks};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::journal::Journal;

/// How often facts are made.
const TICK: Duration = Duration::from_millis(100);
/// Ticks from one finding to the next.
const FINDING_TICKS: u64 = 5;
/// Ticks from one tick of metrics to the next.
const METRIC_TICKS: u64 = 10;
/// Longest time from one promise of the spool to the next, milliseconds.
const PROMISE_MS: std::ops::Range<u64> = 200..2_500;
/// How long the delivery of everything may take at the end.
const DELIVER_WITHIN: Duration = Duration::from_secs(240);
/// How long an ordered end may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessPlan {
    /// Its own folder: state file, trusted time.
    pub(super) folder: PathBuf,
    pub(super) seed: u64,
    /// Events of each agent in one tick.
    pub(super) events_per_tick: u64,
    pub(super) agents: Vec<AgentPlan>,
}

/// What one agent of a process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AgentPlan {
    /// Journal and identity.
    pub(super) folder: PathBuf,
    /// Its spool.
    pub(super) spool: PathBuf,
    /// Where its collector is, through a fault proxy.
    pub(super) collector: String,
    /// First number it gives.
    pub(super) base: u64,
    /// Quota of each lane; the default when absent.
    pub(super) quota_mib: Option<u64>,
    /// Bytes of text that no compression makes smaller, in each event.
    pub(super) noise_bytes: usize,
    /// Seconds for which acknowledged segments are kept.
    pub(super) retention_s: u64,
}

/// File in a process's folder that appears when all its agents have written their first gap rows.
pub(super) fn ready_file(folder: &Path) -> PathBuf {
    folder.join("ready")
}

/// Body of the process.
pub(crate) async fn run(plan: &Path) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    fleetmend_telemetry::init_logs(fleetmend_telemetry::LogFormat::Plain).context("start the log")?;
    let text = std::fs::read(plan).with_context(|| format!("read {}", plan.display()))?;
    let plan: ProcessPlan = serde_json::from_slice(&text).context("parse the plan")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let time = TrustedTime::open(plan.folder.join("trusted-time")).context("open the trusted time")?;
    let agents = plan
        .agents
        .iter()
        .zip(0_u64..)
        .map(|(agent, index)| Agent::start(agent, &time, &plan, index))
        .collect::<Result<Vec<_>>>()?;
    for agent in &agents {
        agent.promise().await?;
    }
    std::fs::write(ready_file(&plan.folder), b"").context("say that all are ready")?;
    let mut input = tokio::io::stdin();
    let mut byte = [0; 1];
    let deliver = tokio::select! {
        _ = terminate.recv() => false,
        _ = input.read(&mut byte) => true,
    };
    for agent in &agents {
        agent.generate.cancel();
    }
    for agent in agents {
        agent.end(deliver).await?;
    }
    Ok(())
}

/// One running agent.
struct Agent {
    name: String,
    clean: PathBuf,
    spool: SpoolHandle,
    state: watch::Receiver<StreamState>,
    journal: Arc<Mutex<Journal>>,
    generate: CancellationToken,
    tasks: Tasks,
}

impl Agent {
    fn start(plan: &AgentPlan, time: &Arc<TrustedTime>, process: &ProcessPlan, index: u64) -> Result<Self> {
        let identity = HostIdentity::load(&plan.folder.join("identity"))
            .context("load an identity")?
            .context("find an identity")?;
        let journal = Arc::new(Mutex::new(Journal::open(&plan.folder, plan.base)?));
        let tasks = Tasks::new();
        let (spool, _recovered) = Spool::open(spool_config(plan)).context("open a spool")?;
        let handle = spool.handle();
        spool.run(&tasks).context("start a spool")?;
        // Nobody gives orders here.
        let (orders, _) = mpsc::channel(1);
        let (_, results) = mpsc::channel(1);
        let parts = StreamParts {
            config: stream_config(&plan.collector),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SpoolSource {
                reader: handle.reader(),
                handle: handle.clone(),
            },
            orders,
            results,
            hints: watch::Sender::new(Hint::default()),
            state: watch::Sender::default(),
        };
        let state = parts.state.subscribe();
        StreamTask::new(parts, LiveIdentity::new(identity, None), time)
            .context("prepare a stream")?
            .spawn(&tasks.child("stream"));
        let generating = tasks.child("generate");
        let generate = CancellationToken::new();
        let generator = Generator {
            random: StdRng::seed_from_u64(process.seed.wrapping_add(index)),
            journal: journal.clone(),
            spool: handle.clone(),
            events_per_tick: process.events_per_tick,
            noise_bytes: plan.noise_bytes,
            series: Arc::from([SeriesKey::new("chaos.number", "1", [])]),
            end: generate.clone(),
        };
        let end = generate.clone();
        generating.spawn("generator", TaskKind::BestEffort, async move {
            end.run_until_cancelled(generator.run()).await.unwrap_or(Ok(()))
        });
        let (spooled, noted, end) = (handle.clone(), journal.clone(), generate.clone());
        let seed = process.seed.wrapping_add(1_000).wrapping_add(index);
        generating.spawn("promise", TaskKind::BestEffort, async move {
            let promises = promises(spooled, noted, seed);
            end.run_until_cancelled(promises).await.unwrap_or(Ok(()))
        });
        Ok(Self {
            name: plan.folder.display().to_string(),
            clean: plan.spool.join("clean"),
            spool: handle,
            state,
            journal,
            generate,
            tasks,
        })
    }

    async fn promise(&self) -> Result<()> {
        promise(&self.spool, &self.journal).await
    }

    /// Ends in order, after everything was delivered when that is asked for.
    async fn end(self, deliver: bool) -> Result<()> {
        if deliver {
            tokio::time::timeout(DELIVER_WITHIN, self.delivered())
                .await
                .with_context(|| {
                    format!("deliver everything of {}: {:?}", self.name, *self.state.borrow())
                })??;
        }
        let report = self.tasks.drain(DRAIN_WITHIN).await;
        ensure!(report.stragglers.is_empty(), "{:?}", report.stragglers);
        // A spool that could not write everything leaves no such mark.
        if self.clean.exists() {
            locked(&self.journal).closed()?;
        }
        Ok(())
    }

    async fn delivered(&self) -> Result<()> {
        self.promise().await?;
        // Gap rows may be written after the promise, of what the collector's answers brought about.
        while self.spool.stat().lanes.iter().any(|lane| lane.waiting > 0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn spool_config(plan: &AgentPlan) -> SpoolConfig {
    let mut config = SpoolConfig {
        folder: plan.spool.clone(),
        retention: HumanDuration::from_secs(plan.retention_s),
        ..SpoolConfig::default()
    };
    if let Some(mib) = plan.quota_mib {
        config.events_quota = ByteSize::from_mib(mib);
        config.metrics_quota = ByteSize::from_mib(mib);
    }
    config
}

fn stream_config(collector: &str) -> StreamConfig {
    StreamConfig {
        collectors: vec![collector.to_owned()],
        heartbeat: HumanDuration::from_secs(1),
        acknowledgement_timeout: HumanDuration::from_secs(3),
        retry_first: HumanDuration::from_millis(100),
        retry_max: HumanDuration::from_secs(2),
        refused_wait: HumanDuration::from_secs(5),
        ..StreamConfig::default()
    }
}

fn locked(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the spool's promise and notes it.
async fn promise(spool: &SpoolHandle, journal: &Mutex<Journal>) -> Result<()> {
    let next = locked(journal).next;
    if spool.flush().await {
        locked(journal).promised(next)?;
    }
    Ok(())
}

async fn promises(spool: SpoolHandle, journal: Arc<Mutex<Journal>>, seed: u64) -> Result<(), BoxError> {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(PROMISE_MS))).await;
        promise(&spool, &journal).await?;
    }
}

/// Makes numbered facts.
struct Generator {
    random: StdRng,
    journal: Arc<Mutex<Journal>>,
    spool: SpoolHandle,
    events_per_tick: u64,
    noise_bytes: usize,
    series: SeriesSet,
    end: CancellationToken,
}

impl Generator {
    async fn run(mut self) -> Result<(), BoxError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        for tick in 0_u64.. {
            ticks.tick().await;
            let journal = self.journal.clone();
            // Held until all is appended: a promise never covers what is only noted.
            let mut journal = locked(&journal);
            // Nothing is appended after the end was decided: who ends waits for a promise of everything.
            if self.end.is_cancelled() {
                break;
            }
            let time = TimeMicros::now();
            let boot_us = super::clock::boot_us()?;
            let now = (time, boot_us);
            let first = journal.append(0, self.events_per_tick, now)?;
            for number in first..first + self.events_per_tick {
                let event = self.event(number, now);
                self.spool.append(event);
            }
            if tick.is_multiple_of(FINDING_TICKS) {
                self.spool.append(finding(journal.append(1, 1, now)?, now));
            }
            if tick.is_multiple_of(METRIC_TICKS) {
                let number = journal.append(2, 1, now)?;
                self.spool.append(MetricFrame {
                    time,
                    series: self.series.clone(),
                    values: vec![number as f64],
                });
            }
        }
        Ok(())
    }

    fn event(&mut self, number: u64, (time, boot_us): (TimeMicros, i64)) -> UnitState {
        let mut noise = vec![0; self.noise_bytes / 2];
        self.random.fill_bytes(&mut noise);
        UnitState {
            time,
            unit: "chaos.service".to_owned(),
            description: number.to_string(),
            load_state: "loaded".to_owned(),
            active_state: "active".to_owned(),
            sub_state: noise.iter().map(|byte| format!("{byte:02x}")).collect(),
            main_pid: 1,
            restart_count: 0,
            result: boot_us.to_string(),
        }
    }
}

fn finding(number: u64, (time, boot_us): (TimeMicros, i64)) -> Finding {
    Finding {
        time,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: "chaos".to_owned(),
        title: number.to_string(),
        severity: Severity::Info,
        state: FindingState::Resolved,
        first_time: time,
        count: 1,
        score: None,
        subject_kind: SubjectKind::Host,
        subject: boot_us.to_string(),
        pid: None,
        start_boot_ns: None,
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

/// What the agent's own wiring does.
struct SpoolSource {
    handle: SpoolHandle,
    reader: SpoolReader,
}

impl FrameSource for SpoolSource {
    fn epoch(&self) -> SpoolEpoch {
        self.handle.epoch()
    }

    fn spooled(&self) -> Vec<Mark> {
        self.handle.spooled()
    }

    fn resume(&mut self, durable: &[Mark]) {
        self.reader.resume(durable);
    }

    fn acknowledge(&self, marks: &[Mark]) {
        self.handle.acknowledge(marks);
    }

    async fn next_frames(&mut self, limit: SourceLimit) -> Result<Vec<SourceFrame>, BoxError> {
        let lanes = limit.lanes;
        let limit = ReadLimit {
            frames: limit.frames,
            bytes: limit.bytes,
        };
        let frames = match lanes {
            SourceLanes::All => self.reader.next_frames(limit).await?,
            SourceLanes::Critical => self.reader.next_critical_frames(limit).await?,
        };
        let frame = |frame: agent_spool::SpooledFrame| SourceFrame {
            id: frame.id,
            bytes: frame.bytes,
        };
        Ok(frames.into_iter().map(frame).collect())
    }

    async fn changed(&mut self) -> bool {
        self.reader.changed().await
    }
}
