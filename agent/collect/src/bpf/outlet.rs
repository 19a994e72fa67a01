//! The way out of a collecting thread: a bounded channel that is never waited for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use fleetmend_event::table::{Exactness, Gap, GapStage, table_by_id};
use fleetmend_event::{Fact, Lane, TimeMicros};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::metric;

/// Gaps that wait for the channel to take them; those of one table are one.
const GAPS_WAITING_MAX: usize = 64;

/// Facts of the critical lane that wait for the channel to take them.
const CRITICAL_WAITING_MAX: usize = 4096;
/// Time between two tries to hand on the last facts.
const FINISH_LOOK: Duration = Duration::from_millis(2);
/// The part of the channel that is kept free for the critical lane: one of so many places.
const RESERVED_PART: usize = 8;

/// Sends facts without waiting. What the channel does not take is dropped and becomes a gap, which waits here
/// until the channel takes it. Facts of the critical lane have places of their own in the channel, and wait here, a
/// bounded number of them, when even these are taken.
pub(crate) struct Outlet {
    sender: Sender<Fact>,
    critical: VecDeque<Fact>,
    source: &'static str,
    dropped: BTreeMap<u16, Dropped>,
    waiting: Vec<Gap>,
    sent_count: u64,
    dropped_count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Dropped {
    from: TimeMicros,
    to: TimeMicros,
    count: u64,
}

impl Outlet {
    pub(crate) fn new(sender: Sender<Fact>, source: &'static str) -> Self {
        Self {
            sender,
            critical: VecDeque::new(),
            source,
            dropped: BTreeMap::new(),
            waiting: Vec::new(),
            sent_count: 0,
            dropped_count: 0,
        }
    }

    /// Sends one fact; says whether the channel took it, or it waits to be taken.
    pub(crate) fn send(&mut self, fact: Fact) -> bool {
        if fact.lane() == Lane::Critical {
            return self.send_critical(fact);
        }
        if self.sender.capacity() <= self.sender.max_capacity() / RESERVED_PART && !self.sender.is_closed() {
            self.note_dropped(fact.table_id(), fact.time(), 1);
            return false;
        }
        let Err(error) = self.sender.try_send(fact) else {
            self.sent_count += 1;
            return true;
        };
        let (TrySendError::Full(fact) | TrySendError::Closed(fact)) = error;
        self.note_dropped(fact.table_id(), fact.time(), 1);
        false
    }

    /// In order: what waits goes first.
    fn send_critical(&mut self, fact: Fact) -> bool {
        self.flush_critical();
        let refused = if self.critical.is_empty() {
            match self.sender.try_send(fact) {
                Ok(()) => {
                    self.sent_count += 1;
                    return true;
                }
                Err(TrySendError::Full(fact)) => fact,
                Err(TrySendError::Closed(fact)) => {
                    self.note_dropped(fact.table_id(), fact.time(), 1);
                    return false;
                }
            }
        } else {
            fact
        };
        if self.critical.len() >= CRITICAL_WAITING_MAX {
            self.note_dropped(refused.table_id(), refused.time(), 1);
            return false;
        }
        self.critical.push_back(refused);
        true
    }

    /// Sends what waits of the critical lane, as far as the channel takes it.
    pub(crate) fn flush_critical(&mut self) {
        while let Some(fact) = self.critical.pop_front() {
            match self.sender.try_send(fact) {
                Ok(()) => self.sent_count += 1,
                Err(TrySendError::Full(fact)) => {
                    self.critical.push_front(fact);
                    return;
                }
                Err(TrySendError::Closed(fact)) => self.note_dropped(fact.table_id(), fact.time(), 1),
            }
        }
    }

    /// Counts a row that could not even be made.
    pub(crate) fn note_dropped(&mut self, table_id: u16, time: TimeMicros, count: u64) {
        self.dropped_count += count;
        let noted = self.dropped.entry(table_id).or_insert(Dropped {
            from: time,
            to: time,
            count: 0,
        });
        noted.from = noted.from.min(time);
        noted.to = noted.to.max(time);
        noted.count += count;
    }

    /// Sends a gap, now or as soon as the channel takes it.
    pub(crate) fn send_gap(&mut self, gap: Gap) {
        if let Err(TrySendError::Full(Fact::Gap(gap)) | TrySendError::Closed(Fact::Gap(gap))) =
            self.sender.try_send(Fact::from(gap))
        {
            self.keep(*gap);
        }
    }

    /// Turns what was dropped into gaps, and sends those that wait. Call it about once a second.
    pub(crate) fn flush_gaps(&mut self) {
        self.flush_critical();
        metrics::counter!(metric::FACTS_SENT, "source" => self.source)
            .increment(std::mem::take(&mut self.sent_count));
        metrics::counter!(metric::FACTS_DROPPED, "source" => self.source)
            .increment(std::mem::take(&mut self.dropped_count));
        for (table_id, dropped) in std::mem::take(&mut self.dropped) {
            let Some(table) = table_by_id(table_id) else {
                continue;
            };
            self.keep(Gap {
                time: TimeMicros::now(),
                table: table.name.to_owned(),
                lane: table.lane,
                from_time: dropped.from,
                to_time: dropped.to,
                count: dropped.count,
                exactness: Exactness::Exact,
                stage: GapStage::Collect,
                reason: "channel_full".to_owned(),
            });
        }
        for gap in std::mem::take(&mut self.waiting) {
            self.send_gap(gap);
        }
    }

    /// Sends what waits, for as long as somebody takes it and at most so long: for the end of the collecting thread.
    pub(crate) fn finish(&mut self, within: Duration) {
        let end = Instant::now() + within;
        loop {
            self.flush_gaps();
            let waits = !self.critical.is_empty() || !self.waiting.is_empty();
            if !waits || self.sender.is_closed() {
                return;
            }
            if Instant::now() >= end {
                let (facts, gaps) = (self.critical.len(), self.waiting.len());
                tracing::warn!(facts, gaps, "nobody took the last critical facts and gaps");
                return;
            }
            std::thread::sleep(FINISH_LOOK);
        }
    }

    /// A gap of the same table, stage and reason is widened; beyond the bound the last one is.
    fn keep(&mut self, gap: Gap) {
        let full = self.waiting.len() >= GAPS_WAITING_MAX;
        let alike = |kept: &&mut Gap| {
            full || (kept.table == gap.table && kept.stage == gap.stage && kept.reason == gap.reason)
        };
        match self.waiting.iter_mut().rev().find(alike) {
            Some(kept) => {
                if kept.table != gap.table {
                    "*".clone_into(&mut kept.table);
                }
                kept.from_time = kept.from_time.min(gap.from_time);
                kept.to_time = kept.to_time.max(gap.to_time);
                kept.count += gap.count;
            }
            None => self.waiting.push(gap),
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{ProbeState, ProbeStatus};
    use tokio::sync::mpsc;

    use super::*;

    fn status(time: i64) -> Fact {
        Fact::from(ProbeStatus {
            time: TimeMicros(time),
            probe: "bpf.process".into(),
            state: ProbeState::Real,
            reason: String::new(),
            hint: String::new(),
            seen: 0,
            delivered: 0,
            lost: 0,
        })
    }

    fn critical() -> Fact {
        Fact::from(Gap {
            time: TimeMicros(1),
            table: "x".to_owned(),
            lane: Lane::Critical,
            from_time: TimeMicros(1),
            to_time: TimeMicros(1),
            count: 1,
            exactness: Exactness::Exact,
            stage: GapStage::Collect,
            reason: String::new(),
        })
    }

    #[test]
    fn last_critical_facts_and_gaps_wait_for_whoever_takes_them() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outlet = Outlet::new(sender, "test");
        for _ in 0..3 {
            assert!(outlet.send(critical()));
        }
        outlet.note_dropped(1, TimeMicros(1), 7);
        let reader = std::thread::spawn(move || {
            let facts = std::iter::from_fn(|| receiver.blocking_recv());
            facts
                .map(|fact| match fact {
                    Fact::Gap(gap) => gap.count,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        });
        outlet.finish(Duration::from_secs(60));
        drop(outlet);
        let mut counts = reader.join().unwrap();
        // A gap may find room before a critical fact does.
        counts.sort_unstable();
        assert_eq!(counts, [1, 1, 1, 7]);
    }

    #[test]
    fn what_a_full_channel_refuses_becomes_one_gap_with_its_range() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outlet = Outlet::new(sender, "test");
        assert!(outlet.send(status(1)));
        for time in [5, 3, 9] {
            assert!(!outlet.send(status(time)));
        }
        outlet.flush_gaps();
        assert!(
            matches!(receiver.try_recv(), Ok(Fact::ProbeStatus(_))),
            "the first fact"
        );
        assert!(receiver.try_recv().is_err(), "the gap waits for room");
        outlet.flush_gaps();
        let Ok(Fact::Gap(gap)) = receiver.try_recv() else {
            panic!("the gap")
        };
        assert_eq!(
            (gap.table.as_str(), gap.count, gap.stage),
            ("probe_status", 3, GapStage::Collect)
        );
        assert_eq!((gap.from_time, gap.to_time), (TimeMicros(3), TimeMicros(9)));
    }

    #[test]
    fn critical_facts_have_places_of_their_own_and_wait_when_these_are_taken() {
        let (sender, mut receiver) = mpsc::channel(16);
        let mut outlet = Outlet::new(sender, "test");
        let taken = (0..20).filter(|time| outlet.send(status(*time))).count();
        assert_eq!(taken, 14, "two places are kept free");
        for _ in 0..5 {
            assert!(outlet.send(critical()));
        }
        assert_eq!(outlet.critical.len(), 3);
        for _ in 0..16 {
            receiver.try_recv().unwrap();
        }
        outlet.flush_critical();
        let rest = std::iter::from_fn(|| receiver.try_recv().ok()).count();
        assert_eq!((rest, outlet.critical.len()), (3, 0));
    }
}
