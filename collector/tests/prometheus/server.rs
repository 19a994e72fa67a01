//! A Prometheus server of our own, filled by remote write.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;

use crate::data::{self, BEGIN_MS, SAMPLES, STEP_MS, Series};

const READY: Duration = Duration::from_secs(60);
/// Samples of each series in one request: half an hour, within what the server takes out of order of series.
const AT_ONCE: u32 = 120;

pub(crate) struct Prometheus {
    child: Child,
    pub(crate) url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

impl Prometheus {
    pub(crate) async fn start(program: &Path, series: &[Series], client: &reqwest::Client) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), "global: {}\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg(format!(
                "--config.file={}",
                folder.path().join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-remote-write-receiver")
            .arg("--storage.tsdb.retention.time=100y")
            .arg("--enable-feature=promql-at-modifier,promql-negative-offset")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        };
        let begun = Instant::now();
        loop {
            if let Ok(answer) = client.get(format!("{}/-/ready", server.url)).send().await
                && answer.status().is_success()
            {
                break;
            }
            let log = std::fs::read_to_string(server._folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < READY, "Prometheus is not ready: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.fill(series, client).await;
        server
    }

    /// In the order of time over all series, as a scrape would.
    async fn fill(&self, series: &[Series], client: &reqwest::Client) {
        for from in (0..SAMPLES).step_by(usize::try_from(AT_ONCE).unwrap()) {
            let of_series = |one: &Series| {
                let samples = one
                    .samples
                    .iter()
                    .filter(|(at, _)| (from..from + AT_ONCE).contains(at));
                TimeSeries {
                    labels: data::labels(one)
                        .into_iter()
                        .map(|(name, value)| Label { name, value })
                        .collect(),
                    samples: samples
                        .map(|(at, value)| Sample {
                            value: *value,
                            timestamp: BEGIN_MS + STEP_MS * i64::from(*at),
                        })
                        .collect(),
                }
            };
            let request = WriteRequest {
                timeseries: series.iter().map(of_series).collect(),
            };
            let body = snap::raw::Encoder::new()
                .compress_vec(&request.encode_to_vec())
                .unwrap();
            let answer = client
                .post(format!("{}/api/v1/write", self.url))
                .header("content-encoding", "snappy")
                .header("content-type", "application/x-protobuf")
                .header("x-prometheus-remote-write-version", "0.1.0")
                .body(body)
                .send()
                .await
                .unwrap();
            let status = answer.status();
            assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
        }
    }
}
