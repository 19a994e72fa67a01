use std::collections::BTreeSet;

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionStage, FindingKind, Severity, SubjectKind};
use fleetmend_event::{ActionId, Fact, HostId};

use crate::testbed::{Testbed, finding, quick, resolved, step};

/// Whom the collector's own facts belong to.
const COLLECTOR: HostId = HostId::from_bytes([0; 16]);

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_without_a_remedy_pages_once_and_resolves_once() {
    let testbed = Testbed::start(quick()).await;
    let site = fleetmend_event::table::Finding {
        kind: FindingKind::Site,
        severity: Severity::Low,
        ..finding("site is down")
    };
    testbed.add(vec![site.clone().into()]).await;
    let alert = testbed.reaches("firing").await;
    assert_eq!(alert.rule, "site-down");
    assert!(
        alert.summary.contains("no remedy was proposed"),
        "{}",
        alert.summary
    );
    // The same finding again, counted up.
    let mut again = site.clone();
    again.time = again.time.plus_micros(1_000);
    again.count = 9;
    testbed.add(vec![again.clone().into()]).await;
    testbed.add(vec![resolved(&again).into()]).await;
    testbed.reaches("resolved").await;
    let messages = testbed.accepted(2).await;
    let events: Vec<&str> = messages
        .iter()
        .map(|message| message.body["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["firing", "resolved"]);
    testbed.settled().await;
    let of_site = |message: &&crate::receiver::Message| message.body["alert"]["title"] == "site is down";
    assert_eq!(testbed.receiver.accepted().iter().filter(of_site).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_healed_pages_nobody() {
    let testbed = Testbed::start(quick()).await;
    let (hog, action) = (finding("runaway"), ActionId::random());
    testbed
        .add(vec![
            hog.clone().into(),
            step(&hog, action, ActionStage::Proposed, None).into(),
        ])
        .await;
    testbed.reaches("waiting").await;
    testbed
        .add(vec![
            step(&hog, action, ActionStage::Ended, Some(Ending::Healed)).into(),
        ])
        .await;
    let alert = testbed.reaches("healed").await;
    assert_eq!(alert.action_id, Some(action));
    assert!(
        alert.summary.contains("kill-process on pid 7 (hog) ended healed"),
        "{}",
        alert.summary
    );
    testbed.add(vec![resolved(&hog).into()]).await;
    testbed.settled().await;
    let titles: Vec<String> = testbed
        .accepted(1)
        .await
        .iter()
        .map(|message| message.body["alert"]["title"].to_string())
        .collect();
    assert!(
        titles.iter().all(|title| !title.contains("runaway")),
        "{titles:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_watched_pages_and_says_what_would_have_been_done() {
    let testbed = Testbed::start(quick()).await;
    let (hog, action) = (finding("runaway"), ActionId::random());
    let watched: Vec<Fact> = vec![
        hog.clone().into(),
        step(&hog, action, ActionStage::Proposed, None).into(),
        step(&hog, action, ActionStage::WouldAct, None).into(),
        step(&hog, action, ActionStage::Ended, Some(Ending::NoOp)).into(),
    ];
    testbed.add(watched).await;
    testbed.reaches("firing").await;
    let message = testbed.accepted(1).await.remove(0);
    assert_eq!(message.body["tried"][0]["would_act"], true, "{}", message.body);
    assert!(
        message.body["alert"]["summary"]
            .as_str()
            .unwrap()
            .contains("observe only"),
        "{}",
        message.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remedy_without_an_ending_pages_at_its_deadline() {
    let testbed = Testbed::start(quick()).await;
    let (hog, action) = (finding("runaway"), ActionId::random());
    testbed
        .add(vec![
            hog.clone().into(),
            step(&hog, action, ActionStage::Applied, None).into(),
        ])
        .await;
    testbed.reaches("waiting").await;
    let alert = testbed.reaches("firing").await;
    assert!(alert.summary.contains("has no ending yet"), "{}", alert.summary);
    let waited = alert.fired_at.unwrap().micros_since(alert.started_at);
    assert!(waited >= 1_900_000, "it waited {waited} µs");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_findings_and_our_own_page_nobody() {
    let testbed = Testbed::start(quick()).await;
    let mut late = finding("late");
    late.time = late.time.plus_millis(-11 * 60_000);
    let mut own = finding("our own");
    own.subject_kind = SubjectKind::Agent;
    own.rule = "alert-delivery".to_owned();
    let minor = fleetmend_event::table::Finding {
        severity: Severity::Medium,
        ..finding("minor")
    };
    testbed.add(vec![late.into(), own.into(), minor.into()]).await;
    let mut of_alerting = finding("of the collector");
    of_alerting.rule = "alert-evaluation".to_owned();
    testbed
        .store
        .append_for(COLLECTOR, vec![of_alerting.into()])
        .await
        .unwrap();
    testbed.settled().await;
    let mut alerts: Vec<(String, String)> = testbed
        .alerts()
        .await
        .into_iter()
        .map(|alert| (alert.title, alert.state))
        .collect();
    alerts.sort();
    let expected = [("late", "late"), ("the last of all", "firing")];
    assert_eq!(
        alerts,
        expected.map(|(title, state)| (title.to_owned(), state.to_owned()))
    );
    let messages = testbed.accepted(1).await;
    assert_eq!(messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_collector_finds_of_itself_pages_like_any_other() {
    let testbed = Testbed::start(quick()).await;
    let mut overdue = finding("the newest backup of the collector is too old");
    overdue.rule = "backup-overdue".to_owned();
    overdue.subject_kind = SubjectKind::Filesystem;
    let of_collector = async |row: fleetmend_event::table::Finding| {
        let stored = testbed.store.append_for(COLLECTOR, vec![row.into()]);
        stored.await.unwrap();
    };
    of_collector(overdue.clone()).await;
    let alert = testbed.reaches("firing").await;
    assert_eq!(
        (alert.rule.as_str(), alert.host_id),
        ("high-severity", Some(COLLECTOR))
    );
    of_collector(resolved(&overdue)).await;
    testbed.reaches("resolved").await;
    let messages = testbed.accepted(2).await;
    assert_eq!(messages[0].body["alert"]["title"], overdue.title);
    assert_eq!(messages[1].body["event"], "resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clock_of_a_host_makes_nothing_late_and_nothing_fresh() {
    const YEAR_US: i64 = 365 * 24 * 3_600 * 1_000_000;
    let testbed = Testbed::start(quick()).await;
    for (ahead, name) in [(-YEAR_US, "behind"), (YEAR_US, "ahead")] {
        let mut now = finding(&format!("now, {name}"));
        now.time = now.time.plus_micros(ahead);
        let mut old = finding(&format!("old, {name}"));
        old.time = old.time.plus_millis(-11 * 60_000).plus_micros(ahead);
        testbed.add_of_clock(&[now, old], ahead).await;
    }
    testbed.settled().await;
    let mut alerts: Vec<(String, String)> = testbed
        .alerts()
        .await
        .into_iter()
        .map(|alert| (alert.title, alert.state))
        .collect();
    alerts.sort();
    let expected = [
        ("now, ahead", "firing"),
        ("now, behind", "firing"),
        ("old, ahead", "late"),
        ("old, behind", "late"),
        ("the last of all", "firing"),
    ];
    assert_eq!(
        alerts,
        expected.map(|(title, state)| (title.to_owned(), state.to_owned()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_or_doubled_over_restarts() {
    let mut testbed = Testbed::start(quick()).await;
    let mut titles = Vec::new();
    for round in 0..3 {
        for index in 0..5 {
            let title = format!("finding {round}.{index}");
            testbed.add(vec![finding(&title).into()]).await;
            titles.push(title);
        }
        testbed.stop().await;
        // What comes while nobody looks.
        let title = format!("finding {round} in between");
        testbed.add(vec![finding(&title).into()]).await;
        titles.push(title);
        testbed.restart().await;
    }
    let messages = testbed.accepted(titles.len()).await;
    testbed.settled().await;
    let mut paged: Vec<String> = testbed
        .receiver
        .accepted()
        .iter()
        .map(|message| message.body["alert"]["title"].as_str().unwrap().to_owned())
        .filter(|title| title != "the last of all")
        .collect();
    paged.sort();
    titles.sort();
    assert_eq!(paged, titles);
    assert!(messages.len() <= titles.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_silences_nobody() {
    let testbed = Testbed::start(quick()).await;
    testbed
        .add_garbled(&[finding("before"), finding("garbled"), finding("after")])
        .await;
    testbed.settled().await;
    let titles: BTreeSet<String> = testbed
        .alerts()
        .await
        .into_iter()
        .map(|alert| alert.title)
        .collect();
    assert_eq!(
        titles,
        BTreeSet::from(["before", "after", "the last of all"].map(str::to_owned))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_is_over_when_its_host_says_so_whatever_its_clock_says() {
    let testbed = Testbed::start(quick()).await;
    let mut ahead = finding("the clock is an hour ahead");
    ahead.time = ahead.time.plus_millis(3_600_000);
    testbed.add(vec![ahead.clone().into()]).await;
    testbed.reaches("firing").await;
    let corrected = fleetmend_event::table::Finding {
        time: fleetmend_event::TimeMicros::now(),
        state: fleetmend_event::table::FindingState::Resolved,
        ..ahead
    };
    testbed.add(vec![corrected.into()]).await;
    testbed.reaches("resolved").await;
    testbed.settled().await;
    let states: BTreeSet<String> = testbed
        .alerts()
        .await
        .into_iter()
        .map(|alert| alert.state)
        .collect();
    assert_eq!(
        states,
        BTreeSet::from(["resolved", "firing"].map(str::to_owned)),
        "the first row is not read anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_floods_is_told_once_and_harms_no_other() {
    let config = collector_alert::AlertConfig {
        alerts_per_host_max: 3,
        ..quick()
    };
    let testbed = Testbed::start(config).await;
    testbed
        .add((0..40).map(|_| finding("one of many").into()).collect())
        .await;
    let elsewhere = vec![finding("elsewhere").into()];
    testbed
        .store
        .append_for(HostId::random(), elsewhere)
        .await
        .unwrap();
    let messages = testbed.accepted(5).await;
    let mut titles: Vec<&str> = messages
        .iter()
        .map(|message| message.body["alert"]["title"].as_str().unwrap())
        .collect();
    titles.sort_unstable();
    let flood = "a host has more alerts than are told";
    assert_eq!(
        titles,
        [flood, "elsewhere", "one of many", "one of many", "one of many"]
    );
    let alerts = testbed.alerts().await;
    assert_eq!(alerts.len(), 5);
    let flood = alerts.iter().find(|alert| alert.title == flood).unwrap();
    assert_eq!((flood.value, flood.host_id), (Some(37.0), Some(testbed.host)));
}
