//! `spool`: how fast facts become durable, what a recovery costs, and how much a day without a collector takes.
//!
//! Everything is written to a folder on the disk that holds the temporary files, with the spool's own syncs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_spool::{Spool, SpoolConfig, SpoolHandle};
use anyhow::{Context, Result, ensure};
use fleetmend_config::ByteSize;
use fleetmend_event::{Lane, TimeMicros};
use fleetmend_shutdown::Tasks;
use serde_json::json;

use crate::ingest::data::Host;
use crate::process::peak_rss_mib;
use crate::report::{Bar, Report, progress};
use crate::statistics::quantile;

const SEED: u64 = 20_260_102;
/// Facts appended between two waits for the disk; well below what the intake holds.
const APPEND_FACTS: u32 = 8_000;
/// Default rates: events a second, how often they are flushed, and samples of each series in a frame.
const EVENTS_PER_S: u32 = 100;
const EVENT_FLUSHES_PER_S: u32 = 4;
const TICKS_PER_FRAME: u32 = 10;
const HOURS_PER_DAY: f64 = 24.0;
const MIB: f64 = 1024.0 * 1024.0;
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// Arguments of `work-recover`.
#[derive(clap::Args)]
pub(crate) struct RecoverArguments {
    /// Folder of the spool
    folder: PathBuf,
}

/// Measures.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let (append_mib, recover_mib, simulated_s) = if quick { (8, 32, 60) } else { (128, 512, 3_600) };
    let parameters = json!({
        "appended_mib": append_mib, "recovered_mib": recover_mib, "outage_simulated_s": simulated_s,
        "outage": "events by quarters of a second and metrics by ten seconds, each batch made durable, scaled to a day",
        "series_per_host": crate::ingest::data::SERIES, "events_per_s": EVENTS_PER_S, "quick": quick,
    });
    let mut report = Report::new("spool", SEED, parameters);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        append(&mut report, append_mib).await?;
        latency(&mut report, if quick { 50 } else { 1_000 }).await?;
        outage(&mut report, simulated_s).await?;
        anyhow::Ok(())
    })?;
    recovery(&mut report, recover_mib)?;
    Ok(report)
}

/// A spool in a folder of its own, with room for everything.
struct Bench {
    folder: tempfile::TempDir,
    tasks: Tasks,
    handle: SpoolHandle,
    host: Host,
}

impl Bench {
    fn start(config: impl FnOnce(&mut SpoolConfig)) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("fleetmend-bench-spool-")
            .tempdir()
            .context("make a folder")?;
        let mut of_spool = SpoolConfig {
            folder: folder.path().join("spool"),
            critical_quota: ByteSize::from_mib(1_024),
            events_quota: ByteSize::from_mib(1_024),
            metrics_quota: ByteSize::from_mib(1_024),
            ..SpoolConfig::default()
        };
        config(&mut of_spool);
        let (spool, _) = Spool::open(of_spool).context("open the spool")?;
        let (tasks, handle) = (Tasks::new(), spool.handle());
        spool.run(&tasks).context("start the spool's writer")?;
        Ok(Self {
            folder,
            tasks,
            handle,
            host: Host::new(SEED),
        })
    }

    fn events(&mut self, count: u32) {
        let now = TimeMicros::now();
        for number in 0..count {
            self.handle
                .append(self.host.event(now.plus_micros(number.into())));
        }
    }

    async fn flush(&self) -> Result<()> {
        ensure!(self.handle.flush().await, "the spool's writer ended");
        ensure!(!self.handle.stat().disk_refuses, "the disk refuses: is it full?");
        Ok(())
    }

    fn bytes(&self, lane: Lane) -> f64 {
        let lanes = self.handle.stat().lanes;
        let of_lane = lanes.iter().find(|stat| stat.lane == lane);
        of_lane.map_or(0, |stat| stat.bytes) as f64
    }

    async fn stop(self) -> tempfile::TempDir {
        self.tasks.begin("the benchmark is over");
        self.tasks.drain(DRAIN_WITHIN).await;
        self.folder
    }
}

async fn append(report: &mut Report, mib: u32) -> Result<()> {
    progress(format!("append {mib} MiB of events"));
    let mut bench = Bench::start(|_| ())?;
    let (begun, mut facts) = (Instant::now(), 0_u64);
    let mut making = Duration::ZERO;
    while bench.bytes(Lane::Events) < f64::from(mib) * MIB {
        let made = Instant::now();
        bench.events(APPEND_FACTS);
        making += made.elapsed();
        facts += u64::from(APPEND_FACTS);
        bench.flush().await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = bench.bytes(Lane::Events);
    report.figure("append_mib_per_s", bytes / MIB / seconds, Bar::None);
    report.figure("append_facts_per_s", facts as f64 / seconds, Bar::None);
    report.figure("bytes_per_event", bytes / facts as f64, Bar::None);
    report.condition(
        "append_share_of_making_facts",
        json!(making.as_secs_f64() / seconds),
    );
    bench.stop().await;
    Ok(())
}

/// From the append of a critical fact to its durability, the wait for others included.
async fn latency(report: &mut Report, times: u32) -> Result<()> {
    progress(format!("append {times} facts, one at a time"));
    let mut bench = Bench::start(|_| ())?;
    let mut latency_ms = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        bench.events(1);
        bench.flush().await?;
        latency_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    report.figure("append_p50_ms", quantile(&latency_ms, 0.5), Bar::None);
    report.figure("append_p99_ms", quantile(&latency_ms, 0.99), Bar::None);
    bench.stop().await;
    Ok(())
}

async fn outage(report: &mut Report, seconds: u32) -> Result<()> {
    progress(format!("spool {seconds} s at default rates without a collector"));
    let mut events = Bench::start(|_| ())?;
    for _ in 0..seconds * EVENT_FLUSHES_PER_S {
        events.events(EVENTS_PER_S / EVENT_FLUSHES_PER_S);
        events.flush().await?;
    }
    let mut metrics = Bench::start(|_| ())?;
    let begin = TimeMicros::now();
    for second in 0..seconds {
        let tick = metrics.host.tick(begin.plus_millis(i64::from(second) * 1_000));
        metrics.handle.append(tick);
        if (second + 1).is_multiple_of(TICKS_PER_FRAME) {
            metrics.flush().await?;
        }
    }
    metrics.flush().await?;
    let per_day = 3_600.0 / f64::from(seconds) * HOURS_PER_DAY / MIB;
    let (of_events, of_metrics) = (
        events.bytes(Lane::Events) * per_day,
        metrics.bytes(Lane::Metrics) * per_day,
    );
    report.figure("outage_24h_mib", of_events + of_metrics, Bar::AtMost(512.0));
    report.figure("outage_24h_events_mib", of_events, Bar::None);
    report.figure("outage_24h_metrics_mib", of_metrics, Bar::None);
    events.stop().await;
    metrics.stop().await;
    Ok(())
}

/// Recovery after a kill, in a process of its own, so that its memory is its own.
fn recovery(report: &mut Report, mib: u32) -> Result<()> {
    progress(format!("fill a spool with {mib} MiB and recover it"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let folder = runtime.block_on(async {
        let mut bench = Bench::start(|_| ())?;
        while bench.bytes(Lane::Events) < f64::from(mib) * MIB {
            bench.events(APPEND_FACTS);
            bench.flush().await?;
        }
        anyhow::Ok(bench.stop().await)
    })?;
    let spool = folder.path().join("spool");
    // Without the mark of a clean stop it is a kill between two writes.
    std::fs::remove_file(spool.join("clean")).context("take the mark of the clean stop away")?;
    let program = std::env::current_exe().context("find this program")?;
    let output = std::process::Command::new(program)
        .arg("work-recover")
        .arg(&spool)
        .output()
        .context("start the recovery")?;
    ensure!(
        output.status.success(),
        "the recovery ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("read what it measured")?;
    let figure = |key: &str| {
        said.get(key)
            .and_then(serde_json::Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    report.figure(
        "recover_512mib_s",
        figure("seconds") * 512.0 / f64::from(mib),
        Bar::AtMost(2.0),
    );
    report.figure("recover_peak_mib", figure("peak_mib"), Bar::AtMost(64.0));
    Ok(())
}

/// Recovers a spool and says what it took.
pub(crate) fn recover(arguments: &RecoverArguments) -> Result<()> {
    let (seconds, peak_mib) = timed_recovery(&arguments.folder)?;
    use std::io::Write as _;
    writeln!(
        std::io::stdout(),
        "{}",
        json!({"seconds": seconds, "peak_mib": peak_mib})
    )
    .context("print what was measured")
}

fn timed_recovery(folder: &Path) -> Result<(f64, f64)> {
    let config = SpoolConfig {
        folder: folder.to_owned(),
        ..SpoolConfig::default()
    };
    let begun = Instant::now();
    let opened = Spool::open(config).context("recover the spool")?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(opened);
    Ok((seconds, peak_rss_mib(std::process::id())?))
}
