//! A Prometheus server, as Debian has it, at the other end.

use fleetmend_testkit::prometheus::program;
use fleetmend_testkit::{PrometheusServer, wait_for};
use serde_json::{Value, json};

use crate::testbed::{DEADLINE, Testbed, lately};

struct Prometheus {
    server: PrometheusServer,
    client: reqwest::Client,
}

impl Prometheus {
    async fn start() -> Option<Self> {
        let server = PrometheusServer::start(&program("prometheus")?, [""; 0]).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let server = Self { server, client };
        let ready = async || {
            let url = format!("{}/-/ready", server.server.url());
            let answer = server.client.get(url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        let ready = wait_for(DEADLINE, ready, |ready| *ready).await;
        ready.unwrap_or_else(|error| panic!("{error}: {}", server.server.log()));
        Some(server)
    }

    /// Labels, milliseconds and value of every sample of this job.
    async fn samples(&self) -> Vec<(String, i64, f64)> {
        let query = [("query", "{job=\"fleetmend\"}[2h]")];
        let answer = self
            .client
            .get(format!("{}/api/v1/query", self.server.url()))
            .query(&query);
        let answer: Value = answer.send().await.unwrap().json().await.unwrap();
        let mut samples = Vec::new();
        for series in answer["data"]["result"].as_array().unwrap() {
            let metric: std::collections::BTreeMap<String, String> =
                serde_json::from_value(series["metric"].clone()).unwrap();
            let labels: Vec<String> = metric
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            for value in series["values"].as_array().unwrap() {
                let seconds = std::time::Duration::from_secs_f64(value[0].as_f64().unwrap());
                let millis = i64::try_from((seconds.as_micros() + 500) / 1_000).unwrap();
                samples.push((
                    labels.join(","),
                    millis,
                    value[1].as_str().unwrap().parse().unwrap(),
                ));
            }
        }
        samples
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_has_every_sample_once_over_kills() {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let Some(server) = Prometheus::start().await else {
        return;
    };
    let testbed = Testbed::start().await;
    let url = format!("{}/api/v1/write", server.server.url());
    let config = testbed.remote_write(json!({ "backfill": "1h", "url": url, "per_request_max": 11 }));
    let begin = lately();
    let times = |to: i64| (0..to).map(move |step| begin + step * 500);
    for round in 0..4 {
        let running = testbed.run(&config).await;
        let before = server.samples().await.len();
        testbed
            .add(times((round + 1) * 10).skip(usize::try_from(round * 10).unwrap()))
            .await;
        let more = wait_for(
            DEADLINE,
            async || server.samples().await.len(),
            |count| *count > before,
        );
        more.await.unwrap();
        if round % 2 == 0 {
            running.kill();
        } else {
            running.end().await;
        }
    }
    let running = testbed.run(&config).await;
    let expected = testbed.expected(times(40));
    // A sample that Prometheus had before the kill is refused, and costs no other one.
    let all = wait_for(
        DEADLINE,
        async || server.samples().await,
        |all| all.len() >= expected.len(),
    );
    let mut all = all.await.unwrap();
    all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let found: Vec<(&String, i64, f64)> = all
        .iter()
        .map(|(labels, at, value)| (labels, *at, *value))
        .collect();
    let wanted: Vec<(&String, i64, f64)> = expected
        .iter()
        .map(|((labels, at), value)| (labels, *at, *value))
        .collect();
    assert_eq!(found, wanted);
    running.end().await;
}
