//! What stays in force for a time after its transaction, because it healed or could not be undone: it is taken
//! back by itself, also when the ledger cannot take the entry.

use fleetmend_event::TimeMicros;
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::ActionStage;

use super::Healer;
use super::record::Entry;
use crate::error::Stop;
use crate::journal::Record;
use crate::remedy::Undone;

impl Healer {
    /// Takes back what has stood long enough, and what has lost its object.
    pub(super) fn release_standing(&self) {
        self.record_released();
        let (now, standing) = {
            let state = self.state();
            (self.now_of(&state), state.standing.clone())
        };
        for record in standing {
            let over = record.until.is_none_or(|until| now >= until) || is_out_of_reach(&record, now);
            if !over && !record.plan.treatment().is_moot(&self.inner.host) {
                continue;
            }
            let action_id = record.proposal.action_id;
            let undone = record.plan.treatment().undo(&self.inner.host);
            if let Undone::Impossible(reason) = &undone {
                // Tried again at the next tick: a group with a process that cannot be moved empties by itself.
                tracing::warn!(%action_id, reason, "standing limit could not be taken off yet");
                continue;
            }
            self.state()
                .standing
                .retain(|kept| kept.proposal.action_id != action_id);
            self.release(record, undone);
        }
    }

    /// Looks after a transaction that could not go on: a limit that it may have set is taken off at the next
    /// tick. All else is brought to rest at the next start.
    pub(super) fn leave(&self, mut record: Record, stop: &Stop) {
        let is_limit = record.plan.treatment().hold_s().is_some();
        if !is_limit || !matches!(stop, Stop::Ledger(_) | Stop::Journal(_)) {
            return;
        }
        let mut state = self.state();
        let action_id = record.proposal.action_id;
        if state
            .standing
            .iter()
            .all(|kept| kept.proposal.action_id != action_id)
        {
            record.until = Some(self.now_of(&state));
            state.standing.push(record);
        }
    }

    /// Records that it was taken off, now or as soon as the ledger takes it.
    pub(super) fn release(&self, record: Record, undone: Undone) {
        let action_id = record.proposal.action_id;
        if let Err(error) = self.released(&record, &undone) {
            tracing::error!(%action_id, %error, ?undone, "limit was taken off, which could not be recorded yet");
            self.state().unrecorded.push((record, undone));
        }
    }

    fn record_released(&self) {
        let waiting = {
            let mut state = self.state();
            if state.ledger.is_err() {
                // The journal still has them: the next start with a good ledger records them.
                return;
            }
            std::mem::take(&mut state.unrecorded)
        };
        for (record, undone) in waiting {
            if self.released(&record, &undone).is_err() {
                self.state().unrecorded.push((record, undone));
            }
        }
    }

    fn released(&self, record: &Record, undone: &Undone) -> Result<(), Stop> {
        let (Undone::Done(how) | Undone::Nothing(how) | Undone::Impossible(how)) = undone;
        let mut reason = format!("the limit is taken off: {how}");
        if !record.outcome.is_empty() {
            // This row is the action's last, and what came of the action is what people look for in it.
            reason = format!("{}; {reason}", record.outcome);
        }
        let action_id = record.proposal.action_id;
        let mut state = self.state();
        let ended = state.history.ending(action_id);
        let entry = |stage, ending| {
            let mut entry = Entry::new(&record.proposal, &record.target_key, stage, reason.clone());
            (entry.ending, entry.before) = (ending, record.before.clone());
            entry
        };
        if ended.is_some() || matches!(undone, Undone::Done(_)) {
            // That this came after does not change an ending.
            self.record(&mut state, entry(ActionStage::Undone, ended))?;
        }
        if ended.is_none() {
            let ending = match undone {
                Undone::Done(_) => Ending::Reverted,
                Undone::Nothing(_) | Undone::Impossible(_) => Ending::FailedSafe,
            };
            self.record(&mut state, entry(ActionStage::Ended, Some(ending)))?;
        }
        // Should it stay, the next start finds nothing to take off.
        if let Err(error) = state.journal.remove(action_id) {
            tracing::warn!(%action_id, %error, "journal record of a limit that was taken off stays");
        }
        Ok(())
    }
}

/// Whether a clock that ran ahead made the limit stand for longer than any grant says: twice the time leaves room
/// for a clock that was set back a little.
fn is_out_of_reach(record: &Record, now: TimeMicros) -> bool {
    let hold_s = record.plan.treatment().hold_s().unwrap_or(0);
    let longest_us = i64::try_from(hold_s.saturating_mul(2_000_000)).unwrap_or(i64::MAX);
    record
        .until
        .is_some_and(|until| until > now.plus_micros(longest_us))
}
