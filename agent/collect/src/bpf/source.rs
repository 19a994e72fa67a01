//! A family that runs, and what is known of its losses, its cost and its state.

use std::time::Instant;

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::Counter;
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, Gap, GapStage, ProbeState, ProbeStatus, SensorAccount, table_by_id};

use super::board::{Account, DutyReport, FamilyReport};
use super::config::BpfConfig;
use super::diagnose::Diagnosis;
use super::family::{Counts, DutyTime, LoadedFamily};
use super::loss::LossWatch;
use super::metric;
use super::process::EXEC;
use super::spec::{FamilySpec, Handler};
use super::toll::Toll;
use crate::pace::REASON;

/// What a family promises and keeps, apart from losses.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) state: ProbeState,
    pub(crate) reason: String,
    pub(crate) hint: String,
}

/// See the module.
pub(crate) struct Source {
    pub(crate) loaded: Box<LoadedFamily>,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) standing: Standing,
    pub(crate) losses: LossWatch,
    pub(crate) toll: Toll,
    bound: Option<f64>,
    times: Vec<DutyTime>,
    each: Vec<Counts>,
    /// Records read from the rings.
    pub(crate) read: u64,
    /// Facts made without a record, of what lay in maps.
    pub(crate) made: u64,
    /// Facts handed on.
    pub(crate) delivered: u64,
    /// What the last row told.
    pub(crate) told: Option<(ProbeState, bool, u32)>,
    pub(crate) left_out: LeftOut,
    /// What passes by the hooks of calls now, in words.
    pub(crate) bypassed: Option<String>,
    ring_bytes: u32,
    /// Bytes that were found in the ring at one look, and the most of them since they were last told.
    waiting: u64,
    waiting_peak: u64,
}

/// What the agent's pace left out: not yet in a gap, and in all.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub(crate) now: bool,
    open: u64,
    from: Option<TimeMicros>,
    total: u64,
}

impl Source {
    pub(crate) fn new(loaded: Box<LoadedFamily>, handler: Box<dyn Handler>, config: &BpfConfig) -> Self {
        let standing = Standing::of(&loaded);
        let family = loaded.spec.family;
        let bound = config.cpu_pct_max(family);
        Self {
            standing,
            losses: LossWatch::new(loaded.spec, TimeMicros::now()),
            toll: Toll::new(bound, loaded.spec.shed.len(), Instant::now()),
            bound,
            times: Vec::new(),
            each: Vec::new(),
            read: 0,
            made: 0,
            delivered: 0,
            told: None,
            left_out: LeftOut::default(),
            bypassed: None,
            ring_bytes: config.ring_bytes(family),
            waiting: 0,
            waiting_peak: 0,
            loaded,
            handler,
        }
    }

    /// Reads the counters; what was lost since the last look comes as gaps.
    pub(crate) fn look(&mut self, now: TimeMicros) -> Vec<Gap> {
        let family = self.loaded.spec.family.as_str();
        let mut gaps = Vec::new();
        match self.loaded.counts() {
            Ok(each) => {
                gaps = self.losses.look(Counts::sum(&each), now);
                self.each = each;
            }
            Err(error) => tracing::warn!(family, %error, "cannot read the counters of the probes"),
        }
        match self.loaded.times() {
            Ok(times) => {
                if let Some(level) = self.toll.look(&times, Instant::now()) {
                    self.shed(level);
                }
                self.times = times;
            }
            Err(error) => tracing::warn!(family, %error, "cannot read the times of the probes"),
        }
        self.publish(family);
        gaps
    }

    fn shed(&mut self, level: u32) {
        let family = self.loaded.spec.family.as_str();
        match self.loaded.set_shed_level(level) {
            Ok(()) => {
                let cpu_core_pct = self.toll.pct();
                tracing::warn!(family, level, cpu_core_pct, "probes shed by their budget");
            }
            Err(error) => tracing::warn!(family, level, %error, "cannot tell the probes what to shed"),
        }
    }

    fn publish(&self, family: &'static str) {
        metrics::counter!(metric::RECORDS_READ, "family" => family).absolute(self.read);
        metrics::counter!(metric::RECORDS_LOST, "family" => family).absolute(self.lost());
        for (counter, outcome) in OUTCOMES {
            for (cpu, counts) in self
                .each
                .iter()
                .enumerate()
                .filter(|(_, counts)| **counts != Counts::default())
            {
                let labels = [
                    ("family", family.to_owned()),
                    ("outcome", outcome.to_owned()),
                    ("cpu", cpu.to_string()),
                ];
                metrics::counter!(metric::EVENTS, &labels).absolute(counts.of(counter));
            }
        }
        for (duty, (time, pct)) in self
            .loaded
            .spec
            .duties
            .iter()
            .zip(self.times.iter().zip(self.toll.duties_pct()))
        {
            let labels = [("family", family), ("duty", duty.name)];
            metrics::counter!(metric::RUNS, &labels).absolute(time.runs);
            metrics::gauge!(metric::PROGRAM_CPU, &labels).set(pct / 100.0);
        }
        metrics::gauge!(metric::SHED_LEVEL, "family" => family).set(f64::from(self.toll.level()));
    }

    /// Losses of every kind together.
    pub(crate) fn lost(&self) -> u64 {
        self.losses.lost().saturating_add(self.left_out.total)
    }

    /// The row of `probe_status`. Seen are events worth telling: filtered and aggregated ones are in the metrics.
    pub(crate) fn status(&self, now: TimeMicros) -> ProbeStatus {
        let counts = self.losses.counts();
        let untold = counts
            .of(Counter::Filtered)
            .saturating_add(counts.of(Counter::Aggregated));
        let lost = self.lost();
        let spec = self.loaded.spec;
        let Standing { state, reason, hint } = self.standing.clone();
        let mut reasons: Vec<String> = Some(reason)
            .filter(|reason| !reason.is_empty())
            .into_iter()
            .collect();
        let mut status = ProbeStatus {
            time: now,
            probe: probe_name(spec.family),
            state,
            reason: String::new(),
            hint,
            seen: counts
                .of(Counter::Seen)
                .saturating_sub(untold)
                .saturating_add(self.made),
            delivered: self.delivered,
            lost,
        };
        if self.losses.recent(now) {
            status.state = ProbeState::Degraded;
            reasons.push(format!("events were lost within the last minute, {lost} in all"));
            if status.hint.is_empty() {
                status.hint = format!(
                    "raise the ring of {} (section bpf) if this goes on",
                    spec.family.as_str()
                );
            }
        }
        if let Some(reason) = &self.bypassed {
            status.state = ProbeState::Degraded;
            reasons.push(reason.clone());
        }
        if self.toll.level() > 0 {
            status.state = ProbeState::Degraded;
            let (pct, shed) = (self.toll.pct(), self.shedding().join(", "));
            reasons.push(format!(
                "its programs took {pct:.1} % of a core, more than their budget: left out are {shed}"
            ));
        }
        if self.left_out.now {
            status.state = ProbeState::Degraded;
            reasons.push("the agent is over its budget: what is not essential is counted only".to_owned());
        }
        if !spec.limits.is_empty() {
            reasons.push(format!("limits: {}", spec.limits));
        }
        status.reason = reasons.join("; ");
        status
    }

    fn shedding(&self) -> Vec<String> {
        let levels = usize::try_from(self.toll.level()).unwrap_or(usize::MAX);
        self.loaded
            .spec
            .shed
            .iter()
            .take(levels)
            .map(|shed| (*shed).to_owned())
            .collect()
    }

    /// Records of so many bytes were found in the ring.
    pub(crate) fn found(&mut self, bytes: usize) {
        self.waiting = self
            .waiting
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The ring was emptied.
    pub(crate) fn emptied(&mut self) {
        self.waiting_peak = self.waiting_peak.max(std::mem::take(&mut self.waiting));
    }

    /// The row of `sensor_accounts`.
    pub(crate) fn account(&mut self, now: TimeMicros) -> SensorAccount {
        let total = Counts::sum(&self.each);
        let ring_bytes = u64::from(self.ring_bytes);
        SensorAccount {
            time: now,
            family: self.loaded.spec.family.as_str().to_owned(),
            seen: total.accounted(),
            filtered: total.of(Counter::Filtered),
            aggregated: total.of(Counter::Aggregated),
            delivered: total.of(Counter::Delivered),
            ring_full: total.of(Counter::RingFull),
            map_full: total.of(Counter::MapFull),
            shed: total.of(Counter::Shed),
            evicted: total.of(Counter::Evicted),
            runs: self.times.iter().map(|time| time.runs).sum(),
            run_us: self.times.iter().map(DutyTime::total_us).sum(),
            run_time_sampled: true,
            ring_bytes_peak: std::mem::take(&mut self.waiting_peak).min(ring_bytes),
            ring_bytes,
        }
    }

    /// What `fleetmend-agent status` shows.
    pub(crate) fn report(&self, now: TimeMicros) -> FamilyReport {
        let spec = self.loaded.spec;
        let duty = |(at, kept): (usize, &super::family::Kept)| {
            let time = self.times.get(at).copied().unwrap_or_default();
            let hooks = kept.way.map(|way| way.hooks).unwrap_or_default();
            DutyReport {
                duty: kept.duty.name.to_owned(),
                way: kept.way.map(|way| way.name.to_owned()),
                hooks: hooks
                    .iter()
                    .map(|hook| format!("{}/{}", hook.at.kind(), hook.at.name()))
                    .collect(),
                refused: kept
                    .refused
                    .iter()
                    .map(|(way, diagnosis)| format!("{}: {}", way.name, diagnosis.reason))
                    .collect(),
                runs: time.runs,
                mean_ns: time.mean_ns(),
                cpu_core_pct: self.toll.duties_pct().get(at).copied().unwrap_or_default(),
            }
        };
        let total = Counts::sum(&self.each);
        let cpus = self
            .each
            .iter()
            .enumerate()
            .filter(|(_, counts)| counts.of(Counter::Seen) > 0);
        let under_way = i128::from(total.of(Counter::Seen)) - i128::from(total.accounted());
        FamilyReport {
            family: spec.family.as_str().to_owned(),
            state: self.status(now).state.as_str().to_owned(),
            duties: self.loaded.duties.iter().enumerate().map(duty).collect(),
            total: account(None, &total),
            cpus: cpus.map(|(cpu, counts)| account(Some(cpu), counts)).collect(),
            under_way: i64::try_from(under_way).unwrap_or(i64::MAX),
            facts: self.delivered,
            cpu_core_pct: self.toll.pct(),
            cpu_pct_max: self.bound,
            shedding: self.shedding(),
            limits: spec.limits.to_owned(),
        }
    }
}

/// The counters with the words that metrics have for them.
const OUTCOMES: [(Counter, &str); 8] = [
    (Counter::Seen, "seen"),
    (Counter::Filtered, "filtered"),
    (Counter::Aggregated, "aggregated"),
    (Counter::Delivered, "delivered"),
    (Counter::RingFull, "ring_full"),
    (Counter::MapFull, "map_full"),
    (Counter::Shed, "shed"),
    (Counter::Evicted, "evicted"),
];

fn account(cpu: Option<usize>, counts: &Counts) -> Account {
    Account {
        cpu,
        seen: counts.of(Counter::Seen),
        filtered: counts.of(Counter::Filtered),
        aggregated: counts.of(Counter::Aggregated),
        delivered: counts.of(Counter::Delivered),
        ring_full: counts.of(Counter::RingFull),
        map_full: counts.of(Counter::MapFull),
        shed: counts.of(Counter::Shed),
        evicted: counts.of(Counter::Evicted),
    }
}

/// Name of a family in `probe_status`.
pub(crate) fn probe_name(family: Family) -> String {
    format!("bpf.{}", family.as_str())
}

pub(crate) const PROC_INSTEAD: &str =
    "source.processes says what stands in for it; short-lived processes may be missed";

impl Standing {
    /// REAL when every duty is kept, in whatever way.
    fn of(loaded: &LoadedFamily) -> Self {
        let lost = loaded.duties.iter().filter(|kept| kept.way.is_none());
        let mut reasons = Vec::new();
        let mut hint = String::new();
        for kept in lost {
            for (way, Diagnosis { reason, hint: first }) in &kept.refused {
                reasons.push(format!("{} by {}: {reason}", kept.duty.name, way.name));
                if hint.is_empty() {
                    first.clone_into(&mut hint);
                }
            }
        }
        if reasons.is_empty() {
            return Self {
                state: ProbeState::Real,
                reason: String::new(),
                hint,
            };
        }
        if loaded.spec.family == Family::Process && !loaded.keeps(EXEC) {
            reasons.push(PROC_INSTEAD.to_owned());
        }
        Self {
            state: ProbeState::Degraded,
            reason: format!("not told: {}", reasons.join("; ")),
            hint,
        }
    }

    /// Says what else is wrong.
    pub(crate) fn degrade(&mut self, diagnosis: &Diagnosis) {
        self.state = ProbeState::Degraded;
        append(&mut self.reason, &diagnosis.reason);
        append(&mut self.hint, &diagnosis.hint);
    }
}

/// Adds to a sentence.
pub(crate) fn append(text: &mut String, more: &str) {
    if !text.is_empty() {
        text.push_str("; ");
    }
    text.push_str(more);
}

impl LeftOut {
    pub(crate) fn note(&mut self) {
        self.open += 1;
        self.total += 1;
    }

    /// Each gap begins where the one before ended, so that the range is whole.
    pub(crate) fn gap(&mut self, spec: &FamilySpec, now: TimeMicros) -> Option<Gap> {
        let from_time = self.from.replace(now).unwrap_or(now);
        let count = std::mem::take(&mut self.open);
        let table = table_by_id(spec.table_id).filter(|_| count > 0)?;
        Some(Gap {
            time: now,
            table: table.name.to_owned(),
            lane: table.lane,
            from_time,
            to_time: now,
            count,
            exactness: Exactness::Exact,
            stage: GapStage::Collect,
            reason: REASON.to_owned(),
        })
    }
}
