//! `store`: what the embedded store takes, keeps and finds, beside Prometheus and VictoriaMetrics.
//!
//! Four phases, each in a process of its own so that its memory is its own:
//! - `sizes`: one hour of 10 hosts made by `hostmetrics.py` (seed 1), sent as agents send it, compacted until nothing
//!   is left to do: bytes a sample, and queries over the same samples that the peers get;
//! - `fleet`: what is acknowledged while compaction runs (10 s batches of 300 series), then 24 hours of 100 hosts and
//!   1 hour of 1,000 hosts, and the queries over them;
//! - `events`: events of the mix that `store/mix.rs` describes, and how one is found;
//! - `peers`: Prometheus and VictoriaMetrics from Debian, fed the samples of `sizes` by remote write.
//!
//! Everything goes through the store's public face. Every answer is compared with what the generator made: a wrong
//! one fails the benchmark. Peak memory of a phase includes its generator's.

pub(crate) mod bed;
mod events;
mod fleet;
mod load;
mod mix;
mod pattern;
mod peer;
mod peers;
mod sizes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::report::{Bar, Report, progress};

/// Seed of everything that is generated here; `hostmetrics.py` has its own, 1.
const SEED: u64 = 20_260_104;
/// The collector's settings of its allocator (`collector/src/memory.rs`).
const MALLOC_CONF: &str = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";
/// Bars, by figure.
const BARS: [(&str, Bar); 7] = [
    ("stored_bytes_per_sample", Bar::AtMost(0.75)),
    ("stored_bytes_per_event", Bar::AtMost(25.0)),
    ("ingest_samples_per_s", Bar::AtLeast(1_000_000.0)),
    ("query_host_24h_p95_ms", Bar::AtMost(500.0)),
    ("query_top10_1000_hosts_p95_ms", Bar::AtMost(1_000.0)),
    ("query_event_p95_ms", Bar::AtMost(300.0)),
    ("store_rss_peak_mib", Bar::AtMost(1_024.0)),
];

/// Arguments of `store`.
#[derive(clap::Args)]
pub(crate) struct StoreArguments {
    /// Only this phase: sizes, fleet, events or peers
    #[arg(long)]
    phase: Option<Phase>,
    /// Part of the generated data, in percent
    #[arg(long, default_value_t = 100)]
    percent: u32,
    /// The script that makes host metrics
    #[arg(
        long,
        env = "FLEETMEND_BENCH_DATA",
        default_value = "../shared/bench/hostmetrics.py"
    )]
    hostmetrics: PathBuf,
    /// Folder for the data; one below the temporary files when left out
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Arguments of `work-store`.
#[derive(clap::Args)]
pub(crate) struct PhaseArguments {
    /// Which phase
    phase: Phase,
    /// Folder of the store
    folder: PathBuf,
    /// Folder of the host metrics
    data: PathBuf,
    /// Part of the generated data, in percent
    #[arg(long, default_value_t = 100)]
    percent: u32,
    /// Only ask the store of events that an earlier run left in the folder
    #[arg(long)]
    again: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    Sizes,
    Fleet,
    Events,
    Peers,
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::Sizes, Phase::Peers, Phase::Fleet, Phase::Events];

    fn name(self) -> &'static str {
        match self {
            Phase::Sizes => "sizes",
            Phase::Fleet => "fleet",
            Phase::Events => "events",
            Phase::Peers => "peers",
        }
    }

    fn needs_hostmetrics(self) -> bool {
        matches!(self, Phase::Sizes | Phase::Peers)
    }
}

/// How much a phase makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    quick: bool,
    percent: u32,
}

impl Size {
    /// `full` in a full run, of which `percent` are made; `quick` in a short one.
    fn of(self, full: u64, quick: u64) -> u64 {
        if self.quick {
            quick
        } else {
            (full * u64::from(self.percent) / 100).max(1)
        }
    }
}

/// What a phase found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    figures: Map<String, Value>,
    conditions: Map<String, Value>,
    not_measured: Map<String, Value>,
}

impl Found {
    fn figure(&mut self, name: impl Into<String>, value: f64) {
        self.figures.insert(name.into(), json!(value));
    }

    fn condition(&mut self, name: impl Into<String>, value: Value) {
        self.conditions.insert(name.into(), value);
    }

    fn not_measured(&mut self, name: impl Into<String>, why: impl std::fmt::Display) {
        self.not_measured.insert(name.into(), json!(why.to_string()));
    }
}

/// Measures.
pub(crate) fn run(quick: bool, arguments: &StoreArguments) -> Result<Report> {
    let folder = match &arguments.folder {
        Some(folder) => tempfile::Builder::new()
            .prefix("fleetmend-bench-store-")
            .tempdir_in(folder),
        None => tempfile::Builder::new()
            .prefix("fleetmend-bench-store-")
            .tempdir(),
    }
    .context("make a folder")?;
    let parameters = json!({"quick": quick, "percent": arguments.percent, "hostmetrics_seed": 1});
    let mut report = Report::new("store", SEED, parameters);
    let phases: Vec<Phase> = match arguments.phase {
        Some(only) => vec![only],
        None => Phase::ALL.to_vec(),
    };
    let data = folder.path().join("hostmetrics");
    if phases.iter().any(|phase| phase.needs_hostmetrics()) {
        hostmetrics(&arguments.hostmetrics, &data, quick)?;
    }
    let mut peak = 0.0_f64;
    for phase in phases {
        let begun = Instant::now();
        progress(format!("phase {}", phase.name()));
        let of_phase = folder.path().join(phase.name());
        std::fs::create_dir(&of_phase).with_context(|| format!("make {}", of_phase.display()))?;
        let found = child(phase, &of_phase, &data, quick, arguments.percent)?;
        std::fs::remove_dir_all(&of_phase).with_context(|| format!("delete {}", of_phase.display()))?;
        report.condition(
            &format!("{}_took_s", phase.name()),
            json!(begun.elapsed().as_secs()),
        );
        peak = peak.max(take_over(&mut report, &found));
    }
    if peak > 0.0 {
        report.figure("store_rss_peak_mib", peak, bar_of("store_rss_peak_mib"));
    }
    Ok(report)
}

fn bar_of(name: &str) -> Bar {
    BARS.iter()
        .find(|(figure, _)| *figure == name)
        .map_or(Bar::None, |(_, bar)| *bar)
}

/// Puts what a phase found into the answer; returns its peak of memory.
fn take_over(report: &mut Report, found: &Value) -> f64 {
    let of = |key: &str| found.get(key).and_then(Value::as_object).into_iter().flatten();
    let mut peak = 0.0_f64;
    for (name, value) in of("figures") {
        let value = value.as_f64().unwrap_or(f64::NAN);
        if name.ends_with("_rss_peak_mib") {
            peak = peak.max(value);
        }
        report.figure(name, value, bar_of(name));
    }
    for (name, value) in of("conditions") {
        report.condition(name, value.clone());
    }
    for (name, why) in of("not_measured") {
        report.not_measured(name, why.as_str().unwrap_or_default());
    }
    peak
}

/// Runs one phase in a process of its own.
fn child(phase: Phase, folder: &Path, data: &Path, quick: bool, percent: u32) -> Result<Value> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program)
        .arg("work-store")
        .arg(phase.name())
        .arg(folder)
        .arg(data)
        .args(["--percent", &percent.to_string()])
        .args(quick.then_some("--quick"))
        .env("MALLOC_CONF", MALLOC_CONF)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start phase {}", phase.name()))?;
    ensure!(
        output.status.success(),
        "phase {} ended with {}",
        phase.name(),
        output.status
    );
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("read what phase {} measured", phase.name()))
}

/// One phase, in this process.
pub(crate) fn work(quick: bool, arguments: &PhaseArguments) -> Result<()> {
    use std::io::Write as _;
    let size = Size {
        quick,
        percent: arguments.percent,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let folder = &arguments.folder;
    let found = runtime.block_on(async {
        match arguments.phase {
            Phase::Sizes => sizes::measure(folder, &arguments.data).await,
            Phase::Fleet => fleet::measure(folder, size).await,
            Phase::Events if arguments.again => events::ask_again(folder, size).await,
            Phase::Events => events::measure(folder, size).await,
            Phase::Peers => peers::measure(folder, &arguments.data).await,
        }
    })?;
    let answer = json!({
        "figures": found.figures, "conditions": found.conditions, "not_measured": found.not_measured,
    });
    writeln!(std::io::stdout(), "{answer}").context("print what was measured")
}

/// Makes the host metrics that bytes are measured with.
fn hostmetrics(script: &Path, out: &Path, quick: bool) -> Result<()> {
    if !script.is_file() {
        bail!(
            "the script that makes host metrics is not at {}: name it with --hostmetrics or FLEETMEND_BENCH_DATA",
            script.display()
        );
    }
    progress("make host metrics");
    let status = Command::new("python3")
        .arg(script)
        .arg(out)
        .args(["--seed", "1", "--forms", "rw,col"])
        .args(["--seconds", if quick { "600" } else { "3600" }])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("start python3")?;
    ensure!(status.success(), "{} ended with {status}", script.display());
    Ok(())
}
