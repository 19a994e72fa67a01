//! One transaction: check, apply, verify, and undo where it did not help. Each step is in the journal before the
//! next begins, and in the ledger.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fleetmend_event::healer::Proposal;
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::ActionStage;

use super::Healer;
use super::record::Entry;
use crate::error::Stop;
use crate::guard::Guard;
use crate::journal::{Record, Step};
use crate::metrics;
use crate::remedy::{Reading, Truth, Undone};

/// Pause between two measurements; measuring CPU use takes a second by itself.
const VERIFY_PAUSE: Duration = Duration::from_millis(250);

/// A transaction that was decided on and waits to be run.
#[derive(Debug)]
pub struct Job {
    record: Record,
    observe: Option<String>,
}

impl Job {
    pub(super) fn act(record: Record) -> Self {
        Self {
            record,
            observe: None,
        }
    }

    pub(super) fn observe(record: Record, reason: String) -> Self {
        Self {
            record,
            observe: Some(reason),
        }
    }

    /// What was proposed.
    pub fn proposal(&self) -> &Proposal {
        &self.record.proposal
    }
}

impl Healer {
    /// Runs a job to its end. Takes as long as its measurements.
    pub fn run(&self, job: Job) {
        let key = job.record.target_key.clone();
        let action_id = job.record.proposal.action_id;
        let record = job.record.clone();
        let outcome = match job.observe {
            Some(reason) => self.observe(&job.record, &reason),
            None => self.transact(job.record),
        };
        match outcome {
            // As if we had died: nothing is tidied.
            Err(Stop::Interrupted(_)) => return,
            Err(stop) => {
                tracing::error!(%action_id, error = %stop, "transaction stopped where it was");
                self.leave(record, &stop);
            }
            Ok(()) => {}
        }
        self.state().in_flight.retain(|busy| *busy != key);
    }

    /// Reads the precondition and says what would be done. Changes nothing.
    fn observe(&self, record: &Record, reason: &str) -> Result<(), Stop> {
        let treatment = record.plan.treatment();
        let reading = treatment.check(&self.inner.host);
        let (stage, reason) = match reading.truth {
            Truth::Yes => (
                ActionStage::WouldAct,
                format!("{reason}; would {}", treatment.describe()),
            ),
            Truth::No | Truth::Unknown => (ActionStage::Refused, unmet(&reading)),
        };
        tracing::info!(action_id = %record.proposal.action_id, reason, "nothing is done");
        let mut entry = Entry::new(&record.proposal, &record.target_key, stage, reason);
        entry.before = reading.measured.to_string();
        self.record(&mut self.state(), entry)
    }

    fn transact(&self, mut record: Record) -> Result<(), Stop> {
        self.at("journalled")?;
        let reading = record.plan.treatment().check(&self.inner.host);
        record.before = reading.measured.to_string();
        if reading.truth != Truth::Yes {
            let ending = if reading.truth == Truth::No {
                Ending::NoOp
            } else {
                Ending::FailedSafe
            };
            let reason = unmet(&reading);
            self.step(&record, ActionStage::Refused, reason.clone(), "{}")?;
            return self.end(record, ending, reason, "{}".to_owned());
        }
        self.to(&mut record, Step::Checked)?;
        self.step(&record, ActionStage::Checked, reading.detail, "{}")?;
        self.at("checked")?;
        // Measuring took a while: acting may have been stopped, or have become pointless, meanwhile.
        let too_late = self.now() >= record.proposal.not_after;
        let stopped = self
            .halted_reason(&self.state())
            .or_else(|| too_late.then(|| "it came too late".to_owned()));
        if let Some(reason) = stopped {
            self.step(&record, ActionStage::Refused, reason.clone(), "{}")?;
            return self.end(record, Ending::NoOp, reason, "{}".to_owned());
        }
        self.to(&mut record, Step::Applying)?;
        self.at("applying")?;
        let halted = || self.halted_reason(&self.state());
        if let Err(error) = record.plan.treatment_mut().apply(&self.inner.host, &halted) {
            return self.take_back(record, Reading::failed(error.0), Ending::FailedSafe);
        }
        self.at("done-not-journalled")?;
        self.applied(record)
    }

    /// From a step on which it is known to have been done.
    pub(super) fn applied(&self, mut record: Record) -> Result<(), Stop> {
        let written = self.to(&mut record, Step::Applied).and_then(|()| {
            let done = record.plan.treatment().describe();
            self.step(&record, ActionStage::Applied, done, "{}")
        });
        if let Err(stop @ (Stop::Ledger(_) | Stop::Journal(_))) = written {
            // What cannot be recorded must not stay. The journal still says `applying`, so that the next start
            // looks at it again.
            let undone = record.plan.treatment().undo(&self.inner.host);
            tracing::error!(?undone, "action was taken back because it could not be recorded");
            return Err(stop);
        }
        written?;
        self.at("applied")?;
        let reading = self.measure(&record)?;
        self.at("measured")?;
        if reading.truth == Truth::Yes {
            self.to(&mut record, Step::Verified)?;
            let after = reading.measured.to_string();
            self.step(&record, ActionStage::Verified, reading.detail.clone(), &after)?;
            self.at("verified")?;
            return self.end(record, Ending::Healed, reading.detail, after);
        }
        let otherwise = if reading.truth == Truth::No {
            Ending::FailedSafe
        } else {
            Ending::Unknown
        };
        self.to(&mut record, Step::NotVerified)?;
        self.step(
            &record,
            ActionStage::NotVerified,
            reading.detail.clone(),
            &reading.measured.to_string(),
        )?;
        self.take_back(record, reading, otherwise)
    }

    /// Undoes it; `otherwise` is the ending when it cannot be undone.
    pub(super) fn take_back(
        &self,
        mut record: Record,
        reading: Reading,
        otherwise: Ending,
    ) -> Result<(), Stop> {
        let after = reading.measured.to_string();
        let (ending, reason) = match record.plan.treatment().undo(&self.inner.host) {
            Undone::Done(how) => {
                self.to(&mut record, Step::Undone)?;
                self.step(&record, ActionStage::Undone, how.clone(), &after)?;
                self.at("undone")?;
                (Ending::Reverted, format!("{}; {how}", reading.detail))
            }
            Undone::Nothing(how) => (otherwise, format!("{}; {how}", reading.detail)),
            Undone::Impossible(how) => (otherwise, format!("{}; {how}", reading.detail)),
        };
        self.end(record, ending, reason, after)
    }

    /// Brings a transaction to rest.
    pub(super) fn end(
        &self,
        mut record: Record,
        ending: Ending,
        reason: String,
        after: String,
    ) -> Result<(), Stop> {
        let action_id = record.proposal.action_id;
        let treatment = record.plan.treatment();
        record.until = match (ending, treatment.hold_s()) {
            (Ending::Healed, Some(hold_s)) => {
                let hold_us = i64::try_from(hold_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
                Some(self.now().plus_micros(hold_us))
            }
            // It could not be taken back: that is tried again until it can.
            _ => treatment.is_in_force().then(|| self.now()),
        };
        let stands = record.until.is_some();
        if stands {
            record.ending = Some(ending);
            record.outcome.clone_from(&reason);
            self.to(&mut record, Step::Standing)?;
        }
        tracing::info!(%action_id, %ending, reason, "transaction ended");
        {
            let mut state = self.state();
            let mut entry = Entry::new(&record.proposal, &record.target_key, ActionStage::Ended, reason);
            (entry.ending, entry.before, entry.after) = (Some(ending), record.before.clone(), after);
            self.record(&mut state, entry)?;
        }
        metrics::ending(ending);
        self.at("ended")?;
        let mut state = self.state();
        if stands {
            state.standing.push(record);
        } else {
            state.journal.remove(action_id)?;
        }
        Ok(())
    }

    /// Measures until it helped or the deadline is over.
    fn measure(&self, record: &Record) -> Result<Reading, Stop> {
        let deadline = Instant::now() + Duration::from_secs(record.verify_deadline_s);
        loop {
            let reading = record.plan.treatment().verify(&self.inner.host);
            if reading.truth == Truth::Yes || Instant::now() >= deadline {
                return Ok(reading);
            }
            if self.inner.closing.load(Ordering::SeqCst) {
                return Err(Stop::Closing);
            }
            std::thread::sleep(VERIFY_PAUSE);
        }
    }

    pub(super) fn to(&self, record: &mut Record, step: Step) -> Result<(), Stop> {
        record.step = step;
        Ok(self.state().journal.write(record)?)
    }

    pub(super) fn step(
        &self,
        record: &Record,
        stage: ActionStage,
        reason: String,
        after: &str,
    ) -> Result<(), Stop> {
        let mut entry = Entry::new(&record.proposal, &record.target_key, stage, reason);
        (entry.before, entry.after) = (record.before.clone(), after.to_owned());
        self.record(&mut self.state(), entry)
    }

    fn at(&self, point: &'static str) -> Result<(), Stop> {
        Ok(self.inner.interrupt.at(point)?)
    }
}

fn unmet(reading: &Reading) -> String {
    let how = if reading.truth == Truth::No {
        "does not hold"
    } else {
        "cannot be seen"
    };
    format!(
        "{}: what the finding says {how}: {}",
        Guard::Precondition,
        reading.detail
    )
}

impl Reading {
    fn failed(reason: String) -> Self {
        Self {
            truth: Truth::No,
            detail: reason,
            measured: serde_json::json!({}),
        }
    }
}
