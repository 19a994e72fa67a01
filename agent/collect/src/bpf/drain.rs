//! The thread that empties the rings.

use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::kind_of;
use fleetmend_event::table::ProbeStatus;
use fleetmend_event::{Fact, Lane, TimeMicros};

use super::board::SensorBoard;
use super::clock::BootClock;
use super::config::BpfConfig;
use super::enrich::Enricher;
use super::outlet::Outlet;
use super::source::Source;
use crate::pace::{Pace, PaceHandle};

/// Batches read from one ring before the next one has its turn.
const TURN_BATCHES_MAX: usize = 64;
/// Facts that are made before they are sent: a receiver that sleeps is then woken once for all of them.
const BATCH_RECORDS: usize = 256;
/// Fewer records than this in one look, and the next one comes later.
const FEW_RECORDS: usize = 64;
/// More records than this in one look, and the next one comes as soon as possible: at 50,000 events a second a look
/// every 5 ms finds 250.
const MANY_RECORDS: usize = 256;
/// Time between two looks at the counters.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long the last facts may wait for whoever takes them.
const LAST_FACTS: Duration = Duration::from_secs(1);
/// Time between two looks when there is no ring at all.
const NO_RING: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Drain {
    /// Processes first, then the critical lane.
    sources: Vec<Source>,
    /// Families that do not run, with their rows.
    refused: Vec<ProbeStatus>,
    enricher: Enricher,
    outlet: Outlet,
    batch: Vec<Fact>,
    staged: Staged,
    /// Of processes, while others are staged.
    ahead: Staged,
    config: BpfConfig,
    pace: PaceHandle,
    board: SensorBoard,
    next_housekeeping: Instant,
    next_status: Instant,
}

/// Which ring of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Critical,
    Events,
}

impl Drain {
    pub(crate) fn new(
        mut sources: Vec<Source>,
        refused: Vec<ProbeStatus>,
        enricher: Enricher,
        outlet: Outlet,
        config: BpfConfig,
        pace: PaceHandle,
        board: SensorBoard,
    ) -> Self {
        let now = Instant::now();
        sources.sort_by_key(|source| {
            (
                !source.is_of_processes(),
                source.loaded.spec.lane != Lane::Critical,
            )
        });
        Self {
            sources,
            refused,
            enricher,
            outlet,
            batch: Vec::with_capacity(BATCH_RECORDS),
            staged: Staged::default(),
            ahead: Staged::default(),
            config,
            pace,
            board,
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
        self.tick();
        self.look_at_losses();
        self.look_at_skips();
        self.tell_shed();
        self.outlet.finish(LAST_FACTS);
    }

    /// Reads what the rings hold, the reserved ones first; returns how many records.
    ///
    /// Rings know nothing of each other: a process that executes a program and opens a file is in two of them. Each batch is
    /// therefore taken out of its ring first, then the ring of processes is emptied, which holds by then whatever happened
    /// before the batch, and only then rows are made of the batch: they name the program that acted, and not the one that its
    /// process ran before.
    pub(crate) fn drain(&mut self) -> usize {
        self.outlet.flush_critical();
        self.empty(Which::Critical) + self.empty(Which::Events)
    }

    fn empty(&mut self, which: Which) -> usize {
        let Self {
            sources,
            enricher,
            outlet,
            batch,
            staged,
            ahead,
            pace,
            ..
        } = self;
        let sheds = pace.get() >= Pace::Executions;
        let (mut processes, others) = match sources.split_first_mut() {
            Some((first, others)) if first.is_of_processes() => (Some(first), others),
            _ => (None, sources.as_mut_slice()),
        };
        let mut total = 0;
        if let Some(processes) = &mut processes {
            processes.left_out.now = sheds;
            total += processes.empty(Which::Events, enricher, outlet, batch, ahead);
        }
        for source in others {
            source.left_out.now = sheds;
            for _ in 0..TURN_BATCHES_MAX {
                let read = source.stage(which, staged);
                if read == 0 {
                    break;
                }
                if let Some(processes) = &mut processes {
                    total += processes.empty(Which::Events, enricher, outlet, batch, ahead);
                }
                source.tell(which, staged, enricher, outlet, batch);
                source.send(batch, outlet);
                total += read;
                if read < BATCH_RECORDS {
                    break;
                }
            }
            source.emptied();
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
        self.tick();
        self.look_at_losses();
        self.tell_shed();
        let all = now >= self.next_status;
        if all {
            self.next_status = now + Duration::from_secs(self.config.status_interval_s.max(1));
            self.look_at_skips();
        }
        self.send_status(all);
        self.outlet.flush_gaps();
    }

    /// What lies in maps becomes rows.
    pub(crate) fn tick(&mut self) {
        self.enricher.clock = BootClock::now();
        let Enricher {
            inventory, bypass, ..
        } = &mut self.enricher;
        bypass.refresh(inventory);
        let bypassed = bypass.reason();
        for source in &mut self.sources {
            source.bypassed = bypassed.clone().filter(|_| source.loaded.hooks_calls());
            source.handler.tick(&mut self.enricher, &mut self.batch);
            source.made += u64::try_from(self.batch.len()).unwrap_or_default();
            source.send(&mut self.batch, &mut self.outlet);
        }
    }

    /// Reads every counter: gaps for what was lost, what the programs cost, what status shows.
    pub(crate) fn look_at_losses(&mut self) {
        let now = TimeMicros::now();
        for source in &mut self.sources {
            for gap in source.look(now) {
                self.outlet.send_gap(gap);
            }
        }
        let reports = self.sources.iter().map(|source| source.report(now)).collect();
        self.board.set(reports);
    }

    /// One gap for each family of what the pace left out since it was told last.
    pub(crate) fn tell_shed(&mut self) {
        let now = TimeMicros::now();
        for source in &mut self.sources {
            if let Some(gap) = source.left_out.gap(source.loaded.spec, now) {
                self.outlet.send_gap(gap);
            }
        }
    }

    fn look_at_skips(&mut self) {
        for source in &mut self.sources {
            let skipped = source.loaded.skipped();
            if let Some(gap) = source.losses.look_at_skips(skipped, TimeMicros::now()) {
                self.outlet.send_gap(gap);
            }
        }
    }

    /// Rows of the families that changed, or of all.
    fn send_status(&mut self, all: bool) {
        let now = TimeMicros::now();
        for source in &mut self.sources {
            let status = source.status(now);
            let telling = Some((status.state, source.left_out.now, source.toll.level()));
            if all || source.told != telling {
                source.told = telling;
                self.outlet.send(Fact::from(status));
            }
            if all {
                self.outlet.send(Fact::from(source.account(now)));
            }
        }
        for status in self.refused.iter().filter(|_| all) {
            self.outlet.send(Fact::from(ProbeStatus {
                time: now,
                ..status.clone()
            }));
        }
    }

    /// Lets a family shed, as its budget would.
    #[cfg(test)]
    pub(crate) fn shed(&mut self, family: Family, level: u32) {
        for source in &mut self.sources {
            if source.loaded.spec.family == family {
                source.loaded.set_shed_level(level).unwrap();
            }
        }
    }

    /// The present rows, for tests.
    #[cfg(test)]
    pub(crate) fn statuses(&self) -> Vec<ProbeStatus> {
        self.sources
            .iter()
            .map(|source| source.status(TimeMicros::now()))
            .collect()
    }
}

/// Records that were taken out of a ring.
#[derive(Debug, Default)]
struct Staged {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Staged {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let spans = begins.zip(&self.ends);
        spans.filter_map(|(begin, end)| self.bytes.get(begin..*end))
    }
}

impl Source {
    fn is_of_processes(&self) -> bool {
        self.loaded.spec.family == Family::Process
    }

    /// Everything that a ring holds becomes facts, and these are sent; returns how many records.
    fn empty(
        &mut self,
        which: Which,
        enricher: &mut Enricher,
        outlet: &mut Outlet,
        batch: &mut Vec<Fact>,
        staged: &mut Staged,
    ) -> usize {
        let mut total = 0;
        for _ in 0..TURN_BATCHES_MAX {
            let read = self.stage(which, staged);
            self.tell(which, staged, enricher, outlet, batch);
            self.send(batch, outlet);
            total += read;
            if read < BATCH_RECORDS {
                break;
            }
        }
        self.emptied();
        total
    }

    /// Takes at most a batch of records out of a ring; returns how many.
    fn stage(&mut self, which: Which, staged: &mut Staged) -> usize {
        staged.clear();
        let ring: Option<&mut RingBuf<MapData>> = match which {
            Which::Critical => self.loaded.critical.as_mut(),
            Which::Events => Some(&mut self.loaded.ring),
        };
        let Some(ring) = ring else {
            return 0;
        };
        while staged.ends.len() < BATCH_RECORDS
            && let Some(item) = ring.next()
        {
            staged.push(&item);
        }
        let read = staged.ends.len();
        self.read += u64::try_from(read).unwrap_or(u64::MAX);
        if which == Which::Events {
            // A head of 8 bytes for each.
            self.found(staged.bytes.len() + 8 * read);
        }
        read
    }

    /// Makes facts of what was taken out of a ring.
    fn tell(
        &mut self,
        which: Which,
        staged: &Staged,
        enricher: &mut Enricher,
        outlet: &mut Outlet,
        batch: &mut Vec<Fact>,
    ) {
        for record in staged.records() {
            let is_left_out = self.left_out.now
                && which == Which::Events
                && kind_of(record).is_ok_and(|kind| !self.handler.wanted_at_slow_pace(kind));
            if is_left_out {
                self.handler.follow(record, enricher);
                self.left_out.note();
                continue;
            }
            if let Err(error) = self.handler.record(record, enricher, batch) {
                tracing::debug!(%error, "record of a probe cannot be read");
                outlet.note_dropped(self.loaded.spec.table_id, TimeMicros::now(), 1);
                self.losses.note(1, TimeMicros::now());
            }
        }
    }

    fn send(&mut self, batch: &mut Vec<Fact>, outlet: &mut Outlet) {
        for fact in batch.drain(..) {
            if outlet.send(fact) {
                self.delivered += 1;
            } else {
                self.losses.note(1, TimeMicros::now());
            }
        }
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
