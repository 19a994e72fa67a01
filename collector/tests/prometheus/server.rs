//! A Prometheus server of our own, filled by remote write.

use std::path::Path;
use std::time::{Duration, Instant};

use fleetmend_testkit::PrometheusServer;
use prost::Message;

use crate::data::{self, BEGIN_MS, SAMPLES, STEP_MS, Series};

const READY: Duration = Duration::from_secs(60);
/// Samples of each series in one request: half an hour, within what the server takes out of order of series.
const AT_ONCE: u32 = 120;

pub(crate) struct Prometheus {
    server: PrometheusServer,
    pub(crate) url: String,
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
        let more = [
            "--storage.tsdb.retention.time=100y",
            "--enable-feature=promql-at-modifier,promql-negative-offset",
        ];
        let started = PrometheusServer::start(program, more).unwrap();
        let server = Self {
            url: started.url().to_owned(),
            server: started,
        };
        let begun = Instant::now();
        loop {
            if let Ok(answer) = client.get(format!("{}/-/ready", server.url)).send().await
                && answer.status().is_success()
            {
                break;
            }
            let log = server.server.log();
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
