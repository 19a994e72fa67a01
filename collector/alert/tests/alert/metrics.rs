use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Fact, Lane, MetricFrame, SeriesKey, TimeMicros};

use crate::testbed::{Testbed, quick};

fn memory(value: f64) -> Fact {
    let series = SeriesKey::new(
        "system.memory.utilization",
        "1",
        [("system.memory.state", "used")],
    );
    let other = SeriesKey::new(
        "system.memory.utilization",
        "1",
        [("system.memory.state", "free")],
    );
    let frame = MetricFrame {
        time: TimeMicros::now(),
        series: vec![series, other].into(),
        values: vec![value, 1.0],
    };
    Fact::from(frame)
}

const RULE: &str = "[[metrics]]
name = 'memory'
metric = 'system.memory.utilization'
labels = { 'system.memory.state' = 'used' }
agg = 'last'
window = '1m'
op = '>'
value = 0.9
for = '300ms'
";

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_crossed_pages_and_resolves() {
    let testbed = Testbed::start_with(quick(), |_| RULE.to_owned()).await;
    testbed.add(vec![memory(0.5)]).await;
    testbed.add(vec![memory(0.95)]).await;
    let alert = testbed.reaches("firing").await;
    assert_eq!((alert.value, alert.host_id), (Some(0.95), Some(testbed.host)));
    testbed.add(vec![memory(0.2)]).await;
    testbed.reaches("resolved").await;
    let messages = testbed.accepted(2).await;
    assert!(
        messages[0].body["alert"]["summary"]
            .as_str()
            .unwrap()
            .contains("0.95"),
        "{}",
        messages[0].body
    );
    assert_eq!(messages[1].body["event"], "resolved");
    testbed.add(vec![memory(0.99)]).await;
    testbed.accepted(3).await;
    assert_eq!(testbed.alerts().await.len(), 2, "it fires anew as another alert");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_makes_a_limit_unknown() {
    let testbed = Testbed::start_with(quick(), |_| RULE.to_owned()).await;
    let now = TimeMicros::now();
    let gap = Gap {
        time: now,
        table: "metrics".to_owned(),
        lane: Lane::Metrics,
        from_time: now.plus_millis(-1_000),
        to_time: now,
        count: 1,
        exactness: Exactness::Exact,
        stage: GapStage::Collect,
        reason: "ring_full".to_owned(),
    };
    testbed.add(vec![gap.into(), memory(0.99)]).await;
    testbed.settled().await;
    let titles: Vec<String> = testbed
        .alerts()
        .await
        .into_iter()
        .map(|alert| alert.title)
        .collect();
    assert_eq!(
        titles,
        ["the last of all"],
        "the metric neither fires nor is pending"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fires_by_a_rule_that_is_removed_is_closed_and_told() {
    let mut testbed = Testbed::start_with(quick(), |_| RULE.to_owned()).await;
    testbed.add(vec![memory(0.95)]).await;
    testbed.reaches("firing").await;
    testbed.accepted(1).await;
    testbed.remove_rules();
    testbed.restart().await;
    let alert = testbed.reaches("unknown").await;
    assert!(alert.summary.contains("rule was removed"), "{}", alert.summary);
    let messages = testbed.accepted(2).await;
    assert_eq!(messages[1].body["event"], "resolved", "{}", messages[1].body);
}
