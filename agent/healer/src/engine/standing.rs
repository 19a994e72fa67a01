//! What healed and stays in force for a time: it is taken back by itself.

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
        let (now, standing) = {
            let state = self.state();
            (self.now_of(&state), state.standing.clone())
        };
        for record in standing {
            let over = record.until.is_none_or(|until| now >= until);
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
            if let Err(error) = self.released(&record, &undone) {
                tracing::error!(%action_id, %error, "release of a standing limit could not be recorded");
                continue;
            }
            self.state()
                .standing
                .retain(|kept| kept.proposal.action_id != action_id);
        }
    }

    pub(super) fn released(&self, record: &Record, undone: &Undone) -> Result<(), Stop> {
        let (Undone::Done(how) | Undone::Nothing(how) | Undone::Impossible(how)) = undone;
        let reason = format!("the limit is taken off: {how}");
        let mut state = self.state();
        let mut entry = Entry::new(&record.proposal, &record.target_key, ActionStage::Undone, reason);
        // The transaction healed; that this came after does not change its ending.
        (entry.ending, entry.before) = (Some(Ending::Healed), record.before.clone());
        self.record(&mut state, entry)?;
        Ok(state.journal.remove(record.proposal.action_id)?)
    }
}
