//! Proposals that were decided, and how fast new ones may come.

use std::collections::{BTreeMap, VecDeque};

use fleetmend_event::{ActionId, TimeMicros};

/// Decisions that are remembered; an older proposal that comes again is considered again.
const KNOWN_MAX: usize = 4096;
/// Proposals within a minute that are considered: each costs two synced ledger entries, and a healthy agent
/// makes a few an hour.
const PER_MINUTE_MAX: usize = 60;
const MINUTE_US: i64 = 60_000_000;

/// Decisions by transaction.
#[derive(Debug, Default)]
pub(super) struct Known {
    decisions: BTreeMap<ActionId, (bool, String)>,
    order: VecDeque<ActionId>,
}

impl Known {
    pub(super) fn get(&self, action_id: ActionId) -> Option<(bool, String)> {
        self.decisions.get(&action_id).cloned()
    }

    pub(super) fn insert(&mut self, action_id: ActionId, accepted: bool, reason: &str) {
        // A decision once taken up stays so, whatever the steps after it are called.
        let accepted = accepted
            || self
                .decisions
                .get(&action_id)
                .is_some_and(|(accepted, _)| *accepted);
        if self
            .decisions
            .insert(action_id, (accepted, reason.to_owned()))
            .is_none()
        {
            self.order.push_back(action_id);
        }
        while self.order.len() > KNOWN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.decisions.remove(&oldest);
            }
        }
    }
}

/// When the last proposals came.
#[derive(Debug, Default)]
pub(super) struct ProposalRate {
    times: VecDeque<TimeMicros>,
}

impl ProposalRate {
    /// Why another proposal is not considered now, if it is not; otherwise it counts.
    pub(super) fn refuses(&mut self, now: TimeMicros) -> Option<String> {
        while self
            .times
            .front()
            .is_some_and(|time| now.micros_since(*time) > MINUTE_US)
        {
            self.times.pop_front();
        }
        if self.times.len() >= PER_MINUTE_MAX {
            return Some(format!(
                "more than {PER_MINUTE_MAX} proposals a minute; this one is not recorded"
            ));
        }
        self.times.push_back(now);
        None
    }
}
