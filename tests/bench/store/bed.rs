//! A store in a folder, how it comes to rest, and how a query is timed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use collector_store::{Answer, OpenError, QueryLimits, Store, StoreConfig};
use fleetmend_shutdown::Tasks;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};

use super::Found;
use crate::process::peak_rss_mib;
use crate::report::progress;
use crate::statistics::quantile;

const MIB: f64 = 1024.0 * 1024.0;
/// How long nothing may change before the store counts as at rest.
const AT_REST: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest wait for compaction and merges of everything that was loaded.
const SETTLE_WITHIN: Duration = Duration::from_secs(1_800);
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// Maintenance looks for work this often: one merge at a turn, and nothing is to be waited for here.
const MAINTENANCE_MS: u64 = 100;
const COLD_RUNS: usize = 3;

/// A running store.
pub(crate) struct Bed {
    pub(crate) store: Store,
    tasks: Tasks,
    folder: PathBuf,
}

impl Bed {
    /// Opens the store with its own defaults but for the interval of maintenance, and without a limit of bytes: what is
    /// written is to be there when it is counted.
    pub(crate) async fn open(folder: &Path) -> Result<Self> {
        let mut config = StoreConfig {
            folder: folder.to_owned(),
            maintenance_interval_ms: MAINTENANCE_MS,
            ..StoreConfig::default()
        };
        config.retention.table_bytes_max = u64::MAX;
        let store = opened(config).await?;
        let tasks = Tasks::new();
        store.run(&tasks).context("run the store")?;
        Ok(Self {
            store,
            tasks,
            folder: folder.to_owned(),
        })
    }

    /// Ends it in order; its catalogue is then one file.
    pub(crate) async fn close(self) -> Result<()> {
        self.tasks.begin("the benchmark goes on");
        let report = self.tasks.drain(DRAIN_WITHIN).await;
        ensure!(report.is_clean(), "the store did not end in order: {report}");
        Ok(())
    }

    /// Waits until everything is compacted and no merge is due; returns how long that took.
    pub(crate) async fn settle(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.store.seal().await.context("seal the segment")?;
        let (mut last, mut since) = (None, Instant::now());
        loop {
            let stats = self.store.stats();
            let now = json!(stats).to_string();
            let writing = unfinished(&self.folder.join("parquet"))?;
            if stats.hot_frames > 0 || writing || last.as_ref() != Some(&now) {
                (last, since) = (Some(now), Instant::now());
            }
            if since.elapsed() >= AT_REST {
                return Ok(begun.elapsed().saturating_sub(AT_REST));
            }
            ensure!(
                begun.elapsed() < SETTLE_WITHIN,
                "the store is not at rest after {SETTLE_WITHIN:?}: {last:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Bytes of everything in its folder.
    pub(crate) fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        walk(&self.folder, &mut |_, length| bytes += length)?;
        Ok(bytes)
    }

    /// What its tables hold, for the conditions.
    pub(crate) fn tables(&self) -> Value {
        let tables = self.store.stats().tables;
        json!(
            tables
                .into_iter()
                .filter(|table| table.rows > 0)
                .collect::<Vec<_>>()
        )
    }

    /// Takes its files out of the page cache.
    pub(crate) fn forget_pages(&self) -> Result<()> {
        let mut files = Vec::new();
        walk(&self.folder, &mut |path, _| files.push(path.to_owned()))?;
        for path in files {
            // A merge may have deleted it just now.
            if let Ok(file) = File::open(&path) {
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                    .with_context(|| format!("drop the pages of {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// An answer that must be whole.
    pub(crate) async fn sql(&self, query: &str) -> Result<Answer> {
        let limits = QueryLimits {
            rows_max: 100_000,
            ..QueryLimits::default()
        };
        let answer = self.store.sql(query, limits).await;
        let answer = answer.with_context(|| format!("ask {query}"))?;
        ensure!(
            !answer.truncated && answer.gaps.is_empty(),
            "the answer to {query} is cut or has gaps: {:?}",
            answer.gaps
        );
        Ok(answer)
    }
}

/// Opens the store; one that was closed just now may still check a file, and holds the folder until it has.
async fn opened(config: StoreConfig) -> Result<Store> {
    let begun = Instant::now();
    loop {
        match Store::open(config.clone()).await {
            Err(OpenError::Locked { .. }) if begun.elapsed() < DRAIN_WITHIN => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            opened => return opened.context("open the store"),
        }
    }
}

fn unfinished(folder: &Path) -> Result<bool> {
    let mut found = false;
    walk(folder, &mut |path, _| {
        found |= path.extension().is_some_and(|end| end == "tmp");
    })?;
    Ok(found)
}

/// Every file below `folder`, with its length. What vanishes meanwhile is left out.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, u64)) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("read a folder's entry")?.path();
        match std::fs::metadata(&path) {
            Ok(data) if data.is_dir() => walk(&path, visit)?,
            Ok(data) => visit(&path, data.len()),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Times of one kind of query.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) warm_ms: Vec<f64>,
    pub(super) cold_ms: Vec<f64>,
}

impl Times {
    pub(super) fn p95(&self) -> f64 {
        quantile(&self.warm_ms, 0.95)
    }

    /// For the conditions.
    pub(super) fn told(&self) -> Value {
        json!({
            "runs": self.warm_ms.len(),
            "median_ms": quantile(&self.warm_ms, 0.5), "p95_ms": self.p95(), "most_ms": quantile(&self.warm_ms, 1.0),
            "cold_median_ms": quantile(&self.cold_ms, 0.5), "cold_most_ms": quantile(&self.cold_ms, 1.0),
        })
    }
}

/// Runs a query with each of `0..runs`, first some with nothing in the page cache. `ask` checks its own answer.
pub(super) async fn time<F: Future<Output = Result<()>>>(
    bed: &Bed,
    name: &str,
    runs: usize,
    ask: impl Fn(usize) -> F,
) -> Result<Times> {
    progress(format!("query {name}"));
    let mut times = Times::default();
    for run in 0..COLD_RUNS.saturating_add(runs) {
        let cold = run < COLD_RUNS;
        if cold {
            bed.forget_pages()?;
        }
        let begun = Instant::now();
        ask(run)
            .await
            .with_context(|| format!("query {name}, run {run}"))?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        if cold {
            times.cold_ms.push(took);
        } else {
            times.warm_ms.push(took);
        }
    }
    Ok(times)
}

/// Notes the largest memory of this process so far.
pub(super) fn note_peak(found: &mut Found, phase: &str) -> Result<()> {
    found.figure(format!("{phase}_rss_peak_mib"), peak_rss_mib(std::process::id())?);
    Ok(())
}

/// Notes the bytes of a store that is at rest.
pub(super) fn note_disk(found: &mut Found, phase: &str, bed: &Bed) -> Result<u64> {
    let bytes = bed.bytes()?;
    found.condition(format!("{phase}_disk_mib"), json!((bytes as f64 / MIB).round()));
    found.condition(format!("{phase}_tables"), bed.tables());
    Ok(bytes)
}
