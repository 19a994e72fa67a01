//! Findings counted, restored, resolved and evicted.

use serde_json::json;

use super::*;

fn notice(rule: &str, subject: &str) -> Notice {
    Notice {
        kind: FindingKind::Sigma,
        rule: rule.into(),
        title: "t".into(),
        severity: Severity::High,
        score: None,
        subject: Subject {
            process: Some((7, 7)),
            ..Subject::named(SubjectKind::Process, subject)
        },
        techniques: vec![],
        tactics: vec![],
        factors: json!([]),
        evidence: json!({}),
    }
}

#[test]
fn many_equal_notices_are_one_finding_with_few_rows() {
    let mut tracker = FindingTracker::default();
    let rows: Vec<Finding> = (0..42_309)
        .filter_map(|time| tracker.notice(TimeMicros(time), notice("r", "sh")))
        .collect();
    assert_eq!(
        rows.iter().map(|row| row.count).collect::<Vec<_>>(),
        [1, 10, 100, 1_000, 10_000]
    );
    assert!(
        rows.windows(2)
            .all(|pair| pair[0].finding_id == pair[1].finding_id)
    );
}

#[test]
fn graver_act_of_the_same_behaviour_raises_the_open_finding() {
    let mut tracker = FindingTracker::default();
    let behaviour = |severity, title: &str| Notice {
        kind: FindingKind::Behaviour,
        severity,
        title: title.into(),
        ..notice("r", "sh")
    };
    let subject = behaviour(Severity::Low, "").subject;
    let first = tracker
        .notice(TimeMicros(1), behaviour(Severity::Low, "low"))
        .unwrap();
    assert!(tracker.count_up(TimeMicros(2), "r", &subject, Severity::Low));
    assert!(!tracker.count_up(TimeMicros(2), "r", &subject, Severity::High));
    let raised = tracker
        .notice(TimeMicros(3), behaviour(Severity::High, "high"))
        .unwrap();
    assert_eq!(
        (
            raised.finding_id,
            raised.severity,
            raised.title.as_str(),
            raised.count
        ),
        (first.finding_id, Severity::High, "high", 3)
    );
    assert!(
        tracker
            .notice(TimeMicros(4), behaviour(Severity::Low, "low"))
            .is_none()
    );
    assert_eq!(tracker.findings()[0].severity, Severity::High);
}

#[test]
fn quiet_finding_is_resolved_once_and_opens_anew_as_another() {
    let mut tracker = FindingTracker::default();
    let first = tracker.notice(TimeMicros(10), notice("r", "sh")).unwrap();
    assert!(
        tracker
            .resolve_quiet(TimeMicros(20), FindingKind::Sigma, TimeMicros(10))
            .is_empty()
    );
    let gone = tracker.resolve_quiet(TimeMicros(30), FindingKind::Sigma, TimeMicros(11));
    assert_eq!(
        (gone.len(), gone[0].state, gone[0].finding_id),
        (1, FindingState::Resolved, first.finding_id)
    );
    assert_ne!(
        tracker
            .notice(TimeMicros(40), notice("r", "sh"))
            .unwrap()
            .finding_id,
        first.finding_id
    );
}

#[test]
fn finding_of_a_clock_that_was_ahead_is_resolved_when_quiet() {
    const YEAR: i64 = 365 * 86_400 * 1_000_000;
    let mut tracker = FindingTracker::default();
    tracker.notice(TimeMicros(YEAR), notice("r", "sh")).unwrap();
    let quiet = |tracker: &mut FindingTracker, now: i64| {
        tracker.resolve_quiet(TimeMicros(now), FindingKind::Sigma, TimeMicros(now - 600))
    };
    assert!(quiet(&mut tracker, 1_000).is_empty(), "its time begins now");
    assert_eq!(quiet(&mut tracker, 2_000).len(), 1);
}

#[test]
fn open_findings_are_bounded() {
    let mut tracker = FindingTracker::default();
    for index in 0..FINDINGS_MAX + 100 {
        tracker.notice(
            TimeMicros(i64::try_from(index).unwrap()),
            notice("r", &index.to_string()),
        );
    }
    assert_eq!(tracker.open.len(), FINDINGS_MAX);
    let subject = |index: usize| Subject {
        process: None,
        ..Subject::named(SubjectKind::Process, &index.to_string())
    };
    assert!(!tracker.is_open("r", &subject(0)) && tracker.is_open("r", &subject(FINDINGS_MAX + 99)));
    let evicted = tracker.take_evicted();
    assert_eq!(evicted.len(), 100, "each that made room has a last row");
    assert!(evicted.iter().all(|row| row.state == FindingState::Resolved));
    assert!(tracker.take_evicted().is_empty());
}

#[test]
fn finding_of_an_earlier_run_goes_on_when_seen_and_is_resolved_when_not() {
    let mut tracker = FindingTracker::default();
    let threshold = |name: &str| Notice {
        kind: FindingKind::Threshold,
        ..notice("r", name)
    };
    let process = |name: &str| Subject {
        process: Some((7, 7)),
        ..Subject::named(SubjectKind::Process, name)
    };
    for name in ["noticed", "confirmed", "gone"] {
        tracker.notice(TimeMicros(1), threshold(name));
    }
    let sigma = tracker.notice(TimeMicros(1), notice("s", "sh")).unwrap();
    let kept = tracker.findings();

    let mut tracker = FindingTracker::default();
    tracker.restore(kept.clone(), TimeMicros(100));
    assert!(
        tracker
            .resolve_unseen(TimeMicros(150), TimeMicros(100))
            .is_empty()
    );
    assert!(tracker.notice(TimeMicros(110), threshold("noticed")).is_none());
    assert!(tracker.confirm(TimeMicros(110), "r", &process("confirmed")));
    assert!(!tracker.confirm(TimeMicros(110), "r", &process("other")));
    assert!(
        tracker.notice(TimeMicros(110), notice("s", "sh")).is_none(),
        "one finding"
    );
    let resolved = tracker.resolve_unseen(TimeMicros(300), TimeMicros(200));
    let gone = kept.iter().find(|row| row.subject == "gone").unwrap();
    assert_eq!(resolved.len(), 1);
    assert_eq!(
        (resolved[0].finding_id, resolved[0].state),
        (gone.finding_id, FindingState::Resolved)
    );
    let again: Vec<FindingId> = tracker.findings().iter().map(|row| row.finding_id).collect();
    assert!(again.len() == 3 && again.contains(&sigma.finding_id));
}
