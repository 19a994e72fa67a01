//! The thread that empties the rings.

use std::time::{Duration, Instant};

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::Record;
use fleetmend_event::table::{
    Exactness, Gap, GapStage, NetworkEvent, ProbeState, ProbeStatus, ProcessEvent, Table, table_by_id,
};
use fleetmend_event::{Fact, TimeMicros};

use super::clock::BootClock;
use super::config::BpfConfig;
use super::enrich::Enricher;
use super::family::LoadedFamily;
use super::loss::LossWatch;
use super::metric;
use super::outlet::Outlet;
use super::sensor::{FamilyState, Standing};
use super::sockets::network_event;
use crate::pace::{Pace, PaceHandle, REASON};

/// Batches read from one ring before the next one has its turn.
const TURN_BATCHES_MAX: usize = 64;
/// Facts that are made before they are sent: a receiver that sleeps is then woken once for all of them.
const BATCH_FACTS: usize = 256;
/// Fewer records than this in one look, and the next one comes later.
const FEW_RECORDS: usize = 64;
/// More records than this in one look, and the next one comes as soon as possible: at 50,000 events a second a look
/// every 5 ms finds 250.
const MANY_RECORDS: usize = 256;
/// Time between two looks at the counters.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Time between two looks when there is no ring at all.
const NO_RING: Duration = Duration::from_millis(500);

/// A family and what is known of its losses.
struct Source {
    loaded: Box<LoadedFamily>,
    standing: Standing,
    losses: LossWatch,
    read: u64,
    delivered: u64,
    told: Option<(ProbeState, bool)>,
    /// What the pace left out: not yet in a gap, and in all.
    shed: Shed,
}

#[derive(Debug, Default)]
struct Shed {
    now: bool,
    open: u64,
    from: Option<TimeMicros>,
    total: u64,
}

/// See the module.
pub(crate) struct Drain {
    sources: Vec<Source>,
    /// Families that do not run, with their rows.
    refused: Vec<ProbeStatus>,
    enricher: Enricher,
    outlet: Outlet,
    batch: Vec<Fact>,
    config: BpfConfig,
    pace: PaceHandle,
    next_housekeeping: Instant,
    next_status: Instant,
}

impl Drain {
    pub(crate) fn new(
        states: Vec<FamilyState>,
        enricher: Enricher,
        outlet: Outlet,
        config: BpfConfig,
        pace: PaceHandle,
    ) -> Self {
        let now = Instant::now();
        let mut sources = Vec::new();
        let mut refused = Vec::new();
        for state in states {
            match state {
                FamilyState::Loaded(loaded, standing) => {
                    let losses = LossWatch::new(loaded.family, TimeMicros::now());
                    sources.push(Source {
                        loaded,
                        standing,
                        losses,
                        read: 0,
                        delivered: 0,
                        told: None,
                        shed: Shed::default(),
                    });
                }
                FamilyState::Refused(status) => refused.push(status),
            }
        }
        Self {
            sources,
            refused,
            enricher,
            outlet,
            batch: Vec::with_capacity(BATCH_FACTS),
            config,
            pace,
            next_housekeeping: now,
            next_status: now,
        }
    }

    /// Empties the rings until `stopped` says so, then once more.
    pub(crate) fn run(&mut self, stopped: impl Fn() -> bool) {
        let busy = Duration::from_millis(self.config.drain_busy_ms.max(1));
        let idle_max = Duration::from_millis(self.config.drain_idle_ms_max).max(busy);
        let mut wait = busy;
        while !stopped() {
            let read = self.drain();
            self.keep_house();
            wait = next_wait(wait, read, busy, idle_max);
            std::thread::sleep(if self.sources.is_empty() { NO_RING } else { wait });
        }
        self.drain();
        self.look_at_losses();
        self.look_at_skips();
        self.tell_shed();
        self.outlet.flush_gaps();
    }

    /// Reads what the rings hold; returns how many records.
    pub(crate) fn drain(&mut self) -> usize {
        let Self {
            sources,
            enricher,
            outlet,
            batch,
            pace,
            ..
        } = self;
        let sheds = pace.get() >= Pace::Executions;
        let mut total = 0;
        for source in sources {
            source.shed.now = sheds;
            for _ in 0..TURN_BATCHES_MAX {
                let read = source.read_batch(enricher, outlet, batch);
                total += read;
                for fact in batch.drain(..) {
                    if outlet.send(fact) {
                        source.delivered += 1;
                    } else {
                        source.losses.note(1, TimeMicros::now());
                    }
                }
                if read < BATCH_FACTS {
                    break;
                }
            }
        }
        total
    }

    /// What is due once a second, and once in a status interval.
    fn keep_house(&mut self) {
        let now = Instant::now();
        if now < self.next_housekeeping {
            return;
        }
        self.next_housekeeping = now + HOUSEKEEPING;
        self.enricher.clock = BootClock::now();
        self.look_at_losses();
        self.tell_shed();
        let all = now >= self.next_status;
        if all {
            self.next_status = now + Duration::from_secs(self.config.status_interval_s.max(1));
            self.enricher.forget_paths();
            self.look_at_skips();
        }
        self.send_status(all);
        self.outlet.flush_gaps();
    }

    pub(crate) fn look_at_losses(&mut self) {
        for source in &mut self.sources {
            let family = source.loaded.family.as_str();
            metrics::counter!(metric::RECORDS_READ, "family" => family).absolute(source.read);
            match source.loaded.counts() {
                Ok(counts) => {
                    if let Some(gap) = source.losses.look(counts, TimeMicros::now()) {
                        self.outlet.send_gap(gap);
                    }
                }
                Err(error) => tracing::warn!(family, %error, "cannot read the counters of the probes"),
            }
            metrics::counter!(metric::RECORDS_LOST, "family" => family).absolute(source.lost());
        }
    }

    /// One gap for each family of what the pace left out since it was told last.
    pub(crate) fn tell_shed(&mut self) {
        let now = TimeMicros::now();
        for source in &mut self.sources {
            if let Some(gap) = source.shed.gap(source.loaded.family, now) {
                self.outlet.send_gap(gap);
            }
        }
    }

    fn look_at_skips(&mut self) {
        for source in &mut self.sources {
            if let Some(gap) = source
                .losses
                .look_at_skips(source.loaded.skipped(), TimeMicros::now())
            {
                self.outlet.send_gap(gap);
            }
        }
    }

    /// Rows of the families that changed, or of all.
    fn send_status(&mut self, all: bool) {
        let now = TimeMicros::now();
        for source in &mut self.sources {
            let status = source.status(now);
            let telling = Some((status.state, source.shed.now));
            if all || source.told != telling {
                source.told = telling;
                self.outlet.send(Fact::from(status));
            }
        }
        for status in self.refused.iter().filter(|_| all) {
            self.outlet.send(Fact::from(ProbeStatus {
                time: now,
                ..status.clone()
            }));
        }
    }

    /// The present rows, for tests and for the counters of `status`.
    #[cfg(test)]
    pub(crate) fn statuses(&self) -> Vec<ProbeStatus> {
        self.sources
            .iter()
            .map(|source| source.status(TimeMicros::now()))
            .collect()
    }
}

impl Source {
    /// Makes at most a batch of facts; returns how many records were read.
    fn read_batch(&mut self, enricher: &mut Enricher, outlet: &mut Outlet, batch: &mut Vec<Fact>) -> usize {
        let mut read = 0;
        while read < BATCH_FACTS {
            let Some(item) = self.loaded.ring.next() else {
                break;
            };
            read += 1;
            match Record::parse(&item) {
                Ok(record) if self.shed.now && !matches!(record, Record::Exec { .. }) => {
                    enricher.follow(&record);
                    self.shed.note();
                }
                Ok(record) => batch.push(fact_of(enricher, record)),
                Err(error) => {
                    tracing::debug!(%error, "record of a probe cannot be read");
                    outlet.note_dropped(table_id(self.loaded.family), TimeMicros::now(), 1);
                    self.losses.note(1, TimeMicros::now());
                }
            }
        }
        self.read += u64::try_from(read).unwrap_or(u64::MAX);
        read
    }

    /// Losses of every kind together.
    fn lost(&self) -> u64 {
        self.losses.lost().saturating_add(self.shed.total)
    }

    fn status(&self, now: TimeMicros) -> ProbeStatus {
        let counts = self.losses.counts();
        let lost = self.lost();
        let Standing { state, reason, hint } = &self.standing;
        let mut status = ProbeStatus {
            time: now,
            probe: probe_name(self.loaded.family),
            state: *state,
            reason: reason.clone(),
            hint: hint.clone(),
            seen: counts.seen,
            delivered: self.delivered,
            lost,
        };
        if self.losses.recent(now) {
            status.state = ProbeState::Degraded;
            let separator = if status.reason.is_empty() { "" } else { "; " };
            status.reason.push_str(&format!(
                "{separator}events were lost within the last minute, {lost} in all"
            ));
            if status.hint.is_empty() {
                status.hint = format!("raise {}_ring_bytes if this goes on", self.loaded.family.as_str());
            }
        }
        if self.shed.now {
            status.state = ProbeState::Degraded;
            let separator = if status.reason.is_empty() { "" } else { "; " };
            let kept = match self.loaded.family {
                Family::Process => "forks and exits are counted only",
                Family::Network => "connections are counted only",
            };
            status
                .reason
                .push_str(&format!("{separator}the agent is over its budget: {kept}"));
        }
        status
    }
}

impl Shed {
    fn note(&mut self) {
        self.open += 1;
        self.total += 1;
    }

    /// Each gap begins where the one before ended, so that the range is whole.
    fn gap(&mut self, family: Family, now: TimeMicros) -> Option<Gap> {
        let from_time = self.from.replace(now).unwrap_or(now);
        let count = std::mem::take(&mut self.open);
        let table = table_by_id(table_id(family)).filter(|_| count > 0)?;
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

/// A look costs tens of microseconds of processor time whether it finds something or not, so looks are as rare as
/// the records allow: some hundred a look.
fn next_wait(wait: Duration, read: usize, busy: Duration, idle_max: Duration) -> Duration {
    match read {
        0..FEW_RECORDS => (wait * 2).min(idle_max),
        FEW_RECORDS..=MANY_RECORDS => wait,
        _ => busy,
    }
}

/// Name of a family in `probe_status`.
pub(crate) fn probe_name(family: Family) -> String {
    format!("bpf.{}", family.as_str())
}

const fn table_id(family: Family) -> u16 {
    match family {
        Family::Process => ProcessEvent::ID,
        Family::Network => NetworkEvent::ID,
    }
}

fn fact_of(enricher: &mut Enricher, record: Record<'_>) -> Fact {
    match record {
        Record::Exec {
            record,
            filename,
            argv,
        } => enricher.exec(&record, filename, argv).into(),
        Record::Fork(record) => enricher.fork(&record).into(),
        Record::Exit(record) => enricher.exit(&record).into(),
        Record::Socket(kind, record) => network_event(kind, &record, &enricher.clock).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_rare_while_there_is_little_and_dense_in_a_storm() {
        let (busy, idle) = (Duration::from_millis(5), Duration::from_millis(50));
        let mut wait = busy;
        for read in [0, 3, 60, 0] {
            wait = next_wait(wait, read, busy, idle);
        }
        assert_eq!(wait, idle);
        assert_eq!(next_wait(wait, 100, busy, idle), idle);
        assert_eq!(next_wait(wait, 5000, busy, idle), busy);
    }
}
