//! A peer: a store of metrics as Debian ships it, started on a free port, fed and asked over HTTP.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::sizes::HostMetrics;
use crate::child::Program;
use crate::statistics::quantile;

/// Names of ten series of one host.
pub(super) const HOST_NAMES: [&str; 5] = [
    "node_load1",
    "node_load15",
    "node_load5",
    "node_pressure_avg10",
    "node_sockstat_TCP_inuse",
];
/// Of which the hosts with the highest means are asked for.
pub(super) const TOP_NAME: &str = "node_load1";
const READY_WITHIN: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(120);
const RUNS: usize = 20;

/// Place of the host whose mean is the highest.
pub(super) fn expected_top(data: &HostMetrics) -> Result<usize> {
    let mean = |host: &super::sizes::HostSeries| {
        let of_name = host.series.iter().zip(&host.values);
        let values = of_name
            .into_iter()
            .find(|(key, _)| key.name == TOP_NAME)
            .map(|(_, values)| values.iter().sum::<f64>());
        values.unwrap_or(f64::NEG_INFINITY)
    };
    let hosts = data.hosts.iter().zip(0_usize..);
    let top = hosts.max_by(|(a, _), (b, _)| mean(a).total_cmp(&mean(b)));
    top.map(|(_, place)| place).context("find a host")
}

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Prometheus,
    VictoriaMetrics,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Prometheus => "prometheus",
            Kind::VictoriaMetrics => "victoriametrics",
        }
    }

    pub(super) fn package(self) -> &'static str {
        match self {
            Kind::Prometheus => "prometheus",
            Kind::VictoriaMetrics => "victoria-metrics",
        }
    }

    fn arguments(self, folder: &Path, port: u16) -> Vec<String> {
        let data = folder.join("data").display().to_string();
        match self {
            Kind::Prometheus => vec![
                format!("--config.file={}", folder.join("prometheus.yml").display()),
                format!("--storage.tsdb.path={data}"),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--web.enable-remote-write-receiver".to_owned(),
                "--web.enable-admin-api".to_owned(),
                "--log.level=warn".to_owned(),
            ],
            Kind::VictoriaMetrics => vec![
                format!("-storageDataPath={data}"),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                // Its search otherwise ends before the samples of the last seconds.
                "-search.latencyOffset=0s".to_owned(),
                "-retentionPeriod=1".to_owned(),
            ],
        }
    }
}

/// A running peer.
pub(super) struct Peer {
    kind: Kind,
    program: Program,
    url: String,
    client: reqwest::Client,
    folder: PathBuf,
}

impl Peer {
    /// Starts it with a folder of its own.
    pub(super) async fn start(kind: Kind, binary: &Path, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::write(folder.join("prometheus.yml"), "global: {}\n").context("write a configuration")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        let port = listener.local_addr().context("read the port")?.port();
        drop(listener);
        let mut command = Command::new(binary);
        command.args(kind.arguments(folder, port)).current_dir(folder);
        let program = Program::start(kind.name(), &mut command, folder.join("log"))?;
        rustls::crypto::aws_lc_rs::default_provider()
            .install_default()
            .ok();
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .build()
            .context("make an HTTP client")?;
        let mut peer = Self {
            kind,
            program,
            url: format!("http://127.0.0.1:{port}"),
            client,
            folder: folder.to_owned(),
        };
        peer.wait().await?;
        Ok(peer)
    }

    async fn wait(&mut self) -> Result<()> {
        let path = match self.kind {
            Kind::Prometheus => "/-/ready",
            Kind::VictoriaMetrics => "/health",
        };
        let begun = Instant::now();
        loop {
            let answer = self.client.get(format!("{}{path}", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < READY_WITHIN,
                "{} was not ready within {READY_WITHIN:?}; its log is {}",
                self.kind.name(),
                std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Sends the requests one after the other; returns the wall time.
    pub(super) async fn write(&self, requests: &[PathBuf]) -> Result<Duration> {
        let begun = Instant::now();
        for path in requests {
            let body = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let answer = self
                .client
                .post(format!("{}/api/v1/write", self.url))
                .header("content-encoding", "snappy")
                .header("content-type", "application/x-protobuf")
                .body(body)
                .send()
                .await
                .context("write remotely")?;
            let status = answer.status();
            ensure!(
                status.is_success(),
                "{} answered {status}: {}",
                self.kind.name(),
                answer.text().await.unwrap_or_default()
            );
        }
        Ok(begun.elapsed())
    }

    /// Makes it write what it holds as it keeps it for long; returns the folder that holds all of it.
    pub(super) async fn settle(&self) -> Result<PathBuf> {
        let data = self.folder.join("data");
        match self.kind {
            Kind::Prometheus => {
                let answer: Value = self
                    .client
                    .post(format!("{}/api/v1/admin/tsdb/snapshot", self.url))
                    .send()
                    .await
                    .context("ask for a snapshot")?
                    .json()
                    .await
                    .context("read the snapshot's name")?;
                let name = answer.pointer("/data/name").and_then(Value::as_str);
                Ok(data
                    .join("snapshots")
                    .join(name.context("find the snapshot's name")?))
            }
            Kind::VictoriaMetrics => {
                for path in ["/internal/force_flush", "/internal/force_merge"] {
                    let answer = self.client.get(format!("{}{path}", self.url)).send().await;
                    answer.with_context(|| format!("ask {path}"))?;
                }
                self.merged().await?;
                Ok(data)
            }
        }
    }

    /// Waits until no merge runs: it is told by its own metrics.
    async fn merged(&self) -> Result<()> {
        let begun = Instant::now();
        let mut calm = 0_u32;
        while calm < 10 {
            let text = self.client.get(format!("{}/metrics", self.url)).send().await;
            let text = text
                .context("read its metrics")?
                .text()
                .await
                .context("read its metrics")?;
            let active = text
                .lines()
                .filter(|line| line.starts_with("vm_active_merges") && !line.ends_with(" 0"));
            calm = if active.count() == 0 { calm + 1 } else { 0 };
            ensure!(begun.elapsed() < TIMEOUT, "VictoriaMetrics still merges");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// One query over a range, or at its end.
    async fn query(&self, query: &str, at: i64) -> Result<Value> {
        let parameters = [("query", query.to_owned()), ("time", at.to_string())];
        let answer: Value = self
            .client
            .get(format!("{}/api/v1/query", self.url))
            .query(&parameters)
            .send()
            .await
            .with_context(|| format!("ask {query}"))?
            .json()
            .await
            .with_context(|| format!("read the answer to {query}"))?;
        let found = answer.pointer("/data/result").cloned();
        found.with_context(|| format!("read {answer}"))
    }

    /// Times the queries that our own store is asked: p95 of the ten series, p95 of the top hosts.
    pub(super) async fn ask(&self, data: &HostMetrics) -> Result<(f64, f64)> {
        let last = data.first + i64::try_from(data.seconds)? - 1;
        let range = data.seconds;
        let (mut of_host, mut of_top) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let host = data.hosts.get(run % data.hosts.len()).context("find a host")?;
            let names = HOST_NAMES.join("|");
            let query = format!("{{__name__=~\"{names}\",instance=\"{}\"}}[{range}s]", host.name);
            let begun = Instant::now();
            let series = self.query(&query, last).await?;
            of_host.push(begun.elapsed().as_secs_f64() * 1e3);
            let samples = series.as_array().into_iter().flatten();
            let samples: usize = samples
                .map(|series| series.get("values").and_then(Value::as_array).map_or(0, Vec::len))
                .sum();
            // The earliest may lie on the range's open end.
            ensure!(
                samples >= 10 * (data.seconds - 1),
                "{} gave {samples} samples of {}",
                self.kind.name(),
                10 * data.seconds
            );
        }
        let expected = &data.hosts.get(expected_top(data)?).context("find a host")?.name;
        for _ in 0..RUNS {
            let query = format!("topk(3, avg_over_time({TOP_NAME}[{range}s]))");
            let begun = Instant::now();
            let top = self.query(&query, last).await?;
            of_top.push(begun.elapsed().as_secs_f64() * 1e3);
            let values = top.as_array().into_iter().flatten();
            let best = values.max_by(|a, b| value_of(a).total_cmp(&value_of(b)));
            let best = best.and_then(|series| series.pointer("/metric/instance"));
            ensure!(
                best == Some(&json!(expected)),
                "{top} does not begin with {expected}"
            );
        }
        Ok((quantile(&of_host, 0.95), quantile(&of_top, 0.95)))
    }
}

fn value_of(series: &Value) -> f64 {
    let text = series.pointer("/value/1").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok())
        .unwrap_or(f64::NEG_INFINITY)
}
