use fleetmend_event::table::{AuthEventKind, AuthOutcome};

use super::*;
use crate::log::line::Origin;

fn line(identifier: &str, message: &str, time: i64) -> Line {
    Line {
        time: TimeMicros(time),
        source: "journal".into(),
        identifier: identifier.to_owned(),
        unit: None,
        pid: None,
        uid: None,
        priority: Some(6),
        facility: None,
        message: message.to_owned(),
        truncated: false,
        repeats: 1,
        origin: Origin::Claimed,
    }
}

fn row(line: &Line) -> LogRecord {
    LogRecord {
        message: line.message.clone(),
        repeats: line.repeats,
        ..storm(line.identifier.clone(), 0, line.time)
    }
}

#[test]
fn storm_is_bounded_counted_and_told_and_others_go_on() {
    let mut flow = Flow::new(100, 25, 0);
    let mut stored = 0_u64;
    for number in 0..100_000_u64 {
        // Ten seconds of a storm, and a quiet program beside it.
        let now = number * 100;
        let (decision, _) = flow.decide(
            &line("loud", &format!("line {number}"), i64::try_from(number).unwrap()),
            now,
        );
        stored += u64::from(decision == Decision::Store);
        if number % 10_000 == 0 {
            assert_eq!(
                flow.decide(&line("quiet", &format!("line {number}"), 0), now).0,
                Decision::Store
            );
        }
    }
    assert_eq!(
        stored,
        25 * 20 + 25 * 10 - 1,
        "the burst, and the rate for ten seconds"
    );
    let (gap, storms) = flow.tell().unwrap();
    assert_eq!(
        (gap.count, gap.reason.as_str(), gap.table.as_str()),
        (100_000 - stored, "rate_limit", "log_records")
    );
    assert_eq!(gap.exactness, Exactness::Exact);
    assert_eq!(storms.len(), 1);
    assert_eq!(
        (
            storms[0].identifier.as_str(),
            storms[0].repeats,
            storms[0].source.as_str()
        ),
        ("loud", gap.count, "agent")
    );
    assert!(flow.tell().is_none(), "told once");
}

#[test]
fn many_names_share_one_bucket_and_bounded_memory() {
    let mut flow = Flow::new(100, 25, 0);
    let mut stored = 0_u64;
    for number in 0..50_000_u64 {
        let (decision, _) = flow.decide(&line(&format!("name{number}"), "text", 0), number);
        stored += u64::from(decision == Decision::Store);
    }
    assert!(stored <= 100 * 20 + 5, "{stored}");
    assert!(flow.identifiers.len() <= IDENTIFIERS_MAX);
    assert!(flow.is_exhausted(49_999));
    let (gap, storms) = flow.tell().unwrap();
    assert_eq!(gap.count + stored, 50_000, "every line is stored or counted");
    assert!(storms.len() <= STORMS_MAX);
}

#[test]
fn repeats_are_one_row_with_their_count() {
    let mut flow = Flow::new(100, 25, 0);
    let same = line("app", "same", 1);
    assert_eq!(flow.decide(&same, 0), (Decision::Store, None));
    assert_eq!(flow.decide(&same, 1).0, Decision::Hold);
    flow.hold(row(&same), 1);
    for now in 2..1_000 {
        assert_eq!(flow.decide(&same, now).0, Decision::Held);
    }
    assert!(flow.echoes(1_000, false).is_empty());
    let echoes = flow.echoes(ECHO_US + 1, false);
    assert_eq!((echoes.len(), echoes[0].repeats), (1, 999));
    assert_eq!(flow.decide(&same, ECHO_US + 2).0, Decision::Hold);
    flow.hold(row(&same), ECHO_US + 2);
    let (decision, before) = flow.decide(&line("app", "other", 2), ECHO_US + 3);
    assert_eq!(
        (decision, before.map(|row| row.repeats)),
        (Decision::Store, Some(1))
    );
    assert!(flow.tell().is_none(), "a repeat is no loss");
}

fn failure(user: &str) -> AuthEvent {
    AuthEvent {
        time: TimeMicros(1),
        kind: AuthEventKind::Login,
        outcome: AuthOutcome::Failure,
        service: "sshd".to_owned(),
        method: Some("password".to_owned()),
        user: user.to_owned(),
        user_valid: None,
        target_user: None,
        command: None,
        terminal: None,
        remote_address: Some("192.0.2.1".to_owned()),
        remote_port: None,
        key_fingerprint: None,
        pid: None,
        source: "journal".to_owned(),
        repeats: 1,
    }
}

#[test]
fn equal_events_are_sent_at_once_and_then_counted_together() {
    let mut flow = AuthFlow::new(0);
    assert!(flow.take(failure("root"), 0).is_some());
    assert!((1..500).all(|now| flow.take(failure("root"), now).is_none()));
    assert!(flow.take(failure("bob"), 500).is_some());
    assert!(flow.due(999_999, false).is_empty());
    let due = flow.due(1_000_000, false);
    assert_eq!((due.len(), due[0].repeats), (1, 499));
    assert!(flow.take(failure("root"), 1_000_001).is_some());
    assert!(flow.tell().is_none());
}

#[test]
fn flood_of_different_events_is_bounded_and_counted() {
    let mut flow = AuthFlow::new(0);
    let mut sent = 0_u64;
    for number in 0..20_000_u64 {
        sent += u64::from(flow.take(failure(&format!("u{number}")), number).is_some());
    }
    assert!(sent <= AUTH_PER_S * BURST_S + 2, "{sent}");
    assert_eq!(flow.tell().unwrap().count + sent, 20_000);
    assert!(flow.held.len() <= HELD_MAX);
}
