//! Whether critical acts reach the store while both cores open files as fast as they can.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Times;
use crate::api::Api;
use crate::instance::Instance;
use crate::report::{Bar, Report, progress};
use crate::work::{Kind, Worker};

/// Acts within a second.
const ACTS: u32 = 1_000;
/// How long the opens go on before the acts begin.
const LEAD: Duration = Duration::from_secs(1);
/// How long the last act may take to the store.
const STORED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Measures, with the collector started again.
pub(super) fn critical(
    report: &mut Report,
    times: &Times,
    instance: &mut Instance,
    workers: u32,
) -> Result<()> {
    progress(format!("{ACTS} critical acts among opens flat out"));
    instance.start_agent_if_stopped()?;
    instance.run_collector()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let time = times.storm.min(Duration::from_secs(5)) + LEAD;
    let opens: Vec<Worker> = (0..workers)
        .map(|_| Worker::start(Kind::Opens, time, 0))
        .collect::<Result<_>>()?;
    std::thread::sleep(LEAD);
    let acts = Worker::start(Kind::Critical, Duration::from_secs(1), ACTS)?.finish()?;
    let opened: f64 = opens
        .into_iter()
        .map(Worker::finish)
        .collect::<Result<Vec<_>>>()?
        .iter()
        .map(|done| f64::from(done.opens))
        .sum();
    let wanted = f64::from(acts.credential_acts + acts.kernel_acts);
    let stored = runtime.block_on(async {
        let api = instance.api().await?;
        let begun = Instant::now();
        loop {
            let stored = Stored::read(&api, acts.pid).await?;
            if stored.sum() >= wanted || begun.elapsed() > STORED_WITHIN {
                return Ok::<_, anyhow::Error>(stored);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?;
    report.figure(
        "critical_delivered_pct",
        stored.sum() / wanted * 100.0,
        Bar::AtLeast(99.99),
    );
    report.figure("critical_doubled", stored.doubled, Bar::AtMost(0.0));
    report.condition(
        "critical_storm",
        json!({
            "opens_per_s": opened / time.as_secs_f64(), "credential_acts": acts.credential_acts,
            "kernel_acts": acts.kernel_acts, "credential_stored": stored.credential, "kernel_stored": stored.kernel,
        }),
    );
    Ok(())
}

/// Acts of the worker that the store has, each counted once: the C library lets every thread make a change of
/// credentials, so that one of these acts may be several calls.
struct Stored {
    credential: f64,
    kernel: f64,
    /// Rows that are there twice.
    doubled: f64,
}

impl Stored {
    async fn read(api: &Api, pid: u32) -> Result<Self> {
        let count = async |table: &str, kind: &str, what: &str| -> Result<(f64, f64)> {
            let query = format!(
                "SELECT COUNT(DISTINCT {what}), COUNT(*) - COUNT(DISTINCT boot_ns) \
                 FROM {table} WHERE pid = {pid} AND kind = '{kind}'"
            );
            let rows = api.sql(&query).await?;
            let number = |column: usize| {
                let value = rows.first().and_then(|row| row.get(column));
                value.and_then(Value::as_f64).unwrap_or_default()
            };
            Ok((number(0), number(1)))
        };
        let (credential, credential_doubled) = count("credential_events", "group", "egid").await?;
        let (kernel, kernel_doubled) = count("kernel_events", "change_root", "path").await?;
        Ok(Self {
            credential,
            kernel,
            doubled: credential_doubled + kernel_doubled,
        })
    }

    fn sum(&self) -> f64 {
        self.credential + self.kernel
    }
}
