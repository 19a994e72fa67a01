//! Where collected facts go: a bounded channel whose full-policy is to drop, count and report the gap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fleetmend_event::table::{Exactness, Gap, GapStage, table_by_id};
use fleetmend_event::{Fact, Lane, TimeMicros};
use parking::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::metrics;

mod parking {
    /// A lock that a panic elsewhere does not poison for us: what it guards is a plain counter.
    #[derive(Debug, Default)]
    pub(super) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
            body(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        }
    }
}

/// Rows of one table that did not fit, since the last report.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    count: u64,
    from: TimeMicros,
    to: TimeMicros,
}

/// Sends facts to the hub without ever waiting for it.
#[derive(Debug, Clone)]
pub struct FactSink {
    sender: mpsc::Sender<Fact>,
    dropped: Arc<Mutex<BTreeMap<u16, Dropped>>>,
    delivered: Arc<AtomicU64>,
}

impl FactSink {
    /// A sink in front of `sender`.
    pub fn new(sender: mpsc::Sender<Fact>) -> Self {
        metrics::describe();
        Self {
            sender,
            dropped: Arc::default(),
            delivered: Arc::default(),
        }
    }

    /// Sends `fact`; when the channel is full or closed it is dropped, counted and part of the next gap.
    /// Returns whether it was sent.
    pub fn offer(&self, fact: Fact) -> bool {
        let (fact, reason) = match self.sender.try_send(fact) {
            Ok(()) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Err(TrySendError::Full(fact)) => (fact, "full"),
            Err(TrySendError::Closed(fact)) => (fact, "closed"),
        };
        metrics::facts_dropped(reason);
        let (table, time) = (fact.table_id(), fact.time());
        self.dropped.with(|dropped| {
            let entry = dropped.entry(table).or_insert(Dropped {
                count: 0,
                from: time,
                to: time,
            });
            entry.count = entry.count.saturating_add(1);
            entry.from = entry.from.min(time);
            entry.to = entry.to.max(time);
        });
        false
    }

    /// Facts sent so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Sends a gap row for what was dropped since the last call. A gap that does not fit either stays for the
    /// next call, its range growing.
    pub fn report_gaps(&self) {
        let pending = self.dropped.with(std::mem::take);
        for (table, dropped) in pending {
            let name = table_by_id(table).map_or("*", |table| table.name);
            let lane = table_by_id(table).map_or(Lane::Events, |table| table.lane);
            let gap = Gap {
                time: TimeMicros::now(),
                table: name.to_owned(),
                lane,
                from_time: dropped.from,
                to_time: dropped.to,
                count: dropped.count,
                exactness: Exactness::Exact,
                stage: GapStage::Collect,
                reason: "channel_full".to_owned(),
            };
            if self.sender.try_send(gap.into()).is_err() {
                self.dropped.with(|waiting| {
                    let entry = waiting.entry(table).or_insert(Dropped { count: 0, ..dropped });
                    entry.count = entry.count.saturating_add(dropped.count);
                    entry.from = entry.from.min(dropped.from);
                    entry.to = entry.to.max(dropped.to);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{ProbeState, ProbeStatus};

    use super::*;

    fn row(time: i64) -> Fact {
        let status = ProbeStatus {
            time: TimeMicros(time),
            probe: "test".into(),
            state: ProbeState::Real,
            reason: String::new(),
            hint: String::new(),
            seen: 0,
            delivered: 0,
            lost: 0,
        };
        status.into()
    }

    #[test]
    fn facts_that_do_not_fit_become_one_gap_with_their_range() {
        let (sender, mut receiver) = mpsc::channel(2);
        let sink = FactSink::new(sender);
        let sent: Vec<bool> = (1..=5).map(|time| sink.offer(row(time))).collect();
        assert_eq!(sent, [true, true, false, false, false]);
        sink.report_gaps();
        assert!(receiver.try_recv().is_ok() && receiver.try_recv().is_ok());
        sink.report_gaps();
        let Ok(Fact::Gap(gap)) = receiver.try_recv() else {
            panic!("no gap row")
        };
        assert_eq!(
            (gap.count, gap.from_time, gap.to_time),
            (3, TimeMicros(3), TimeMicros(5))
        );
        assert_eq!(gap.table, "probe_status");
        sink.report_gaps();
        assert!(receiver.try_recv().is_err(), "a gap is reported once");
    }
}
