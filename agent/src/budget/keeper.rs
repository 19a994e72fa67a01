//! The thread that measures the agent, moves on the ladder, and says so.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_collect::bpf::BootClock;
use agent_collect::{FactSink, PaceHandle};
use agent_detect::onnx::loaded_library;
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Begun;
use super::cgroup::Cgroup;
use super::config::BudgetConfig;
use super::ladder::{Cause, Ladder, Move, Step, StepHandle};
use super::last_run::RunMark;
use super::meter::{Bounds, Load, Meter, Sample, proportional_bytes};
use super::metrics;
use super::pages::{self, Reclaim};

/// Name in `probe_status`.
const PROBE: &str = "agent.budget";
/// Time between two measurements.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon the thread notices that it is to end.
const NAP: Duration = Duration::from_millis(250);
/// Measurements between two rows of the state.
const STATUS_LOOKS: u64 = 60;
/// Measurements between two readings of the cgroup's limit: an operator may change it meanwhile.
const LIMIT_LOOKS: u64 = 2;
/// Measurements between two readings of proportional memory.
const PROPORTIONAL_LOOKS: u64 = 300;
/// The measurement after which the start is over.
const STARTED_LOOK: u64 = 20;
/// Measurements between two times that unused pages are given back.
const FORGET_LOOKS: u64 = 600;
/// The same, while memory is tight.
const FORGET_LOOKS_TIGHT: u64 = 10;
/// Load of memory from which it is tight.
const TIGHT_LOAD: f64 = 0.85;
/// So long on the top step, and an OOM kill counts as the first one again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// How the budget stands, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct BudgetState {
    /// Number of the step; 0 leaves nothing out.
    pub(crate) step: u8,
    /// Its name.
    pub(crate) step_name: &'static str,
    /// Since when it stands there.
    pub(crate) since: Option<TimeMicros>,
    /// Why it stands there.
    pub(crate) reason: String,
    /// What is left out now.
    pub(crate) left_out: Vec<&'static str>,
    /// What is wrong with the declared budget.
    pub(crate) warning: Option<String>,
    /// Processor time over the last minute, in percent of one core.
    pub(crate) cpu_core_pct: Option<f64>,
    /// As declared.
    pub(crate) cpu_core_pct_max: f64,
    /// Resident memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Proportional memory.
    pub(crate) memory_proportional_bytes: Option<u64>,
    /// As declared.
    pub(crate) memory_bytes_max: u64,
    /// The cgroup's limit.
    pub(crate) cgroup_limit_bytes: Option<u64>,
    /// What the agent lets itself have of it.
    pub(crate) cgroup_share_bytes: Option<u64>,
    /// Memory of the cgroup that cannot be taken back.
    pub(crate) cgroup_held_bytes: Option<u64>,
    /// Disk, as declared; the spool keeps to it.
    pub(crate) disk_bytes_max: u64,
    /// Egress, as declared; the stream keeps to it.
    pub(crate) egress_bytes_per_s_max: Option<u64>,
}

/// Measures, decides and tells.
pub(crate) struct Keeper {
    config: BudgetConfig,
    cgroup: Option<Cgroup>,
    bounds: Bounds,
    meter: Meter,
    ladder: Ladder,
    step: StepHandle,
    pace: PaceHandle,
    sink: FactSink,
    run: RunMark,
    state: watch::Sender<BudgetState>,
    looks: u64,
    told: Option<(ProbeState, String)>,
}

impl Keeper {
    /// A keeper that begins where the last run's end says.
    pub(crate) fn new(
        config: BudgetConfig,
        Begun {
            cgroup,
            run,
            beginning,
        }: Begun,
        sink: FactSink,
    ) -> Self {
        metrics::describe();
        let bounds = bounds(&config, cgroup.as_ref());
        if let Some(warning) = bounds.warning() {
            warn!(warning, "budget is above what the cgroup allows");
        }
        let first = beginning.step();
        let state = BudgetState {
            step: first.number(),
            step_name: first.name(),
            since: Some(TimeMicros::now()),
            reason: beginning.why.map_or_else(
                || "the agent is within its budget".to_owned(),
                |why| format!("the run before ended for want of memory: {why}"),
            ),
            ..BudgetState::default()
        };
        let keeper = Self {
            ladder: Ladder::new(first),
            step: StepHandle::default(),
            pace: PaceHandle::default(),
            meter: Meter::new(),
            state: watch::Sender::new(state),
            looks: 0,
            told: None,
            config,
            cgroup,
            bounds,
            sink,
            run,
        };
        if beginning.oom_ends > 0 {
            metrics::oom_start();
        }
        keeper.follow();
        keeper
    }

    /// What the hub follows.
    pub(crate) fn step(&self) -> StepHandle {
        self.step.clone()
    }

    /// What collect follows.
    pub(crate) fn pace(&self) -> PaceHandle {
        self.pace.clone()
    }

    /// What `status` shows.
    pub(crate) fn states(&self) -> watch::Receiver<BudgetState> {
        self.state.subscribe()
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(crate) fn spawn(self, tasks: &Tasks) -> io::Result<()> {
        tasks.spawn_thread("budget", TaskKind::BestEffort, move |token| {
            self.keep(&token);
            Ok(())
        })
    }

    fn keep(mut self, token: &CancellationToken) {
        let mut next = Instant::now();
        while !token.is_cancelled() {
            let now = Instant::now();
            if now < next {
                std::thread::sleep((next - now).min(NAP));
                continue;
            }
            next = now + LOOK_EVERY;
            self.measure();
        }
        self.run.end();
    }

    fn measure(&mut self) {
        if self.looks.is_multiple_of(LIMIT_LOOKS) {
            self.bounds = bounds(&self.config, self.cgroup.as_ref());
        }
        let now = Duration::from_nanos(BootClock::now().boot_ns());
        let limited = self.cgroup.as_ref().filter(|_| self.bounds.limit.is_some());
        let sample = self.meter.sample(now, limited);
        self.look(now, &sample);
    }

    /// Takes one measurement in.
    pub(crate) fn look(&mut self, now: Duration, sample: &Sample) {
        let load = self.bounds.load(sample);
        self.give_back(load);
        let moved = self.ladder.look(now, load);
        if let Some(step) = moved {
            self.meter.forget_cpu();
            self.follow();
            metrics::moved(step);
        }
        let proportional = self
            .looks
            .is_multiple_of(PROPORTIONAL_LOOKS)
            .then(proportional_bytes);
        self.state.send_modify(|state| {
            if let Some(step) = moved {
                state.step = step.to.number();
                state.step_name = step.to.name();
                state.since = Some(TimeMicros::now());
                state.reason = in_words(step, sample, &self.bounds);
            }
            fill(state, &self.config, &self.bounds, sample);
            if let Some(bytes) = proportional.flatten() {
                state.memory_proportional_bytes = Some(bytes);
            }
        });
        let state = self.state.borrow().clone();
        metrics::record(&state);
        if let Some(step) = moved {
            tell_move(step, &state.reason);
        }
        if self
            .ladder
            .on_top_for(now)
            .is_some_and(|time| time >= FORGIVEN_AFTER)
        {
            self.run.forgive();
        }
        self.tell(&state, load, moved.is_some());
        self.looks = self.looks.wrapping_add(1);
    }

    fn follow(&self) {
        self.step.set(self.ladder.step());
        self.pace.set(self.ladder.step().pace());
    }

    /// Pages that nobody uses are the first thing to give up.
    fn give_back(&mut self, load: Load) {
        let tight = load.memory.is_some_and(|memory| memory >= TIGHT_LOAD);
        let every = if tight { FORGET_LOOKS_TIGHT } else { FORGET_LOOKS };
        if self.looks % every != STARTED_LOOK % every {
            return;
        }
        // A program that was replaced since its start is not found by its name: then its pages stay.
        let files: Vec<PathBuf> = std::env::current_exe()
            .into_iter()
            .chain(loaded_library())
            .collect();
        let reclaim = if tight { Reclaim::InTurn } else { Reclaim::First };
        let bytes = pages::forget(&files, reclaim);
        debug!(bytes, "pages of the program were given back");
    }

    /// The row of the probe: on change, and every minute.
    fn tell(&mut self, state: &BudgetState, load: Load, moved: bool) {
        let degraded = state.step > 0 || state.warning.is_some() || load.memory.is_none();
        let row_state = if degraded {
            ProbeState::Degraded
        } else {
            ProbeState::Real
        };
        let row = (row_state, reason(state, load));
        let changed = self.told.as_ref() != Some(&row) || moved;
        if !changed && !self.looks.is_multiple_of(STATUS_LOOKS) {
            return;
        }
        let hint = if state.step > 0 {
            "what is left out comes back by itself when there is room; raise [budget] or the unit's MemoryHigh= and \
             MemoryMax= if this is the usual load"
        } else if state.warning.is_some() {
            "lower budget.memory, or raise the unit's MemoryHigh= and MemoryMax="
        } else {
            ""
        };
        let sent = self.sink.offer(
            ProbeStatus {
                time: TimeMicros::now(),
                probe: PROBE.to_owned(),
                state: row.0,
                reason: row.1.clone(),
                hint: hint.to_owned(),
                seen: self.looks,
                delivered: self.looks,
                lost: 0,
            }
            .into(),
        );
        // A full channel takes it the next time.
        self.told = sent.then_some(row);
        self.sink.report_gaps();
    }
}

fn bounds(config: &BudgetConfig, cgroup: Option<&Cgroup>) -> Bounds {
    let limit = cgroup.and_then(Cgroup::limit);
    Bounds {
        cpu_core_pct: config.cpu_core_pct,
        memory_bytes: config.memory.get(),
        limit,
    }
}

fn fill(state: &mut BudgetState, config: &BudgetConfig, bounds: &Bounds, sample: &Sample) {
    let steps = Step::ALL
        .into_iter()
        .filter(|step| (1..=state.step).contains(&step.number()));
    state.left_out = steps.map(Step::leaves_out).collect();
    state.warning = bounds.warning();
    state.cpu_core_pct = sample.cpu_core_pct;
    state.cpu_core_pct_max = bounds.cpu_core_pct;
    state.memory_bytes = sample.resident_bytes;
    state.memory_bytes_max = bounds.memory_bytes;
    state.cgroup_limit_bytes = bounds.limit.as_ref().map(|limit| limit.bytes);
    state.cgroup_share_bytes = bounds.share_bytes();
    state.cgroup_held_bytes = sample.held_bytes;
    state.disk_bytes_max = config.disk.map_or(0, |disk| disk.get());
    state.egress_bytes_per_s_max = config.egress_bytes_per_s.map(|rate| rate.get());
}

fn tell_move(step: Move, reason: &str) {
    let (from, to) = (step.from.name(), step.to.name());
    if step.to > step.from {
        warn!(
            from,
            to,
            reason,
            leaves_out = step.to.leaves_out(),
            "agent collects less"
        );
    } else {
        info!(from, to, reason, "agent collects more again");
    }
}

/// Why a step was taken, with the numbers that made it.
fn in_words(step: Move, sample: &Sample, bounds: &Bounds) -> String {
    let mib = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string());
    match step.cause {
        Cause::Memory => {
            let held = bounds.share_bytes().map_or_else(String::new, |share| {
                let held = mib(sample.held_bytes);
                format!(
                    ", {held} MiB held of the {} MiB that count of the cgroup",
                    share >> 20
                )
            });
            let resident = mib(sample.resident_bytes);
            format!(
                "memory: {resident} MiB resident of {} MiB{held}",
                bounds.memory_bytes >> 20
            )
        }
        Cause::Cpu => format!(
            "processor time: {:.1} of {:.1} percent of a core over a minute",
            sample.cpu_core_pct.unwrap_or_default(),
            bounds.cpu_core_pct
        ),
        Cause::Room => "there was room for a while".to_owned(),
    }
}

/// The probe's reason. It holds no number that changes with every look, so that it is a row only on change.
fn reason(state: &BudgetState, load: Load) -> String {
    let mut parts = Vec::new();
    if state.step > 0 {
        let left_out = state.left_out.join("; ");
        parts.push(format!(
            "step {} of 4, {}: {left_out}",
            state.step, state.step_name
        ));
    }
    parts.push(state.reason.clone());
    parts.extend(state.warning.clone());
    if load.memory.is_none() {
        parts.push("memory could not be measured".to_owned());
    }
    parts.join("; ")
}
