use fleetmend_event::table::{FindingKind, Severity, SubjectKind};
use proptest::prelude::*;

use super::*;

const START: TimeMicros = TimeMicros(1_800_000_000_000_000);

fn at(seconds: i64) -> TimeMicros {
    START.plus_millis(seconds * 1000)
}

fn finding(rule: &str, subject_kind: SubjectKind) -> Finding {
    Finding {
        time: START,
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: rule.to_owned(),
        title: "title".to_owned(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: START,
        count: 1,
        score: None,
        subject_kind,
        subject: "stress".to_owned(),
        pid: Some(4711),
        start_boot_ns: Some(10_000_000),
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

fn step(proposal: &Proposal, stage: ActionStage, ending: Option<Ending>, reason: &str) -> ActionEvent {
    ActionEvent {
        time: START,
        action_id: proposal.action_id,
        finding_id: proposal.finding.finding_id,
        remedy: proposal.remedy.name().to_owned(),
        target: proposal.remedy.target(),
        stage,
        ending,
        reason: reason.to_owned(),
        before: "{}".to_owned(),
        after: "{}".to_owned(),
        asserted_by_agent: false,
        ledger_index: 0,
    }
}

fn book_with(finding: &Finding) -> (Book, Config) {
    let config = Config::default();
    let mut book = Book::default();
    book.note(finding, &config, START);
    (book, config)
}

#[test]
fn a_finding_is_proposed_once_while_under_way() {
    let hog = finding("runaway-process", SubjectKind::Process);
    let (mut book, config) = book_with(&hog);
    let proposals = book.due(&config, START);
    assert_eq!(proposals.len(), 1);
    assert_eq!(proposals[0].remedy.name(), "throttle-process");
    assert_eq!(proposals[0].not_after, at(60));
    book.note(&hog, &config, at(1));
    assert!(book.due(&config, at(2)).is_empty());
    book.unsent(proposals[0].action_id, at(3));
    assert_eq!(
        book.due(&config, at(3)).len(),
        1,
        "what was not sent is due again"
    );
}

#[test]
fn killing_is_proposed_only_after_throttling_did_not_help_or_is_not_to_be_had() {
    for (stage, ending, reason) in [
        (ActionStage::Ended, Some(Ending::Reverted), "did not help"),
        (ActionStage::Ended, Some(Ending::FailedSafe), "could not"),
        (ActionStage::Refused, None, "not-applicable: no cpu controller"),
        (
            ActionStage::Refused,
            None,
            "grant: policy 3 does not grant throttle-process",
        ),
    ] {
        let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
        let first = book.due(&config, START).remove(0);
        book.step(&step(&first, stage, ending, reason), at(1));
        let second = book.due(&config, at(1)).remove(0);
        assert_eq!(second.remedy.name(), "kill-process", "{reason}");
        book.step(
            &step(&second, ActionStage::Refused, None, "grant: not granted"),
            at(2),
        );
        assert!(book.due(&config, at(500)).is_empty());
        assert_eq!(book.due(&config, at(700))[0].remedy.name(), "throttle-process");
    }
}

#[test]
fn killing_is_not_proposed_where_throttling_is_refused_for_the_target() {
    for reason in [
        "scope: policy 3 grants throttle-process, but not on cc1",
        "protected: init",
        "plan: throttled already",
    ] {
        let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
        let first = book.due(&config, START).remove(0);
        book.step(&step(&first, ActionStage::Refused, None, reason), at(1));
        assert!(book.due(&config, at(2)).is_empty(), "{reason}");
        assert_eq!(
            book.due(&config, at(700))[0].remedy.name(),
            "throttle-process",
            "{reason}"
        );
    }
}

#[test]
fn what_no_policy_grants_is_refused_once_and_then_one_row_a_finding() {
    let refuse = |book: &mut Book, proposal: &Proposal| {
        book.step(&step(proposal, ActionStage::Refused, None, "grant: no"), at(1));
    };
    let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
    for remedy in ["throttle-process", "kill-process"] {
        let proposal = book.due(&config, at(1)).remove(0);
        assert_eq!(proposal.remedy.name(), remedy);
        refuse(&mut book, &proposal);
    }
    book.note(&finding("runaway-process", SubjectKind::Process), &config, at(1));
    let proposal = book.due(&config, at(1)).remove(0);
    assert_eq!(proposal.remedy.name(), "throttle-process");
    refuse(&mut book, &proposal);
    assert!(book.due(&config, at(2)).is_empty());

    // With a policy that grants killing only, it is proposed at once from the second finding on.
    let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
    let proposal = book.due(&config, at(1)).remove(0);
    refuse(&mut book, &proposal);
    assert_eq!(book.due(&config, at(1))[0].remedy.name(), "kill-process");
    book.note(&finding("runaway-process", SubjectKind::Process), &config, at(1));
    assert_eq!(book.due(&config, at(1))[0].remedy.name(), "kill-process");
}

#[test]
fn what_was_only_observed_is_healed_once_the_policy_says_so() {
    for (stage, reason) in [
        (
            ActionStage::WouldAct,
            "policy 1 says observe only; would throttle",
        ),
        (ActionStage::Refused, "kill-switch: acting is stopped"),
    ] {
        let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
        let (mut now, mut proposed) = (START, 0);
        for _ in 0..1000 {
            if let Some(proposal) = book.due(&config, now).pop() {
                proposed += 1;
                assert_eq!(proposal.remedy.name(), "throttle-process");
                book.step(&step(&proposal, stage, None, reason), now);
            }
            now = later(now, REST_S);
        }
        assert!(proposed > TRIES_MAX, "{proposed} in a week: {reason}");
        assert!(proposed < 300, "{proposed} in a week: {reason}");
        for proposal in book.due(&config, now) {
            book.step(&step(&proposal, stage, None, reason), now);
        }
        book.reconsider(now);
        assert_eq!(book.due(&config, now).len(), 1, "{reason}");
    }
}

#[test]
fn another_policy_revives_what_was_given_up_and_not_what_is_a_persons() {
    for (ending, revived) in [(Ending::Reverted, 1), (Ending::Unknown, 0)] {
        let (mut book, config) = book_with(&finding("unit-failed", SubjectKind::Unit));
        let mut now = START;
        for _ in 0..TRIES_MAX * 2 {
            for proposal in book.due(&config, now) {
                book.step(&step(&proposal, ActionStage::Ended, Some(ending), ""), now);
            }
            now = later(now, REST_S);
        }
        assert!(book.due(&config, now).is_empty());
        book.reconsider(now);
        assert_eq!(book.due(&config, now).len(), revived, "{ending}");
    }
}

#[test]
fn another_policy_does_not_propose_twice_what_is_under_way() {
    let (mut book, config) = book_with(&finding("unit-failed", SubjectKind::Unit));
    assert_eq!(book.due(&config, START).len(), 1);
    book.reconsider(at(1));
    assert!(book.due(&config, at(2)).is_empty());
}

#[test]
fn what_healed_rests_and_what_may_pass_is_asked_again_later() {
    let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
    let first = book.due(&config, START).remove(0);
    book.step(
        &step(&first, ActionStage::Refused, None, "cool-down: tried before"),
        at(1),
    );
    assert!(book.due(&config, at(60)).is_empty());
    let second = book.due(&config, at(125)).remove(0);
    assert_eq!(second.remedy.name(), "throttle-process");
    book.step(&step(&second, ActionStage::Applied, None, ""), at(126));
    book.step(
        &step(&second, ActionStage::Ended, Some(Ending::Healed), ""),
        at(130),
    );
    assert!(book.due(&config, at(249)).is_empty());
    assert_eq!(
        book.due(&config, at(251)).len(),
        1,
        "still open after it had healed"
    );
}

#[test]
fn resolved_findings_and_those_without_a_remedy_lead_to_nothing() {
    let mut hog = finding("runaway-process", SubjectKind::Process);
    let (mut book, config) = book_with(&hog);
    hog.state = FindingState::Resolved;
    book.note(&hog, &config, START);
    assert!(book.is_empty());
    for (rule, kind) in [
        ("host-anomaly", SubjectKind::Host),
        ("site-down", SubjectKind::Site),
        ("runaway-process", SubjectKind::Host),
    ] {
        book.note(&finding(rule, kind), &config, START);
    }
    hog.state = FindingState::Open;
    hog.start_boot_ns = None;
    book.note(&hog, &config, START);
    assert!(book.is_empty(), "a pid without its start time names no process");
}

#[test]
fn the_book_is_bounded() {
    let config = Config::default();
    let mut book = Book::default();
    for _ in 0..CASES_MAX + 50 {
        book.note(&finding("unit-failed", SubjectKind::Unit), &config, START);
    }
    assert_eq!(book.len(), CASES_MAX);
}

proptest! {
    #[test]
    fn whatever_the_healer_says_a_finding_is_proposed_a_bounded_number_of_times(
        answers in prop::collection::vec((1_usize..6, 1_i64..2000), 0..60),
    ) {
        let (mut book, config) = book_with(&finding("runaway-process", SubjectKind::Process));
        let (mut now, mut proposed) = (START, 0);
        for (answer, wait_s) in answers {
            let due = book.due(&config, now);
            prop_assert!(due.len() <= 1);
            proposed += due.len();
            if let Some(proposal) = due.first() {
                let (stage, ending, reason) = match answer {
                    1 => (ActionStage::Refused, None, "budget: spent"),
                    2 => (ActionStage::Refused, None, "scope: elsewhere"),
                    3 => (ActionStage::Ended, Some(Ending::Healed), ""),
                    4 => (ActionStage::Ended, Some(Ending::Reverted), ""),
                    _ => (ActionStage::Ended, Some(Ending::Unknown), ""),
                };
                book.step(&step(proposal, stage, ending, reason), now);
            }
            now = now.plus_millis(wait_s * 1000);
        }
        prop_assert!(proposed <= usize::try_from(TRIES_MAX).unwrap());
    }
}
