//! Groups of Prometheus' files: their order, their interval, and rules of theirs that fail.

use std::sync::Arc;

use collector_alert::PromQuery;
use fleetmend_config::HumanDuration;
use fleetmend_event::TimeMicros;
use fleetmend_testkit::{TestControl, wait_for};

use crate::promql::{Said, states};
use crate::testbed::{DEADLINE, Testbed, quick};

const FILE: &str = "groups:
- name: load
  interval: 1s
  query_offset: 2s
  rules:
  - alert: Before
    expr: other > 1
  - record: job:load:sum
    expr: sum by (job) (load)
  - alert: After
    expr: job:load:sum > 1
";

/// `metrics_every` is a tenth of the group's interval.
async fn with(said: &Arc<Said>, file: &str) -> Testbed {
    let mut config = quick();
    config.record_again_after = HumanDuration::from_secs(0);
    let evaluator: Arc<dyn PromQuery> = said.clone();
    let control = TestControl::new().unwrap();
    Testbed::start_evaluating(control, config, |_| String::new(), (file, Some(evaluator))).await
}

/// Times at which this was asked or recorded.
fn times(said: &Said, what: &str) -> Vec<TimeMicros> {
    let told = said.told.lock();
    let of = told.iter().filter(|(told, _)| told == what);
    of.map(|(_, time)| *time).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_evaluated_on_its_interval_and_in_its_order() {
    let said = Arc::new(Said::default());
    said.say("sum by (job) (load)", &[(&[("job", "a")], 2.0)]);
    let testbed = with(&said, FILE).await;
    let asked = async || times(&said, "job:load:sum > 1").len();
    wait_for(DEADLINE, asked, |count| *count >= 4).await.unwrap();
    testbed.stop().await;
    let told = said.told.lock().clone();
    let judged = times(&said, "job:load:sum > 1");
    for pair in judged.windows(2) {
        let apart = pair[1].micros_since(pair[0]);
        assert!(apart >= 1_000_000 && apart % 1_000_000 == 0, "{judged:?}");
    }
    let order = [
        "other > 1",
        "sum by (job) (load)",
        "job:load:sum",
        "job:load:sum > 1",
    ];
    for time in judged {
        let at_time: Vec<&str> = told
            .iter()
            .filter(|(_, told)| *told == time)
            .map(|(what, _)| what.as_str())
            .collect();
        assert_eq!(at_time, order, "what is recorded is there for the rules after it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_over_a_series_that_cannot_be_recorded_is_not_judged_and_others_are() {
    let said = Arc::new(Said::default());
    said.say("sum by (job) (load)", &[(&[("job", "a")], 2.0)]);
    said.say("job:load:sum > 1", &[(&[("job", "a")], 2.0)]);
    let testbed = with(&said, FILE).await;
    let firing = |states: &Vec<String>| *states == ["firing"];
    let of = async |rule: &str| states(&testbed, rule).await;
    wait_for(DEADLINE, async || of("After").await, firing)
        .await
        .unwrap();

    // The store answers the recording rule no more, and its series has gone stale.
    said.away.lock().insert("sum by (job) (load)".to_owned());
    let fault = async || {
        let groups = testbed.alerting.rule_groups().await.unwrap();
        groups[0].rules[2].fault.clone().unwrap_or_default()
    };
    wait_for(DEADLINE, fault, |fault| fault.contains("could not be recorded"))
        .await
        .unwrap();
    said.say("job:load:sum > 1", &[]);
    said.say("other > 1", &[(&[("job", "b")], 3.0)]);
    wait_for(DEADLINE, async || of("Before").await, firing)
        .await
        .unwrap();
    assert_eq!(of("After").await, ["firing"], "whether it is over is not known");

    said.away.lock().clear();
    let over = |states: &Vec<String>| *states == ["resolved"];
    wait_for(DEADLINE, async || of("After").await, over)
        .await
        .unwrap();
    // What was missed meanwhile was made up for, each time once.
    testbed.stop().await;
    let mut recorded = times(&said, "job:load:sum");
    recorded.dedup();
    for pair in recorded.windows(2) {
        assert_eq!(pair[1].micros_since(pair[0]), 1_000_000, "{recorded:?}");
    }
}

const LIMITED: &str = "groups:
- name: loud
  interval: 1s
  limit: 1
  rules:
  - alert: Loud
    expr: loud > 1
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_gives_more_alerts_than_its_group_may_says_so() {
    let said = Arc::new(Said::default());
    said.say("loud > 1", &[(&[("n", "1")], 2.0), (&[("n", "2")], 2.0)]);
    let testbed = with(&said, LIMITED).await;
    let fault = async || {
        let groups = testbed.alerting.rule_groups().await.unwrap();
        groups[0].rules[0].fault.clone().unwrap_or_default()
    };
    let told = wait_for(DEADLINE, fault, |fault| !fault.is_empty())
        .await
        .unwrap();
    assert_eq!(told, "exceeded limit of 1 with 2 alerts");
    assert!(testbed.alerts().await.is_empty());
}
