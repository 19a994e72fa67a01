//! Rule files of Prometheus in a running collector: what they record can be asked for, and their alerts are shown.

use std::time::Duration;

use fleetmend_testkit::wait_for;
use serde_json::{Value, json};

use crate::collector::Collector;
use crate::data;
use crate::values::client;

const DEADLINE: Duration = Duration::from_secs(60);

/// The samples are of a day that is over: `@` asks for them at any time.
const RULES: &str = "groups:
- name: level
  interval: 1s
  rules:
  - record: job:level:count
    expr: count by (job) (level @ 1700007000)
    labels: {env: test}
  - record: job:level:twice
    expr: 2 * job:level:count
  - alert: SomeLevel
    expr: vector(3) > 2
    labels: {severity: critical}
    annotations: {summary: 'it is {{ $value }}'}
  - alert: LevelOfSilentHost
    expr: level @ 1700007000 > -100
";

#[tokio::test]
async fn recorded_series_are_read_and_alerts_are_shown() {
    let client = client();
    let collector = Collector::start_with(&data::all(), &client, RULES).await;
    let get = async |path: &str| -> Value {
        let answer = client
            .get(format!("{}/api/v1/{path}", collector.url))
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    };
    let twice = async || get("query?query=job:level:twice").await["data"]["result"].clone();
    let found = wait_for(DEADLINE, twice, |result| result[0]["value"][1] == "6")
        .await
        .unwrap();
    assert_eq!(
        found[0]["metric"],
        json!({"__name__": "job:level:twice", "env": "test", "job": "fleetmend"})
    );
    let alerts = async || get("alerts").await["data"]["alerts"].clone();
    let firing = |alerts: &Value| alerts.as_array().is_some_and(|alerts| !alerts.is_empty());
    let alerts = wait_for(DEADLINE, alerts, firing).await.unwrap();
    assert_eq!(
        alerts[0]["labels"],
        json!({"alertname": "SomeLevel", "severity": "critical"})
    );
    assert_eq!(alerts[0]["annotations"]["summary"], "it is 3");

    let evaluated = |rules: &Value| {
        let rules = rules["data"]["groups"][0]["rules"].as_array();
        rules.is_some_and(|rules| rules.len() == 4 && rules.iter().all(|rule| rule["health"] == "ok"))
    };
    wait_for(DEADLINE, async || get("rules").await, evaluated)
        .await
        .unwrap();
    // Its hosts send nothing, so that whether it holds is not known.
    let states = get("rules?rule_name[]=LevelOfSilentHost").await;
    assert_eq!(
        states["data"]["groups"][0]["rules"][0]["state"], "inactive",
        "{states}"
    );
}
