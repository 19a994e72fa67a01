//! What the sensor says of itself beside its rows of `probe_status`: for `fleetmend-agent status`.

use std::sync::Arc;

use parking_lot::RwLock;
use serde::Serialize;

/// How a duty is kept.
#[derive(Debug, Clone, Serialize)]
pub struct DutyReport {
    /// What the duty is.
    pub duty: String,
    /// The way that serves; `None` when the kernel refused all of them.
    pub way: Option<String>,
    /// The hooks of that way.
    pub hooks: Vec<String>,
    /// Ways that were tried before and refused, with the kernel's words.
    pub refused: Vec<String>,
    /// How often its programs ran.
    pub runs: u64,
    /// Mean time of a run in nanoseconds, of the runs that were timed.
    pub mean_ns: f64,
    /// What it took lately, in percent of one core.
    pub cpu_core_pct: f64,
}

/// What became of the events on one processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Processor; `None` for all of them together.
    pub cpu: Option<usize>,
    /// Every event.
    pub seen: u64,
    /// Not told by design.
    pub filtered: u64,
    /// Counted in another row's repeats.
    pub aggregated: u64,
    /// Records handed over.
    pub delivered: u64,
    /// Lost because the ring was full.
    pub ring_full: u64,
    /// Lost because a map had no room.
    pub map_full: u64,
    /// Left out because the family was over its budget.
    pub shed: u64,
    /// Entries of maps that made room for others.
    pub evicted: u64,
}

/// One family.
#[derive(Debug, Clone, Serialize)]
pub struct FamilyReport {
    /// The family.
    pub family: String,
    /// State as in `probe_status`.
    pub state: String,
    /// Its duties.
    pub duties: Vec<DutyReport>,
    /// All processors together.
    pub total: Account,
    /// Each processor that saw something.
    pub cpus: Vec<Account>,
    /// Seen and not accounted for yet: events under way.
    pub under_way: i64,
    /// Facts made of records and handed on.
    pub facts: u64,
    /// What its programs took lately, in percent of one core.
    pub cpu_core_pct: f64,
    /// Its budget, in percent of one core.
    pub cpu_pct_max: Option<f64>,
    /// What is shed now.
    pub shedding: Vec<String>,
    /// What the hooks cannot know.
    pub limits: String,
}

/// The last reports; clones are the same board.
#[derive(Debug, Clone, Default)]
pub struct SensorBoard(Arc<RwLock<Vec<FamilyReport>>>);

impl SensorBoard {
    /// The last report of every family that runs.
    pub fn families(&self) -> Vec<FamilyReport> {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, reports: Vec<FamilyReport>) {
        *self.0.write() = reports;
    }
}
