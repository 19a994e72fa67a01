//! Samples of a real agent, through a collector that is killed, in a Prometheus server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use fleetmend_event::prometheus_names::{labels_of_json, metric_name};
use fleetmend_testkit::PrometheusServer;
use fleetmend_testkit::prometheus::program;
use serde_json::Value;

use crate::instance::Instance;

const ARRIVE: Duration = Duration::from_secs(90);
/// Few enough series that one answer of SQL holds their samples.
const NAMES: &str = "'system.memory.usage', 'system.uptime'";

struct Prometheus {
    server: PrometheusServer,
    client: reqwest::Client,
}

/// Labels and milliseconds, and the value.
type Samples = BTreeMap<(BTreeMap<String, String>, i64), f64>;

impl Prometheus {
    fn start(program: &Path) -> Self {
        Self {
            server: PrometheusServer::start(program, [""; 0]).unwrap(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn samples(&self) -> Samples {
        let query = [("query", "{job=\"fleetmend\"}[1h]")];
        let request = self
            .client
            .get(format!("{}/api/v1/query", self.server.url()))
            .query(&query);
        let Ok(answer) = request.send().await else {
            return Samples::new();
        };
        let answer: Value = answer.json().await.unwrap();
        let mut samples = Samples::new();
        for series in answer["data"]["result"].as_array().unwrap() {
            let labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
            for value in series["values"].as_array().unwrap() {
                let time = Duration::from_secs_f64(value[0].as_f64().unwrap());
                let millis = i64::try_from((time.as_micros() + 500) / 1_000).unwrap();
                let value = value[1].as_str().unwrap().parse().unwrap();
                samples.insert((labels.clone(), millis), value);
            }
        }
        samples
    }
}

/// What is stored, as Prometheus has to have it.
async fn stored(instance: &Instance) -> Samples {
    let query = format!(
        "select m.host_id, h.hostname, m.name, m.labels, m.time, m.value from metrics m \
         join (select distinct host_id, hostname from host_info) h on m.host_id = h.host_id where m.name in ({NAMES})"
    );
    let sample = |row: &Value| {
        let text = |column: &str| row[column].as_str().unwrap();
        let labels = match &row["labels"] {
            Value::String(labels) => labels.clone(),
            other => other.to_string(),
        };
        let host = text("host_id").parse().unwrap();
        let mut labels = labels_of_json(&labels, host, Some(text("hostname")));
        labels.insert("__name__".to_owned(), metric_name(text("name")).into_owned());
        let time: jiff::Timestamp = text("time").parse().unwrap();
        let value = row["value"]
            .as_f64()
            .or_else(|| row["value"].as_str()?.parse().ok());
        ((labels, time.as_millisecond()), value.unwrap())
    };
    instance.sql(&query).await.iter().map(sample).collect()
}

async fn wait_until_all_is_there(instance: &Instance, server: &Prometheus, least: usize) {
    let begun = Instant::now();
    loop {
        let (wanted, found) = (stored(instance).await, server.samples().await);
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(key, value)| found.get(key) != Some(*value))
            .collect();
        // What was stored in the last moments is on its way.
        let fresh = jiff::Timestamp::now().as_millisecond() - 5_000;
        let lost: Vec<_> = missing
            .iter()
            .filter(|((_, millis), _)| *millis < fresh)
            .collect();
        if wanted.len() >= least && lost.is_empty() {
            return;
        }
        assert!(
            begun.elapsed() < ARRIVE,
            "{} stored, {} there; the first of {} that are not: {:?}",
            wanted.len(),
            found.len(),
            lost.len(),
            lost.first()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_has_every_sample_over_kills_of_the_collector() {
    let Some(program) = program("prometheus") else {
        return;
    };
    let mut instance = Instance::start().await;
    let server = Prometheus::start(&program);
    instance.kill_collector();
    let target = format!(
        "[[export.remote_write]]\nname = \"there\"\nurl = \"{}/api/v1/write\"\nflush_every = \"100ms\"\n\
         metrics.allow = [\"system_(memory_usage|uptime)\"]\n",
        server.server.url()
    );
    std::fs::create_dir(instance.path("collector.d")).unwrap();
    std::fs::write(instance.path("collector.d/export.toml"), target).unwrap();
    instance.start_collector().await;
    instance.start_agent().await;
    for round in 1..=3 {
        wait_until_all_is_there(&instance, &server, round * 50).await;
        instance.kill_collector();
        instance.start_collector().await;
    }
    wait_until_all_is_there(&instance, &server, 250).await;
    let status = instance.operate(&["export", "status", "--json"]);
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["items"][0]["signals"][0]["mode"], "live", "{status}");
    assert_eq!(status["items"][0]["skips"].as_array().unwrap().len(), 0);
    let tested = instance.operate(&["export", "test", "there"]);
    assert!(
        tested.status.success(),
        "{}",
        String::from_utf8_lossy(&tested.stderr)
    );
    files(&instance);
}

/// What analysts take along: while the collector runs by way of it, else from its folder.
fn files(instance: &Instance) {
    let file = instance.path("metrics.parquet");
    let out = file.display().to_string();
    let taken = instance.operate(&[
        "export",
        "parquet",
        "--table",
        "metrics",
        "--from=-1h",
        "--out",
        &out,
    ]);
    assert!(
        taken.status.success(),
        "{}",
        String::from_utf8_lossy(&taken.stderr)
    );
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    let records = instance.operate(&["export", "ecs", "--table", "host_info"]);
    let lines = String::from_utf8(records.stdout).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["ecs"]["version"], "8.17.0");
    assert_eq!(first["fleetmend"]["table"], "host_info");
}
