//! Whether a finding pages somebody now: not while a remedy is at work, not when one helped. Values in, values out.

use std::time::Duration;

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionEvent, ActionStage};
use fleetmend_event::{ActionId, TimeMicros};

/// What is known of one healing transaction. Applying a step twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) action_id: ActionId,
    pub(crate) remedy: String,
    pub(crate) target: String,
    pub(crate) refused: bool,
    pub(crate) would_act: bool,
    pub(crate) ending: Option<Ending>,
    pub(crate) reason: String,
    /// When its first step was read here.
    pub(crate) seen_at: TimeMicros,
}

impl Tried {
    pub(crate) fn begin(step: &ActionEvent, now: TimeMicros) -> Self {
        Self {
            action_id: step.action_id,
            remedy: step.remedy.clone(),
            target: step.target.clone(),
            refused: false,
            would_act: false,
            ending: None,
            reason: String::new(),
            seen_at: now,
        }
    }

    pub(crate) fn apply(&mut self, step: &ActionEvent) {
        match step.stage {
            ActionStage::Refused => self.refused = true,
            ActionStage::WouldAct => self.would_act = true,
            _ => {}
        }
        let says_most =
            step.ending.is_some() || matches!(step.stage, ActionStage::Refused | ActionStage::WouldAct);
        if !step.reason.is_empty()
            && (says_most || (self.ending.is_none() && !self.refused && !self.would_act))
        {
            step.reason.clone_into(&mut self.reason);
        }
        self.ending = self.ending.or(step.ending);
    }

    fn helped(&self) -> bool {
        !self.refused && !self.would_act && matches!(self.ending, Some(Ending::Healed | Ending::NoOp))
    }

    fn over(&self) -> bool {
        self.refused || self.would_act || self.ending.is_some()
    }

    /// One line of what was tried.
    pub(crate) fn line(&self) -> String {
        let outcome = match self.ending {
            _ if self.would_act => "would have been done, but the policy says observe only".to_owned(),
            _ if self.refused => "was refused".to_owned(),
            Some(ending) => format!("ended {ending}"),
            None => "has no ending yet".to_owned(),
        };
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", self.reason)
        };
        format!("{} on {} {outcome}{reason}", self.remedy, self.target)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Wait,
    /// This transaction helped.
    Healed(ActionId),
    /// Somebody has to know; why no remedy spared them.
    Fire(String),
}

/// What is to become of a finding that waits since `waiting_since`.
pub(crate) fn decide(
    tried: &[Tried],
    waiting_since: TimeMicros,
    settle: Duration,
    deadline: Duration,
    now: TimeMicros,
) -> Decision {
    if let Some(helped) = tried.iter().find(|tried| tried.helped()) {
        return Decision::Healed(helped.action_id);
    }
    let passed = |since: TimeMicros, duration: Duration| {
        now.micros_since(since) >= i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
    };
    match tried {
        [] if passed(waiting_since, settle) => Decision::Fire("no remedy was proposed".to_owned()),
        [] => Decision::Wait,
        _ => {
            let at_work = tried.iter().filter(|tried| !tried.over());
            let waiting = at_work.clone().any(|tried| !passed(tried.seen_at, deadline));
            if waiting {
                return Decision::Wait;
            }
            let lines: Vec<String> = tried.iter().map(Tried::line).collect();
            Decision::Fire(lines.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::FindingId;
    use proptest::prelude::*;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(3);
    const DEADLINE: Duration = Duration::from_secs(60);

    fn step(stage: ActionStage, ending: Option<Ending>) -> ActionEvent {
        ActionEvent {
            time: TimeMicros(0),
            action_id: ActionId::from_bytes([1; 16]),
            finding_id: FindingId::from_bytes([2; 16]),
            remedy: "kill-process".to_owned(),
            target: "pid 7 (hog)".to_owned(),
            stage,
            ending,
            reason: "because".to_owned(),
            before: "{}".to_owned(),
            after: "{}".to_owned(),
            asserted_by_agent: false,
            ledger_index: 0,
        }
    }

    fn tried(steps: &[ActionEvent]) -> Tried {
        let mut tried = Tried::begin(&steps[0], TimeMicros(0));
        steps.iter().for_each(|step| tried.apply(step));
        tried
    }

    fn at(tried: &[Tried], seconds: i64) -> Decision {
        decide(
            tried,
            TimeMicros(0),
            SETTLE,
            DEADLINE,
            TimeMicros(seconds * 1_000_000),
        )
    }

    #[test]
    fn a_finding_without_a_remedy_fires_after_it_settled() {
        assert_eq!(at(&[], 2), Decision::Wait);
        assert!(matches!(at(&[], 3), Decision::Fire(_)));
    }

    #[test]
    fn a_remedy_at_work_is_waited_for_until_its_deadline() {
        let running = tried(&[
            step(ActionStage::Proposed, None),
            step(ActionStage::Applied, None),
        ]);
        assert_eq!(at(std::slice::from_ref(&running), 59), Decision::Wait);
        let Decision::Fire(why) = at(&[running], 60) else {
            panic!("does not fire")
        };
        assert!(
            why.contains("kill-process on pid 7 (hog) has no ending yet"),
            "{why}"
        );
    }

    #[test]
    fn what_helped_pages_nobody_and_what_did_not_does_at_once() {
        let ended = |ending| [tried(&[step(ActionStage::Ended, Some(ending))])];
        assert!(matches!(at(&ended(Ending::Healed), 1), Decision::Healed(_)));
        assert!(matches!(at(&ended(Ending::NoOp), 1), Decision::Healed(_)));
        for ending in [Ending::Reverted, Ending::FailedSafe, Ending::Unknown] {
            assert!(matches!(at(&ended(ending), 1), Decision::Fire(_)), "{ending}");
        }
        for stage in [ActionStage::Refused, ActionStage::WouldAct] {
            let with_no_op = [tried(&[
                step(stage, None),
                step(ActionStage::Ended, Some(Ending::NoOp)),
            ])];
            assert!(matches!(at(&with_no_op, 1), Decision::Fire(_)), "{stage}");
        }
    }

    fn any_step() -> impl Strategy<Value = ActionEvent> {
        let stage = prop::sample::select(ActionStage::ALL);
        let ending = prop::option::of(prop::sample::select(Ending::ALL));
        (stage, ending).prop_map(|(stage, ending)| step(stage, ending))
    }

    proptest! {
        #[test]
        fn reading_rows_again_changes_nothing(steps in prop::collection::vec(any_step(), 1..12)) {
            let once = tried(&steps);
            let twice: Vec<ActionEvent> = steps.iter().chain(&steps).cloned().collect();
            let again = tried(&twice);
            prop_assert_eq!(once.ending, again.ending);
            prop_assert_eq!((once.refused, once.would_act), (again.refused, again.would_act));
        }

        #[test]
        fn nothing_waits_beyond_its_deadline(steps in prop::collection::vec(any_step(), 1..12)) {
            prop_assert_ne!(at(&[tried(&steps)], 60), Decision::Wait);
        }
    }
}
