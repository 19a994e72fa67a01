//! Rules with expressions, and rules of Prometheus' files, over values that a test says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use collector_alert::{NO_HOST, PromLabels, PromQuery, PromValues, QueryError, Recorded};
use fleetmend_config::HumanDuration;
use fleetmend_event::TimeMicros;
use fleetmend_testkit::{TestControl, wait_for};
use parking_lot::Mutex;

use crate::testbed::{DEADLINE, Testbed, quick};

/// Gives what it was told to, and remembers what was recorded.
#[derive(Default)]
pub(crate) struct Said {
    values: Mutex<BTreeMap<String, PromValues>>,
    pub(crate) recorded: Mutex<BTreeMap<(PromLabels, TimeMicros), Option<f64>>>,
    /// What was asked and recorded, in its order, with the times.
    pub(crate) told: Mutex<Vec<(String, TimeMicros)>>,
    /// What cannot be answered now.
    pub(crate) away: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl PromQuery for Said {
    async fn instant(&self, query: &str, time: TimeMicros) -> Result<PromValues, QueryError> {
        self.told.lock().push((query.to_owned(), time));
        if self.away.lock().contains(query) {
            return Err(QueryError::Unavailable("every turn is taken".to_owned()));
        }
        if query == "broken" {
            return Err(QueryError::Invalid("found duplicate series".to_owned()));
        }
        Ok(self.values.lock().get(query).cloned().unwrap_or_default())
    }

    async fn record(&self, time: TimeMicros, samples: Vec<Recorded>) -> Result<(), QueryError> {
        let mut recorded = self.recorded.lock();
        for sample in samples {
            let name = sample.labels["__name__"].clone();
            self.told.lock().push((name, time));
            recorded.insert((sample.labels, time), sample.value);
        }
        Ok(())
    }
}

impl Said {
    fn series(series: &[(&[(&str, &str)], f64)]) -> Vec<(PromLabels, f64)> {
        let owned = |labels: &[(&str, &str)]| {
            labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<PromLabels>()
        };
        series
            .iter()
            .map(|(labels, value)| (owned(labels), *value))
            .collect()
    }

    pub(crate) fn say(&self, query: &str, series: &[(&[(&str, &str)], f64)]) {
        let values = PromValues {
            series: Self::series(series),
            unknown: BTreeSet::new(),
        };
        self.values.lock().insert(query.to_owned(), values);
    }

    /// Gives no series any more; what is doubted stays so.
    fn empty(&self, query: &str) {
        self.values
            .lock()
            .entry(query.to_owned())
            .or_default()
            .series
            .clear();
    }

    fn doubt(&self, query: &str, hosts: BTreeSet<fleetmend_event::HostId>) {
        self.values.lock().entry(query.to_owned()).or_default().unknown = hosts;
    }
}

const RULE: &str = "[[metrics]]
name = 'busy'
promql = 'cpu > 0.9'
for = '300ms'
annotations = { summary = '{{ $labels.cpu }} is at {{ humanizePercentage $value }}' }
labels = { team = 'infra' }
";

async fn with_rule(said: &Arc<Said>) -> Testbed {
    let evaluator: Arc<dyn PromQuery> = said.clone();
    Testbed::start_evaluating(
        TestControl::new().unwrap(),
        quick(),
        |_| RULE.to_owned(),
        ("", Some(evaluator)),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_gives_a_series_pages_and_resolves() {
    let said = Arc::new(Said::default());
    let testbed = with_rule(&said).await;
    let host = testbed.host.to_string();
    said.say(
        "cpu > 0.9",
        &[(&[("__name__", "cpu"), ("cpu", "cpu0"), ("host_id", &host)], 0.95)],
    );
    let alert = testbed.reaches("firing").await;
    assert_eq!((alert.host_id, alert.value), (Some(testbed.host), Some(0.95)));
    assert_eq!(alert.summary, "cpu0 is at 95%");
    let groups = testbed.alerting.rule_groups().await.unwrap();
    let rule = &groups.iter().find(|group| group.name == "metrics").unwrap().rules[0];
    let alerts = &rule.alerting.as_ref().unwrap().alerts;
    assert_eq!((rule.query.as_str(), alerts.len()), ("cpu > 0.9", 1));
    assert!(alerts[0].firing);
    for (name, value) in [("alertname", "busy"), ("cpu", "cpu0"), ("team", "infra")] {
        assert_eq!(alerts[0].labels[name], value);
    }
    said.say("cpu > 0.9", &[]);
    testbed.reaches("resolved").await;
    let messages = testbed.accepted(2).await;
    assert_eq!(messages[1].body["event"], "resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_neither_fires_nor_resolves() {
    let said = Arc::new(Said::default());
    let testbed = with_rule(&said).await;
    let host = testbed.host.to_string();
    let high: &[(&[(&str, &str)], f64)] = &[(&[("host_id", &host)], 0.95), (&[], 2.0)];
    said.doubt("cpu > 0.9", BTreeSet::from([testbed.host, NO_HOST]));
    said.values.lock().get_mut("cpu > 0.9").unwrap().series = Said::series(high);
    testbed.settled().await;
    assert_eq!(states(&testbed, "busy").await, [""; 0]);

    said.say("cpu > 0.9", high);
    let firing = |states: &Vec<String>| *states == ["firing", "firing"];
    wait_for(DEADLINE, async || states(&testbed, "busy").await, firing)
        .await
        .unwrap();
    said.doubt("cpu > 0.9", BTreeSet::from([testbed.host]));
    said.empty("cpu > 0.9");
    // The one of no host is over; the other is not known to be.
    let over = |states: &Vec<String>| states.iter().any(|state| state == "resolved");
    let seen = wait_for(DEADLINE, async || states(&testbed, "busy").await, over)
        .await
        .unwrap();
    assert_eq!(seen, ["firing", "resolved"]);
}

const FILE: &str = "groups:
- name: cpu
  interval: 1s
  limit: 2
  labels: {source: rules}
  rules:
  - record: job:cpu:avg
    expr: avg by (job) (cpu)
    labels: {env: test}
  - record: too:many
    expr: many
  - record: broken:rule
    expr: broken
  - alert: HighCpu
    expr: job:cpu:avg > 1
    keep_firing_for: 1h
    labels: {severity: critical, team: '{{ $labels.job }}-team'}
    annotations:
      summary: '{{ $labels.job }} at {{ $value }}'
";

async fn with_file(said: &Arc<Said>, again_after: u64) -> Testbed {
    let mut config = quick();
    config.record_again_after = HumanDuration::from_secs(again_after);
    let evaluator: Arc<dyn PromQuery> = said.clone();
    Testbed::start_evaluating(
        TestControl::new().unwrap(),
        config,
        |_| String::new(),
        (FILE, Some(evaluator)),
    )
    .await
}

/// States of the alerts of one rule, those of a host first.
pub(crate) async fn states(testbed: &Testbed, rule: &str) -> Vec<String> {
    let mut alerts = testbed.alerts().await;
    alerts.retain(|alert| alert.rule == rule);
    alerts.sort_by_key(|alert| alert.host_id.is_none());
    alerts.into_iter().map(|alert| alert.state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_rules_record_and_end_their_series() {
    let said = Arc::new(Said::default());
    said.say(
        "avg by (job) (cpu)",
        &[(&[("job", "a")], 0.5), (&[("job", "b")], f64::NAN)],
    );
    said.say(
        "many",
        &[(&[("n", "1")], 1.0), (&[("n", "2")], 1.0), (&[("n", "3")], 1.0)],
    );
    let testbed = with_file(&said, 5).await;
    let series = |job: &str| {
        PromLabels::from(
            [
                ("__name__", "job:cpu:avg"),
                ("env", "test"),
                ("job", job),
                ("source", "rules"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    };
    let of = |job: &str| -> Vec<(TimeMicros, Option<f64>)> {
        let recorded = said.recorded.lock();
        let of_series = recorded.iter().filter(|((labels, _), _)| *labels == series(job));
        of_series.map(|((_, time), value)| (*time, *value)).collect()
    };
    wait_for(DEADLINE, async || of("a").len(), |count| *count >= 2)
        .await
        .unwrap();
    let samples = of("a");
    assert!(
        samples
            .windows(2)
            .all(|pair| pair[1].0.micros_since(pair[0].0) % 1_000_000 == 0)
    );
    assert!(of("b").iter().all(|(_, value)| value.is_some_and(f64::is_nan)));

    said.say("avg by (job) (cpu)", &[(&[("job", "a")], 0.75)]);
    wait_for(
        DEADLINE,
        async || of("b"),
        |samples| samples.iter().any(|(_, value)| value.is_none()),
    )
    .await
    .unwrap();
    // Five seconds after a time it is evaluated again, with what is known then.
    let last = samples[samples.len() - 1].0;
    let changed = async || {
        of("a")
            .into_iter()
            .find(|(time, _)| *time == last)
            .and_then(|(_, value)| value)
    };
    wait_for(DEADLINE, changed, |value| *value == Some(0.75))
        .await
        .unwrap();

    let groups = testbed.alerting.rule_groups().await.unwrap();
    let group = groups.iter().find(|group| group.name == "cpu").unwrap();
    let faults: Vec<Option<&str>> = group.rules.iter().map(|rule| rule.fault.as_deref()).collect();
    assert_eq!(faults[0], None);
    assert_eq!(faults[1], Some("exceeded limit of 2 with 3 series"));
    assert_eq!(faults[2], Some("found duplicate series"));
    assert!(group.rules[3].alerting.is_some());
    let names: BTreeSet<String> = said
        .recorded
        .lock()
        .keys()
        .map(|(labels, _)| labels["__name__"].clone())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["job:cpu:avg".to_owned()]),
        "faulty rules record nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_makes_up_for_what_was_missed() {
    let said = Arc::new(Said::default());
    said.say("avg by (job) (cpu)", &[(&[("job", "a")], 0.5)]);
    let mut testbed = with_file(&said, 0).await;
    let times = || -> BTreeSet<TimeMicros> { said.recorded.lock().keys().map(|(_, time)| *time).collect() };
    // The first of two is noted as done; the end may come before the second is.
    wait_for(DEADLINE, async || times().len(), |count| *count >= 2)
        .await
        .unwrap();
    testbed.stop().await;
    let back = TimeMicros::now().plus_millis(3_000);
    wait_for(DEADLINE, async || TimeMicros::now(), |now| *now >= back)
        .await
        .unwrap();
    testbed.restart().await;
    wait_for(DEADLINE, async || times().len(), |count| *count >= 6)
        .await
        .unwrap();
    let times: Vec<TimeMicros> = times().into_iter().collect();
    assert!(
        times
            .windows(2)
            .all(|pair| pair[1].micros_since(pair[0]) == 1_000_000),
        "every second has its sample: {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_alerts_of_prometheus_files_page() {
    let said = Arc::new(Said::default());
    said.say(
        "job:cpu:avg > 1",
        &[(&[("__name__", "job:cpu:avg"), ("job", "a")], 1.5)],
    );
    let testbed = with_file(&said, 0).await;
    let alert = testbed.reaches("firing").await;
    assert_eq!(
        (alert.rule.as_str(), alert.severity.as_str()),
        ("HighCpu", "critical")
    );
    assert_eq!(
        (alert.title.as_str(), alert.summary.as_str()),
        ("HighCpu", "a at 1.5")
    );
    assert!(alert.subject.contains("a-team"), "{}", alert.subject);
    said.say("job:cpu:avg > 1", &[]);
    testbed.settled().await;
    assert_eq!(
        states(&testbed, "HighCpu").await,
        ["firing"],
        "it keeps firing for an hour"
    );
}
