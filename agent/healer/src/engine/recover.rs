//! After a start: every transaction that the journal still holds is brought to rest.

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::ActionStage;

use super::Healer;
use crate::error::Stop;
use crate::journal::{Record, Step};
use crate::ledger::Kind;
use crate::remedy::{Plan, Reading, Truth, Undone};

impl Healer {
    /// Brings to rest what was under way when the healer last ended. Before the first proposal.
    pub fn recover(&self) {
        let listed = self.state().journal.records();
        let (records, unreadable) = match listed {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "journal cannot be read: nothing will be done");
                self.state().ledger = Err(error.to_string());
                return;
            }
        };
        if self.state().ledger.is_err() {
            return self.take_off_limits(records);
        }
        for fault in unreadable {
            tracing::error!(
                fault,
                "journal record cannot be read: what was done is not known; a person must look"
            );
            self.note(Kind::Start, format!("a journal record cannot be read: {fault}"));
        }
        for record in records {
            let action_id = record.proposal.action_id;
            if let Err(stop) = self.bring_to_rest(record.clone()) {
                tracing::error!(%action_id, error = %stop, "transaction could not be brought to rest");
                self.leave(record, &stop);
            }
        }
    }

    /// Without a ledger nothing is begun, and no limit is left in force: the journal keeps what is to be
    /// recorded for a start with a good one.
    fn take_off_limits(&self, records: Vec<Record>) {
        for mut record in records {
            let treatment = record.plan.treatment();
            if treatment.hold_s().is_none() || !treatment.is_in_force() {
                continue;
            }
            let undone = treatment.undo(&self.inner.host);
            let action_id = record.proposal.action_id;
            tracing::error!(%action_id, ?undone, "limit was taken off without a ledger to record it in");
            if matches!(undone, Undone::Impossible(_)) {
                let mut state = self.state();
                record.until = Some(self.now_of(&state));
                state.standing.push(record);
            }
        }
    }

    fn bring_to_rest(&self, record: Record) -> Result<(), Stop> {
        let action_id = record.proposal.action_id;
        let ended = self.state().history.ending(action_id);
        tracing::warn!(%action_id, step = %record.step, "transaction was cut short");
        if record.step == Step::Standing {
            return self.stand_again(record, ended.is_some());
        }
        if ended.is_some() {
            return Ok(self.state().journal.remove(action_id)?);
        }
        let empty = || "{}".to_owned();
        if record.boot_id != self.inner.boot_id && !matches!(record.step, Step::Journalled | Step::Checked) {
            let (ending, reason) = match record.plan {
                Plan::Throttle(_) => (
                    Ending::Reverted,
                    "the host was restarted, and the limit ended with that",
                ),
                _ => (Ending::Unknown, "the host was restarted while it was under way"),
            };
            return self.end(record, ending, reason.to_owned(), empty());
        }
        match record.step {
            Step::Journalled | Step::Checked => self.end(
                record,
                Ending::NoOp,
                "the healer ended before anything was done".to_owned(),
                empty(),
            ),
            Step::Applying => self.settle(record),
            Step::Applied => self.applied(record),
            Step::Verified => self.end(record, Ending::Healed, "it had been verified".to_owned(), empty()),
            Step::NotVerified => {
                let detail = "it had not helped when the healer ended".to_owned();
                let reading = Reading {
                    truth: Truth::No,
                    detail,
                    measured: serde_json::json!({}),
                };
                self.take_back(record, reading, Ending::FailedSafe)
            }
            Step::Undone => self.end(record, Ending::Reverted, "it had been undone".to_owned(), empty()),
            Step::Standing => Ok(()),
        }
    }

    /// Whether it was done is not known.
    fn settle(&self, mut record: Record) -> Result<(), Stop> {
        let (ending, reason) = record.plan.treatment().settle(&self.inner.host);
        let reason = format!("the healer ended while it was being done: {reason}");
        let after = record
            .plan
            .treatment()
            .verify(&self.inner.host)
            .measured
            .to_string();
        if ending == Ending::Reverted {
            self.to(&mut record, Step::Undone)?;
            self.step(&record, ActionStage::Undone, reason.clone(), &after)?;
        }
        self.end(record, ending, reason, after)
    }

    fn stand_again(&self, record: Record, ended: bool) -> Result<(), Stop> {
        let treatment = record.plan.treatment();
        if !ended {
            let ending = record.ending.unwrap_or(Ending::Healed);
            let reason = match record.outcome.as_str() {
                "" => "it had come to this ending, which was not recorded yet".to_owned(),
                outcome => outcome.to_owned(),
            };
            return self.end(record, ending, reason, "{}".to_owned());
        }
        if !treatment.is_in_force() {
            let how = if record.boot_id == self.inner.boot_id {
                "it was not there any more"
            } else {
                "the host was restarted, and the limit ended with that"
            };
            self.release(record, Undone::Nothing(how.to_owned()));
            return Ok(());
        }
        self.state().standing.push(record);
        Ok(())
    }
}
