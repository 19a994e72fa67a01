//! A Prometheus server, as Debian has it, at the other end.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fleetmend_testkit::wait_for;
use serde_json::{Value, json};

use crate::testbed::{DEADLINE, Testbed, lately};

struct Prometheus {
    child: Child,
    url: String,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The program of Debian's package, or none where it is missing and may be.
fn program() -> Option<PathBuf> {
    let folder = std::env::var_os("FLEETMEND_PROMETHEUS").map(PathBuf::from);
    let cached = || {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("fleetmend/debian/prometheus/usr/bin"))
    };
    let path = folder.or_else(cached)?.join("prometheus");
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing: `cargo xtask test` unpacks it", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("NOT RUN: {missing}");
    None
}

impl Prometheus {
    async fn start(program: &PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, "global: {}\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-remote-write-receiver")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            client,
            _folder: folder,
        };
        let ready = async || {
            let answer = server.client.get(format!("{}/-/ready", server.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        wait_for(DEADLINE, ready, |ready| *ready).await.unwrap();
        server
    }

    /// Labels, milliseconds and value of every sample of this job.
    async fn samples(&self) -> Vec<(String, i64, f64)> {
        let query = [("query", "{job=\"fleetmend\"}[2h]")];
        let answer = self
            .client
            .get(format!("{}/api/v1/query", self.url))
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
    let Some(program) = program() else { return };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let server = Prometheus::start(&program).await;
    let testbed = Testbed::start().await;
    let url = format!("{}/api/v1/write", server.url);
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
