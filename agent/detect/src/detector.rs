//! The room's one face: facts in, findings and states out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetmend_event::table::{AuthEvent, Finding, FindingKind, Gap, LogRecord, Table as _};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::Tasks;

use crate::auth::Auth;
use crate::behaviour::Behaviour;
use crate::config::DetectConfig;
use crate::host_model::HostModel;
use crate::kept::{self, Keeper};
use crate::learnt::{Learnt, Scribe};
use crate::limits::Limits;
use crate::logs::Logs;
use crate::metrics;
use crate::sigma::{RawEvent, Reloader, Sigma};
use crate::tracker::FindingTracker;

/// Time between two looks at what became quiet.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two rows of the rules' and the model's state.
const STATUS_TICKS: u64 = 60;

/// Ticks between two writings of what was learnt of accounts and logs.
const LEARNT_TICKS: u64 = 300;
/// Its file, beside that of the open findings.
const BEHAVIOUR_FILE: &str = "behaviour.json";

/// How long a finding of the last run may go unseen before it is resolved: longer than any source is silent
/// while it works.
const UNSEEN_MAX_US: i64 = 15 * 60 * 1_000_000;

/// Looks at every fact on its way to the spool.
pub struct Detector {
    limits: Limits,
    auth: Auth,
    logs: Logs,
    scribe: Option<Scribe>,
    sigma: Sigma,
    behaviour: Behaviour,
    model: HostModel,
    tracker: FindingTracker,
    keeper: Option<Keeper>,
    unkept: bool,
    quiet: Duration,
    /// Whether less than usual is seen, and when that was last so.
    blinkered: bool,
    blinkered_at: Option<Instant>,
    /// How many facts of each table were seen since the last tick: a metric of each fact would cost as much as most looks.
    seen: BTreeMap<u16, (&'static str, u64)>,
    next_tick: Instant,
    ticks: u64,
}

impl Detector {
    /// Loads rules and model, and starts the model's thread on `tasks`. What cannot be loaded is reported in
    /// the first rows of state, and everything else goes on. The findings that hold are kept in
    /// `findings_file`, and taken back from there.
    pub fn new(config: &DetectConfig, findings_file: Option<PathBuf>, tasks: &Tasks) -> Self {
        metrics::describe();
        let mut tracker = FindingTracker::default();
        let learnt_file = findings_file
            .as_ref()
            .map(|path| path.with_file_name(BEHAVIOUR_FILE));
        let learnt = learnt_file.as_deref().map(Learnt::read).unwrap_or_default();
        let scribe = learnt_file.and_then(|path| {
            Scribe::start(tasks, path)
                .inspect_err(
                    |error| tracing::warn!(%error, "what is learnt of accounts and logs is not kept"),
                )
                .ok()
        });
        let keeper = findings_file.and_then(|path| {
            tracker.restore(kept::read(&path), TimeMicros::now());
            Keeper::start(tasks, path)
                .inspect_err(|error| tracing::warn!(%error, "open findings are not kept"))
                .ok()
        });
        Self {
            limits: Limits::new(config.limits.clone()),
            auth: Auth::new(config.auth.clone(), learnt.users),
            logs: Logs::new(config.logs.clone(), learnt.logs),
            scribe,
            sigma: started(config, tasks),
            behaviour: Behaviour::new(config.behaviour.clone()),
            model: HostModel::start(&config.anomaly, tasks),
            tracker,
            keeper,
            unkept: false,
            quiet: Duration::from_secs(config.sigma_quiet_s),
            blinkered: false,
            blinkered_at: None,
            seen: BTreeMap::new(),
            next_tick: Instant::now(),
            ticks: 0,
        }
    }

    /// Looks at one fact; returns the rows that follow from it. Never waits.
    pub fn observe(&mut self, fact: &Fact) -> Vec<Fact> {
        let seen = self.seen.entry(fact.table_id());
        seen.or_insert((fact.table_name(), 0)).1 += 1;
        let mut rows: Vec<Fact> = self
            .limits
            .observe(fact, &mut self.tracker)
            .into_iter()
            .map(Fact::from)
            .collect();
        for notice in self.sigma.observe(fact) {
            rows.extend(self.tracker.notice(fact.time(), notice).map(Fact::from));
        }
        let now = TimeMicros::now();
        let learnt = match fact {
            Fact::AuthEvent(event) => self.auth.observe(event, now, &mut self.tracker),
            Fact::LogRecord(line) => self.logs.observe(line, now, &mut self.tracker),
            Fact::Gap(gap) => {
                self.miss(gap, now);
                Vec::new()
            }
            _ => Vec::new(),
        };
        rows.extend(learnt.into_iter().map(Fact::from));
        rows.extend(
            self.behaviour
                .observe(fact, &mut self.tracker)
                .into_iter()
                .map(Fact::from),
        );
        rows.extend(self.tracker.take_evicted().into_iter().map(Fact::from));
        if let Fact::Metrics(frame) = fact {
            self.model.observe(frame);
        }
        rows
    }

    /// Looks at one record of a log that is no row of ours; returns the rows that follow from it. Never waits.
    pub fn observe_raw(&mut self, record: &RawEvent) -> Vec<Fact> {
        let notices = self.sigma.observe_raw(record);
        let mut rows: Vec<Fact> = Vec::new();
        for notice in notices {
            rows.extend(self.tracker.notice(record.time, notice).map(Fact::from));
        }
        rows.extend(self.tracker.take_evicted().into_iter().map(Fact::from));
        rows
    }

    /// What reads the Sigma rules anew.
    pub fn rules(&self) -> Reloader {
        self.sigma.reloader()
    }

    /// Says why less than usual is seen, or that everything is again. Meanwhile the host-anomaly model is paused,
    /// and no finding is resolved because its cause was not seen: what is unknown resolves nothing. Rules and limits
    /// go on.
    pub fn see_less(&mut self, why: Option<&str>) {
        self.model.pause(why);
        if self.blinkered || why.is_some() {
            self.blinkered_at = Some(Instant::now());
        }
        self.blinkered = why.is_some();
    }

    /// Whether everything was seen for so long.
    fn saw_all_for(&self, span: Duration) -> bool {
        !self.blinkered && self.blinkered_at.is_none_or(|at| at.elapsed() >= span)
    }

    /// What became true without a fact: scores that arrived, findings that went quiet, states once a minute.
    /// Cheap when called more often than once a second.
    pub fn tick(&mut self) -> Vec<Fact> {
        if Instant::now() < self.next_tick {
            return Vec::new();
        }
        self.next_tick = Instant::now() + TICK;
        self.count_seen();
        let now = TimeMicros::now();
        let mut rows: Vec<Fact> = self
            .model
            .findings(&mut self.tracker)
            .into_iter()
            .map(Fact::from)
            .collect();
        rows.extend(self.behaviour.tick(&mut self.tracker).into_iter().map(Fact::from));
        rows.extend(self.resolve_unseen(now).into_iter().map(Fact::from));
        // What is not seen is not over: an attacker who goes on unseen is not resolved.
        if !self.blinkered {
            rows.extend(self.auth.tick(now, &mut self.tracker).into_iter().map(Fact::from));
            rows.extend(self.logs.tick(now, &mut self.tracker).into_iter().map(Fact::from));
        }
        rows.extend(self.tracker.take_evicted().into_iter().map(Fact::from));
        metrics::remembered_evicted(self.auth.take_evicted() + self.logs.take_evicted());
        self.keep();
        if self.ticks % LEARNT_TICKS == LEARNT_TICKS - 1
            && let Some(scribe) = &self.scribe
        {
            scribe.offer(self.learnt());
        }
        if self.ticks.is_multiple_of(STATUS_TICKS) {
            rows.push(self.sigma.status().into());
            rows.push(self.model.probe_status().into());
            rows.push(self.model.status().into());
        } else if self.model.changed() {
            rows.push(self.model.probe_status().into());
            rows.push(self.model.status().into());
        }
        self.ticks = self.ticks.saturating_add(1);
        rows
    }

    /// Resolves what was not seen any more, where it would have been.
    fn resolve_unseen(&mut self, now: TimeMicros) -> Vec<Finding> {
        let mut resolved = Vec::new();
        if self.saw_all_for(self.quiet) {
            let quiet = i64::try_from(self.quiet.as_micros()).unwrap_or(i64::MAX);
            let before = now.plus_micros(quiet.saturating_neg());
            for kind in [FindingKind::Sigma, FindingKind::Behaviour] {
                resolved.extend(self.tracker.resolve_quiet(now, kind, before));
            }
        }
        if self.saw_all_for(Duration::from_micros(UNSEEN_MAX_US.unsigned_abs())) {
            resolved.extend(self.tracker.resolve_unseen(now, now.plus_micros(-UNSEEN_MAX_US)));
        }
        resolved
    }

    fn miss(&mut self, gap: &Gap, now: TimeMicros) {
        let to = gap.to_time.min(now);
        if gap.table == AuthEvent::NAME || gap.table == "*" {
            self.auth.miss(to);
        }
        if gap.table == LogRecord::NAME || gap.table == "*" {
            self.logs.miss(to);
        }
    }

    fn count_seen(&mut self) {
        for (table, facts) in std::mem::take(&mut self.seen).into_values() {
            metrics::facts(table, facts);
        }
    }

    fn learnt(&self) -> Learnt {
        Learnt::new(self.auth.known().clone(), self.logs.baseline().clone())
    }

    fn keep(&mut self) {
        self.unkept |= self.tracker.take_changed();
        if let Some(keeper) = self.keeper.as_ref().filter(|_| self.unkept) {
            self.unkept = !keeper.offer(self.tracker.findings());
        }
    }
}

/// The Sigma rules, with the thread that reads them anew.
fn started(config: &DetectConfig, tasks: &Tasks) -> Sigma {
    let sigma = Sigma::with(&config.rule_options());
    if let Err(error) = sigma.reloader().spawn(tasks) {
        tracing::warn!(%error, "rules are not read anew when they change");
    }
    sigma
}

impl Drop for Detector {
    fn drop(&mut self) {
        self.count_seen();
        if let Some(scribe) = self.scribe.take() {
            scribe.finish(self.learnt());
        }
        if let Some(keeper) = self
            .keeper
            .take()
            .filter(|_| self.unkept || self.tracker.take_changed())
        {
            keeper.finish(self.tracker.findings());
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{FindingState, UnitState};

    use super::*;

    fn config() -> DetectConfig {
        let mut config = DetectConfig {
            rule_dirs: Vec::new(),
            ..DetectConfig::default()
        };
        config.anomaly.enabled = false;
        config
    }

    fn unit(active_state: &str) -> Fact {
        Fact::from(UnitState {
            time: TimeMicros::now(),
            unit: "shop.service".to_owned(),
            description: String::new(),
            load_state: "loaded".to_owned(),
            active_state: active_state.to_owned(),
            sub_state: String::new(),
            main_pid: 0,
            restart_count: 0,
            result: "exit-code".to_owned(),
        })
    }

    fn findings(rows: Vec<Fact>) -> Vec<Finding> {
        let finding = |row| match row {
            Fact::Finding(finding) => Some((*finding).clone()),
            _ => None,
        };
        rows.into_iter().filter_map(finding).collect()
    }

    #[test]
    fn nothing_is_resolved_for_being_unseen_while_less_is_seen() {
        let mut detector = Detector::new(&config(), None, &Tasks::new());
        let unseen = Duration::from_secs(15 * 60);
        assert!(detector.saw_all_for(unseen));
        detector.see_less(Some("the agent is over its budget"));
        assert!(!detector.saw_all_for(Duration::ZERO));
        detector.see_less(None);
        assert!(detector.saw_all_for(Duration::ZERO), "everything is seen again");
        assert!(!detector.saw_all_for(unseen), "not for that long");
    }

    #[tokio::test]
    async fn finding_that_ended_while_the_agent_was_away_is_resolved_under_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("open-findings.json");
        let tasks = Tasks::new();
        let mut detector = Detector::new(&config(), Some(file.clone()), &tasks);
        let opened = findings(detector.observe(&unit("failed")));
        assert_eq!(opened.len(), 1);
        drop(detector);
        let report = tasks.drain(Duration::from_secs(20)).await;
        assert!(report.is_clean());

        let tasks = Tasks::new();
        let mut detector = Detector::new(&config(), Some(file), &tasks);
        let resolved = findings(detector.observe(&unit("active")));
        assert_eq!(resolved.len(), 1);
        assert_eq!(
            (resolved[0].finding_id, resolved[0].state),
            (opened[0].finding_id, FindingState::Resolved)
        );
    }
}
