//! The bounded way in: facts wait here for the writer, which is woken no more often than a batch needs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use fleetmend_event::table::{Exactness, GapStage};
use fleetmend_event::{Fact, Lane, TimeMicros};
use parking_lot::{Condvar, Mutex};

use crate::config::SpoolConfig;
use crate::gaps::Loss;

/// Where facts and requests wait for the writer.
#[derive(Debug)]
pub(crate) struct Intake {
    limits: [(Lane, usize); 3],
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    facts: VecDeque<Fact>,
    /// How many of each lane were taken in since the writer looked.
    received: BTreeMap<Lane, u64>,
    refused: BTreeMap<u16, Refused>,
    /// The writer wants to be woken when so many facts wait.
    wake_at: usize,
    requests: Requests,
    closed: bool,
}

/// What else the writer is asked for.
#[derive(Debug, Default, Clone)]
pub(crate) struct Requests {
    /// Highest ticket of a flush that somebody waits for.
    pub(crate) flush_ticket: u64,
    /// A segment in which the reader met bytes that are no frame.
    pub(crate) repair: Option<Damaged>,
    /// Marks have moved.
    pub(crate) tidy: bool,
}

/// Where the reader met damage: (ordinal of the epoch, lane, first number of the segment).
pub(crate) type Damaged = (u32, Lane, u64);

#[derive(Debug)]
struct Refused {
    table: &'static str,
    lane: Lane,
    span: (TimeMicros, TimeMicros),
    rows: u64,
}

/// What the writer takes out at once.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) facts: VecDeque<Fact>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) requests: Requests,
}

impl Intake {
    pub(crate) fn new(config: &SpoolConfig) -> Self {
        let limits =
            [Lane::Critical, Lane::Events, Lane::Metrics].map(|lane| (lane, config.intake_limit(lane)));
        let state = State {
            wake_at: 1,
            ..State::default()
        };
        Self {
            limits,
            state: Mutex::new(state),
            wake: Condvar::new(),
        }
    }

    /// Takes the fact in, or counts it as refused.
    pub(crate) fn push(&self, fact: Fact) {
        let lane = fact.lane();
        let limit = self
            .limits
            .iter()
            .find(|(of, _)| *of == lane)
            .map_or(0, |(_, limit)| *limit);
        let mut state = self.state.lock();
        if state.closed || state.facts.len() >= limit {
            state.refuse(&fact, lane);
            return;
        }
        state.facts.push_back(fact);
        *state.received.entry(lane).or_default() += 1;
        let wake = lane == Lane::Critical || state.facts.len() >= state.wake_at;
        if wake {
            // One notice is enough until the writer has looked.
            state.wake_at = usize::MAX;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Changes the requests and wakes the writer.
    pub(crate) fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.state.lock().requests);
        self.wake.notify_one();
    }

    /// Facts that wait.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().facts.len()
    }

    #[cfg(test)]
    pub(crate) fn wants_repair(&self) -> bool {
        self.state.lock().requests.repair.is_some()
    }

    /// From now on every fact is refused.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Takes everything that waits. When nothing does, waits until `deadline`, until `wake_at` facts or a
    /// critical one are there, or until something is requested.
    pub(crate) fn take(&self, deadline: Instant, wake_at: usize) -> Taken {
        let mut state = self.state.lock();
        state.wake_at = wake_at;
        if state.facts.is_empty() && !state.closed && state.requests.is_empty() {
            // A spurious wake-up only makes an empty round.
            self.wake.wait_until(&mut state, deadline);
        }
        state.wake_at = usize::MAX;
        for (lane, facts) in std::mem::take(&mut state.received) {
            crate::metrics::received(lane, facts);
        }
        let losses = std::mem::take(&mut state.refused)
            .into_values()
            .map(Refused::into_loss)
            .collect();
        Taken {
            facts: std::mem::take(&mut state.facts),
            losses,
            requests: std::mem::take(&mut state.requests),
        }
    }
}

impl Requests {
    fn is_empty(&self) -> bool {
        self.flush_ticket == 0 && self.repair.is_none() && !self.tidy
    }
}

impl State {
    fn refuse(&mut self, fact: &Fact, lane: Lane) {
        let time = fact.time();
        let rows = rows_of(fact);
        let refused = self.refused.entry(fact.table_id()).or_insert_with(|| Refused {
            table: fact.table_name(),
            lane,
            span: (time, time),
            rows: 0,
        });
        refused.span = (refused.span.0.min(time), refused.span.1.max(time));
        refused.rows = refused.rows.saturating_add(rows);
    }
}

impl Refused {
    fn into_loss(self) -> Loss {
        Loss {
            table: self.table,
            lane: self.lane,
            span: self.span,
            count: self.rows,
            exactness: Exactness::Exact,
            stage: GapStage::Collect,
            reason: "spool_queue_full",
        }
    }
}

/// Rows that SQL would have shown for a fact.
pub(crate) fn rows_of(fact: &Fact) -> u64 {
    match fact {
        Fact::Metrics(frame) => u64::try_from(frame.values.len()).unwrap_or(u64::MAX),
        _ => 1,
    }
}
