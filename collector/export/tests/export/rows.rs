//! Events and findings to receivers of OTLP and of lines.

use std::collections::BTreeMap;

use collector_export::ExportConfig;
use collector_export::otlp::message::{AnyValue, ExportLogs, ExportMetrics, KeyValue, any_value, metric};
use fleetmend_event::table::{Finding, FindingKind, FindingState, Severity, SubjectKind};
use fleetmend_event::{Fact, FindingId, TimeMicros};
use fleetmend_testkit::wait_for;
use prost::Message;
use serde_json::{Value, json};

use crate::receiver::{Fault, Taken};
use crate::testbed::{DEADLINE, Testbed, lately};

pub(crate) fn finding(number: u32) -> Finding {
    Finding {
        time: TimeMicros::now(),
        finding_id: FindingId::random(),
        kind: FindingKind::Sigma,
        rule: "rule-1".to_owned(),
        title: format!("finding {number}"),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: TimeMicros::now(),
        count: 1,
        score: None,
        subject_kind: SubjectKind::Process,
        subject: "bash".to_owned(),
        pid: Some(7),
        start_boot_ns: Some(u64::MAX),
        techniques: vec!["T1059.004".to_owned()],
        tactics: vec!["execution".to_owned()],
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

pub(crate) async fn add(testbed: &Testbed, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let host = testbed.hosts[usize::try_from(number).unwrap() % 2];
        let facts = vec![Fact::from(finding(number))];
        testbed.store.append_for(host, facts).await.unwrap();
    }
}

fn otlp(testbed: &Testbed, more: Value) -> ExportConfig {
    let mut target =
        json!({ "name": "otel", "url": testbed.receiver.url, "flush_every": "50ms", "backfill": "1h" });
    target
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "otlp": [target] })).unwrap()
}

fn stream(testbed: &Testbed, format: &str) -> ExportConfig {
    let target = json!({
        "name": "siem", "url": testbed.receiver.url, "flush_every": "50ms", "backfill": "1h", "format": format,
        "tables": ["findings"], "per_request_max": 3,
    });
    serde_json::from_value(json!({ "webhook_stream": [target] })).unwrap()
}

fn unpacked(taken: &Taken) -> Vec<u8> {
    use std::io::Read as _;
    assert_eq!(taken.headers["content-encoding"], "gzip");
    assert_eq!(taken.headers["content-type"], "application/x-protobuf");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(taken.body.as_ref())
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, any_value::Value> {
    let value = |found: &Option<AnyValue>| found.clone().unwrap().value.unwrap();
    all.iter()
        .map(|pair| (pair.key.clone(), value(&pair.value)))
        .collect()
}

fn text(text: &str) -> any_value::Value {
    any_value::Value::StringValue(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_metrics_are_the_samples_that_are_stored() {
    let testbed = Testbed::start().await;
    let begin = lately();
    testbed.add([begin, begin + 1_000]).await;
    let config = otlp(
        &testbed,
        json!({ "tables": [], "resource_attributes": { "dc": "a", "host.id": "x" } }),
    );
    let running = testbed.run(&config).await;
    testbed.add([begin + 2_000]).await;
    let points = || {
        let mut points: BTreeMap<(String, String, u64), (f64, bool)> = BTreeMap::new();
        for taken in testbed.receiver.taken() {
            assert_eq!(taken.path, "/in/v1/metrics");
            for host in ExportMetrics::decode(unpacked(&taken).as_slice())
                .unwrap()
                .resource_metrics
            {
                let resource = attributes(&host.resource.unwrap().attributes);
                let any_value::Value::StringValue(id) = &resource["host.id"] else {
                    panic!("an id")
                };
                assert_eq!(resource["service.name"], text("fleetmend"));
                assert_eq!(resource["dc"], text("a"));
                let name = resource.get("host.name");
                assert_eq!(
                    name,
                    (*id == testbed.hosts[0].to_string())
                        .then(|| text("web-1"))
                        .as_ref()
                );
                for metric in host.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                    let (all, sum) = match metric.data.unwrap() {
                        metric::Data::Gauge(gauge) => (gauge.data_points, false),
                        metric::Data::Sum(sum) => {
                            assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
                            (sum.data_points, true)
                        }
                    };
                    for point in all {
                        assert_eq!(attributes(&point.attributes)["cpu.mode"], text("user"));
                        let key = (id.clone(), metric.name.clone(), point.time_unix_nano / 1_000_000);
                        let before = points.insert(key, (point.as_double.unwrap(), sum));
                        assert_eq!(before, None, "each comes once");
                    }
                }
            }
        }
        points
    };
    let found = wait_for(DEADLINE, async || points(), |points| points.len() == 18)
        .await
        .unwrap();
    for host in testbed.hosts {
        for (index, name) in ["system.load.1m", "system.cpu.time", "bad.series"]
            .iter()
            .enumerate()
        {
            for time in [begin, begin + 1_000, begin + 2_000] {
                let key = (host.to_string(), (*name).to_owned(), u64::try_from(time).unwrap());
                let value = time as f64 + index as f64 / 8.0;
                assert_eq!(found[&key], (value, *name == "system.cpu.time"));
            }
        }
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_log_records_are_the_rows_that_are_stored() {
    let testbed = Testbed::start().await;
    let config = otlp(&testbed, json!({ "tables": ["findings"], "send_metrics": false }));
    add(&testbed, 0..3).await;
    let running = testbed.run(&config).await;
    testbed.receiver.fail([Fault::Status(503)]);
    add(&testbed, 3..6).await;
    let records = || {
        let taken = testbed.receiver.taken();
        let requests = taken.iter().map(|taken| {
            assert_eq!(taken.path, "/in/v1/logs");
            ExportLogs::decode(unpacked(taken).as_slice()).unwrap()
        });
        let hosts = requests.flat_map(|request| request.resource_logs);
        let scopes = hosts.flat_map(|host| host.scope_logs);
        scopes.flat_map(|scope| scope.log_records).collect::<Vec<_>>()
    };
    let found = wait_for(DEADLINE, async || records().len(), |count| *count >= 6)
        .await
        .unwrap();
    assert_eq!(found, 6);
    let mut titles = Vec::new();
    for record in records() {
        let attributes = attributes(&record.attributes);
        assert_eq!(record.event_name, "fleetmend.findings");
        assert_eq!(
            (record.severity_number, record.severity_text.as_str()),
            (17, "ERROR")
        );
        assert_eq!(attributes["process.pid"], any_value::Value::IntValue(7));
        assert_eq!(attributes["fleetmend.start_boot_ns"], text(&u64::MAX.to_string()));
        assert!(attributes.contains_key("fleetmend.record.id"));
        titles.push(attributes["fleetmend.title"].clone());
    }
    titles.sort_by_key(|title| format!("{title:?}"));
    let wanted: Vec<any_value::Value> = (0..6).map(|number| text(&format!("finding {number}"))).collect();
    assert_eq!(titles, wanted);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_once_over_ends_and_at_least_once_over_kills() {
    for format in ["ecs", "ocsf"] {
        let testbed = Testbed::start().await;
        let config = stream(&testbed, format);
        let titles = || {
            let mut titles: BTreeMap<String, usize> = BTreeMap::new();
            for taken in testbed.receiver.taken() {
                assert_eq!(taken.headers["content-type"], "application/x-ndjson");
                for line in std::str::from_utf8(&taken.body).unwrap().lines() {
                    let line: Value = serde_json::from_str(line).unwrap();
                    let row = if format == "ecs" {
                        &line["fleetmend"]["row"]
                    } else {
                        &line["unmapped"]
                    };
                    *titles
                        .entry(row["title"].as_str().unwrap().to_owned())
                        .or_default() += 1;
                }
            }
            titles
        };
        let reach = |count: usize| wait_for(DEADLINE, async || titles(), move |titles| titles.len() == count);
        let running = testbed.run(&config).await;
        add(&testbed, 0..7).await;
        reach(7).await.unwrap();
        running.end().await;
        add(&testbed, 7..14).await;
        let running = testbed.run(&config).await;
        let all = reach(14).await.unwrap();
        assert!(all.values().all(|count| *count == 1), "{all:?}");
        add(&testbed, 14..20).await;
        running.kill();
        let running = testbed.run(&config).await;
        reach(20).await.unwrap();
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_older_than_the_bound_are_left_out_and_said() {
    let testbed = Testbed::start().await;
    let mut config = stream(&testbed, "ecs");
    add(&testbed, 0..2).await;
    // So short that what is stored is too old at once.
    config.webhook_stream[0].catch_up_max = "1ms".parse().unwrap();
    let running = testbed.run(&config).await;
    let skipped = wait_for(
        DEADLINE,
        async || running.export.status().await.unwrap()[0].skips.clone(),
        |skips| !skips.is_empty(),
    );
    assert_eq!(skipped.await.unwrap()[0].subject, "findings");
    assert_eq!(testbed.receiver.taken().len(), 0);
    running.end().await;
}
