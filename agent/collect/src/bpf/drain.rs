//! The thread that empties the rings.

use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
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
/// Time between two looks when there is no ring at all.
const NO_RING: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Drain {
    /// Critical lane first.
    sources: Vec<Source>,
    /// Families that do not run, with their rows.
    refused: Vec<ProbeStatus>,
    enricher: Enricher,
    outlet: Outlet,
    batch: Vec<Fact>,
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
        sources.sort_by_key(|source| source.loaded.spec.lane != Lane::Critical);
        Self {
            sources,
            refused,
            enricher,
            outlet,
            batch: Vec::with_capacity(BATCH_RECORDS),
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
        self.outlet.flush_gaps();
    }

    /// Reads what the rings hold, the reserved ones first; returns how many records.
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
            pace,
            ..
        } = self;
        let sheds = pace.get() >= Pace::Executions;
        let mut total = 0;
        for source in sources {
            source.left_out.now = sheds;
            for _ in 0..TURN_BATCHES_MAX {
                let read = source.read_batch(which, enricher, outlet, batch);
                total += read;
                source.send(batch, outlet);
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

    /// The present rows, for tests.
    #[cfg(test)]
    pub(crate) fn statuses(&self) -> Vec<ProbeStatus> {
        self.sources
            .iter()
            .map(|source| source.status(TimeMicros::now()))
            .collect()
    }
}

impl Source {
    /// Makes facts of at most a batch of records; returns how many were read.
    fn read_batch(
        &mut self,
        which: Which,
        enricher: &mut Enricher,
        outlet: &mut Outlet,
        batch: &mut Vec<Fact>,
    ) -> usize {
        let (mut read, mut bytes) = (0, 0);
        while read < BATCH_RECORDS {
            let ring: Option<&mut RingBuf<MapData>> = match which {
                Which::Critical => self.loaded.critical.as_mut(),
                Which::Events => Some(&mut self.loaded.ring),
            };
            let Some(item) = ring.and_then(RingBuf::next) else {
                break;
            };
            read += 1;
            bytes += item.len();
            let is_left_out = self.left_out.now
                && which == Which::Events
                && kind_of(&item).is_ok_and(|kind| !self.handler.wanted_at_slow_pace(kind));
            if is_left_out {
                self.handler.follow(&item, enricher);
                self.left_out.note();
                continue;
            }
            if let Err(error) = self.handler.record(&item, enricher, batch) {
                tracing::debug!(%error, "record of a probe cannot be read");
                outlet.note_dropped(self.loaded.spec.table_id, TimeMicros::now(), 1);
                self.losses.note(1, TimeMicros::now());
            }
        }
        self.read += u64::try_from(read).unwrap_or(u64::MAX);
        if which == Which::Events {
            // A head of 8 bytes for each.
            self.found(bytes + 8 * read);
        }
        read
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
