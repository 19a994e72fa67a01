//! The room's one face: facts in, findings and states out.

use std::time::{Duration, Instant};

use fleetmend_event::table::FindingKind;
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::Tasks;

use crate::config::DetectConfig;
use crate::host_model::HostModel;
use crate::limits::Limits;
use crate::metrics;
use crate::sigma::Sigma;
use crate::tracker::FindingTracker;

/// Time between two looks at what became quiet.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two rows of the rules' and the model's state.
const STATUS_TICKS: u64 = 60;

/// Looks at every fact on its way to the spool.
pub struct Detector {
    limits: Limits,
    sigma: Sigma,
    model: HostModel,
    tracker: FindingTracker,
    quiet: Duration,
    next_tick: Instant,
    ticks: u64,
}

impl Detector {
    /// Loads rules and model, and starts the model's thread on `tasks`. What cannot be loaded is reported in
    /// the first rows of state, and everything else goes on.
    pub fn new(config: &DetectConfig, tasks: &Tasks) -> Self {
        Self {
            limits: Limits::new(config.limits.clone()),
            sigma: Sigma::load(&config.rule_dirs),
            model: HostModel::start(&config.anomaly, tasks),
            tracker: FindingTracker::default(),
            quiet: Duration::from_secs(config.sigma_quiet_s),
            next_tick: Instant::now(),
            ticks: 0,
        }
    }

    /// Looks at one fact; returns the rows that follow from it. Never waits.
    pub fn observe(&mut self, fact: &Fact) -> Vec<Fact> {
        metrics::fact(fact.table_name());
        let mut rows: Vec<Fact> = self
            .limits
            .observe(fact, &mut self.tracker)
            .into_iter()
            .map(Fact::from)
            .collect();
        for notice in self.sigma.observe(fact) {
            rows.extend(self.tracker.notice(fact.time(), notice).map(Fact::from));
        }
        if let Fact::Metrics(frame) = fact {
            self.model.observe(frame);
        }
        rows
    }

    /// What became true without a fact: scores that arrived, findings that went quiet, states once a minute.
    /// Cheap when called more often than once a second.
    pub fn tick(&mut self) -> Vec<Fact> {
        if Instant::now() < self.next_tick {
            return Vec::new();
        }
        self.next_tick = Instant::now() + TICK;
        let now = TimeMicros::now();
        let mut rows: Vec<Fact> = self
            .model
            .findings(&mut self.tracker)
            .into_iter()
            .map(Fact::from)
            .collect();
        let quiet = i64::try_from(self.quiet.as_micros()).unwrap_or(i64::MAX);
        let resolved =
            self.tracker
                .resolve_quiet(now, FindingKind::Sigma, now.plus_micros(quiet.saturating_neg()));
        rows.extend(resolved.into_iter().map(Fact::from));
        if self.ticks.is_multiple_of(STATUS_TICKS) {
            rows.push(self.sigma.status().into());
            rows.push(self.model.probe_status().into());
            rows.push(self.model.status().into());
        } else if self.model.changed() {
            rows.push(self.model.status().into());
        }
        self.ticks = self.ticks.saturating_add(1);
        rows
    }
}
