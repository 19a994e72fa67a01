//! Writing to the ledger, and remembering what guards need of it.

use fleetmend_event::TimeMicros;
use fleetmend_event::healer::Proposal;
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionEvent, ActionStage};

use super::known::Known;
use super::time::floor_after;
use super::{Healer, State};
use crate::error::Stop;
use crate::history::{Attempt, History};
use crate::ledger::{Body, Kind, LedgerError};
use crate::metrics;

/// Characters of a reason or a target that are kept: part of them is the agent's text, and a ledger line is
/// bounded.
const TEXT_CHARS_MAX: usize = 1000;
/// Bytes of a measurement that are kept; all of ours are far below.
const MEASURED_BYTES_MAX: usize = 24 * 1024;

/// One step to be recorded.
pub(super) struct Entry<'a> {
    pub(super) proposal: &'a Proposal,
    pub(super) target_key: &'a str,
    pub(super) stage: ActionStage,
    pub(super) ending: Option<Ending>,
    pub(super) reason: String,
    pub(super) before: String,
    pub(super) after: String,
}

impl<'a> Entry<'a> {
    pub(super) fn new(
        proposal: &'a Proposal,
        target_key: &'a str,
        stage: ActionStage,
        reason: impl Into<String>,
    ) -> Self {
        let empty = || "{}".to_owned();
        Self {
            proposal,
            target_key,
            stage,
            ending: None,
            reason: reason.into(),
            before: empty(),
            after: empty(),
        }
    }
}

impl Healer {
    /// Writes a step to the ledger; it is durable when this returns.
    pub(super) fn record(&self, state: &mut State, entry: Entry<'_>) -> Result<(), Stop> {
        let time = self.now_of(state);
        let proposal = entry.proposal;
        let policy_version = state.policy.current().map_or(0, |policy| policy.version);
        let mut body = Body::note(Kind::Action, policy_version, String::new());
        body.note = None;
        body.action_id = Some(proposal.action_id);
        body.finding_id = Some(proposal.finding.finding_id);
        body.remedy = Some(proposal.remedy.name().to_owned());
        body.target = Some(entry.target_key.to_owned());
        body.stage = Some(entry.stage);
        body.ending = entry.ending;
        let event = ActionEvent {
            time,
            action_id: proposal.action_id,
            finding_id: proposal.finding.finding_id,
            remedy: proposal.remedy.name().to_owned(),
            target: shortened(proposal.remedy.target(), TEXT_CHARS_MAX),
            stage: entry.stage,
            ending: entry.ending,
            reason: shortened(entry.reason, TEXT_CHARS_MAX),
            before: bounded(entry.before),
            after: bounded(entry.after),
            asserted_by_agent: false,
            ledger_index: 0,
        };
        self.append(state, time, body, Some(event)).map_err(Stop::Ledger)
    }

    pub(super) fn note(&self, kind: Kind, note: String) {
        let mut state = self.state();
        let (time, version) = (
            self.now_of(&state),
            state.policy.current().map_or(0, |policy| policy.version),
        );
        match self.append(&mut state, time, Body::note(kind, version, note), None) {
            // That was said when it was given up; a note does nothing that would have to be recorded.
            Ok(()) | Err(LedgerError::GivenUp(_)) => {}
            Err(error) => tracing::error!(%error, "ledger entry could not be written"),
        }
    }

    pub(super) fn append(
        &self,
        state: &mut State,
        time: TimeMicros,
        body: Body,
        event: Option<ActionEvent>,
    ) -> Result<(), LedgerError> {
        let State {
            ledger,
            history,
            known,
            ..
        } = state;
        let open = match ledger {
            Ok(open) => open,
            Err(reason) => return Err(LedgerError::GivenUp(reason.clone())),
        };
        if let Err(error) = open.append(time, body.clone(), event) {
            if !error.may_pass() {
                tracing::error!(%error, "ledger is given up: nothing more will be done");
                *ledger = Err(error.to_string());
            }
            return Err(error);
        }
        metrics::ledger_entry();
        let next = open.next_index();
        remember(history, known, time, &body);
        state.time_floor = floor_after(state.time_floor, body.kind, time);
        self.inner.next.send_replace(next);
        Ok(())
    }
}

pub(super) fn remember(history: &mut History, known: &mut Known, time: TimeMicros, body: &Body) {
    if body.kind == Kind::Clock {
        history.set_back(time);
    }
    let (Some(action_id), Some(stage)) = (body.action_id, body.stage) else {
        return;
    };
    match stage {
        ActionStage::Journalled => {
            known.insert(action_id, true, "taken up before");
            let remedy = body.remedy.clone().unwrap_or_default();
            let target_key = body.target.clone().unwrap_or_default();
            history.begin(Attempt {
                action_id,
                time,
                remedy,
                target_key,
                ending: None,
            });
        }
        ActionStage::Ended => {
            if let Some(ending) = body.ending {
                history.end(action_id, ending);
            }
        }
        ActionStage::Refused | ActionStage::WouldAct => known.insert(action_id, false, "decided before"),
        _ => {}
    }
}

fn shortened(text: String, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => text
            .get(..end)
            .map_or_else(String::new, |start| format!("{start}…")),
        None => text,
    }
}

fn bounded(measured: String) -> String {
    if measured.len() <= MEASURED_BYTES_MAX {
        measured
    } else {
        r#"{"too_long":true}"#.to_owned()
    }
}
