//! What was tried before: the memory behind cool-down, attempt limit, breaker and budget. Rebuilt from the
//! ledger at start, so that a restart forgives nothing.

use std::collections::VecDeque;

use fleetmend_event::remedy::Ending;
use fleetmend_event::{ActionId, TimeMicros};

/// Attempts that are remembered. The host budget keeps the number within an hour far below; the longest
/// window of a policy sees fewer only when more than this were made within it.
const ATTEMPTS_MAX: usize = 4096;

/// One transaction that got as far as its journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The transaction.
    pub action_id: ActionId,
    /// When it was journalled.
    pub time: TimeMicros,
    /// Name of the remedy.
    pub remedy: String,
    /// What it acted on, as guards compare it.
    pub target_key: String,
    /// How it ended, when it has.
    pub ending: Option<Ending>,
}

/// Attempts, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    attempts: VecDeque<Attempt>,
}

impl History {
    /// Remembers an attempt.
    pub fn begin(&mut self, attempt: Attempt) {
        if self.attempts.len() >= ATTEMPTS_MAX {
            self.attempts.pop_front();
        }
        self.attempts.push_back(attempt);
    }

    /// Remembers how it ended.
    pub fn end(&mut self, action_id: ActionId, ending: Ending) {
        if let Some(attempt) = self
            .attempts
            .iter_mut()
            .rev()
            .find(|attempt| attempt.action_id == action_id)
        {
            attempt.ending = Some(ending);
        }
    }

    /// How a transaction ended, when it was an attempt and has.
    pub fn ending(&self, action_id: ActionId) -> Option<Ending> {
        self.attempts
            .iter()
            .rev()
            .find(|attempt| attempt.action_id == action_id)?
            .ending
    }

    /// The clock had run ahead: what it says is later than `now` was made now at the latest. Nothing is forgiven
    /// by that, and nothing waits for a time that is far off.
    pub fn set_back(&mut self, now: TimeMicros) {
        for attempt in &mut self.attempts {
            attempt.time = attempt.time.min(now);
        }
    }

    /// The latest attempt of this remedy on this target.
    pub fn last(&self, remedy: &str, target_key: &str) -> Option<&Attempt> {
        let of_target = |attempt: &&Attempt| attempt.remedy == remedy && attempt.target_key == target_key;
        self.attempts
            .iter()
            .filter(of_target)
            .max_by_key(|attempt| attempt.time)
    }

    /// Attempts of this remedy on this target since `since`. One that lies in the future counts: a clock that
    /// was set back must not forgive.
    pub fn count(&self, remedy: &str, target_key: &str, since: TimeMicros) -> usize {
        let of_target = |attempt: &&Attempt| attempt.remedy == remedy && attempt.target_key == target_key;
        self.attempts
            .iter()
            .filter(of_target)
            .filter(|attempt| attempt.time >= since)
            .count()
    }

    /// Attempts of any kind since `since`.
    pub fn count_all(&self, since: TimeMicros) -> usize {
        self.attempts
            .iter()
            .filter(|attempt| attempt.time >= since)
            .count()
    }

    /// When the last attempt that did not heal was made, and how many did not within `window_us` up to then.
    pub fn failures(&self, window_us: i64) -> Option<(TimeMicros, usize)> {
        let failed = |attempt: &&Attempt| {
            matches!(
                attempt.ending,
                Some(Ending::FailedSafe | Ending::Reverted | Ending::Unknown)
            )
        };
        let times = || self.attempts.iter().filter(failed).map(|attempt| attempt.time);
        let last = times().max()?;
        let since = last.plus_micros(window_us.saturating_neg());
        Some((last, times().filter(|time| *time >= since).count()))
    }
}
