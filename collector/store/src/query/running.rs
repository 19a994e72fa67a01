//! Queries that run or wait for a turn, so that they can be listed and cancelled.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;
use parking_lot::Mutex;

/// What of a query's text is kept.
const TEXT_CHARS_MAX: usize = 500;

/// A query that runs or waits for a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningQuery {
    /// Its number, unique while the process lives.
    pub id: u64,
    /// Who asked, as [`super::QueryLimits::asker`] said.
    pub asker: Arc<str>,
    /// The first 500 characters of its text.
    pub text: String,
    /// When it came.
    pub since: TimeMicros,
    /// Whether it has its turn already.
    pub has_turn: bool,
}

/// All of them. Bounded by the callers that wait: an entry goes with its caller.
#[derive(Debug, Default)]
pub(crate) struct Running {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    entries: BTreeMap<u64, (RunningQuery, CancellationToken)>,
}

/// A query's entry; dropped, the query is listed no more.
pub(crate) struct Entry {
    running: Arc<Running>,
    id: u64,
    cancelled: CancellationToken,
}

impl Running {
    /// Lists a query that has just come.
    pub(crate) fn enter(self: &Arc<Self>, asker: &Arc<str>, text: &str) -> Entry {
        let mut held = self.held.lock();
        held.next = held.next.wrapping_add(1);
        let (id, cancelled) = (held.next, CancellationToken::new());
        let query = RunningQuery {
            id,
            asker: asker.clone(),
            text: text.chars().take(TEXT_CHARS_MAX).collect(),
            since: TimeMicros::now(),
            has_turn: false,
        };
        held.entries.insert(id, (query, cancelled.clone()));
        Entry {
            running: self.clone(),
            id,
            cancelled,
        }
    }

    /// Every query, the oldest first.
    pub(crate) fn list(&self) -> Vec<RunningQuery> {
        let held = self.held.lock();
        held.entries.values().map(|(query, _)| query.clone()).collect()
    }

    /// Cancels a query; `false` when it has ended or never was.
    pub(crate) fn cancel(&self, id: u64) -> bool {
        let held = self.held.lock();
        let found = held.entries.get(&id);
        found.inspect(|(_, token)| token.cancel()).is_some()
    }
}

impl Entry {
    /// Notes that the query has its turn.
    pub(crate) fn begins(&self) {
        if let Some((query, _)) = self.running.held.lock().entries.get_mut(&self.id) {
            query.has_turn = true;
        }
    }

    /// Waits until somebody cancels it.
    pub(crate) async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.held.lock().entries.remove(&self.id);
    }
}
