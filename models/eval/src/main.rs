//! `fleetmend-eval`: scores the shipped host-anomaly model on labelled series, through the code that ships.
//!
//! Every series is learnt on its train part and scored causally on its test part, once frozen and once refitting
//! while it scores; nothing looks at the labels but the scoring. See [`report`] for what is printed.

mod baseline;
mod data;
mod detect;
mod npy;
mod random;
mod report;
mod score;
mod window;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use agent_detect::anomaly::Learning;
use agent_detect::onnx::Runtime;
use anyhow::Context;
use clap::Parser;
use fleetmend_models::Bundle;
use serde_json::{Map, json};

use crate::data::{Dataset, Series, events};
use crate::detect::{Clock, Run};
use crate::report::{Figures, SeriesReport};

/// Windows an alert may pause and still be the same episode.
const EPISODE_GAP: usize = 5;

/// Length of a window when train shows no day.
const STEP_DEFAULT_S: f64 = 60.0;

/// Scores a model on labelled series.
#[derive(Debug, Parser)]
#[command(name = "fleetmend-eval")]
struct Arguments {
    /// The model; `host-anomaly` is the one there is.
    #[arg(value_parser = ["host-anomaly"], default_value = "host-anomaly")]
    model: String,
    /// A folder of series, or of such folders; may be given several times.
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// A model bundle other than the shipped one.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// File of the ONNX Runtime library.
    #[arg(long, env = "FLEETMEND_ONNXRUNTIME")]
    library: Option<PathBuf>,
    /// Seconds between two windows; found from the daily period of train when not given.
    #[arg(long)]
    step_s: Option<f64>,
    /// Wanted alerts per host-day, for the threshold.
    #[arg(long, default_value_t = 1.0)]
    alerts_per_day: f64,
    /// Series scored at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let bundle = match &arguments.bundle {
        Some(folder) => Bundle::read(folder)?,
        None => Bundle::shipped()?,
    };
    let runtime = Runtime::load(library(arguments.library.clone()).as_deref())?;
    let mut datasets = Map::new();
    let mut means = Vec::new();
    for folder in &arguments.data {
        for dataset in data::find(folder)? {
            let reports = score_dataset(&arguments, &bundle, &runtime, &dataset)?;
            let (mean, value) = report::dataset(&reports);
            means.push(mean);
            datasets.insert(dataset.name, value);
        }
    }
    let mean = means.iter().sum::<f64>() / means.len().max(1) as f64;
    let manifest = bundle.manifest();
    let value = json!({
        "eval": manifest.name,
        "model": { "version": manifest.version, "graph_sha256": manifest.graph.sha256 },
        "conditions": { "alerts_per_day": arguments.alerts_per_day, "point_adjustment": false, "threshold": "history only" },
        "mean_vus_pr": (mean * 1e4).round() / 1e4,
        "datasets": datasets,
    });
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{value}").context("print the report")
    } else {
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?).context("print the report")
    }
}

/// The library where the tools install it, unless told otherwise.
fn library(told: Option<PathBuf>) -> Option<PathBuf> {
    let cached = || {
        let home = std::env::var_os("HOME")?;
        let path = PathBuf::from(home).join(".cache/fleetmend/onnxruntime-1.31.1/libonnxruntime.so");
        path.is_file().then_some(path)
    };
    told.or_else(cached)
}

fn score_dataset(
    arguments: &Arguments,
    bundle: &Bundle,
    runtime: &Runtime,
    dataset: &Dataset,
) -> anyhow::Result<Vec<SeriesReport>> {
    let waiting = Mutex::new(dataset.series.iter());
    let done = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let name = waiting.lock().map_or(None, |mut names| names.next());
            let Some(name) = name else { return Ok(()) };
            let report = score_series(arguments, bundle, runtime, &dataset.read(name)?)?;
            eprintln!(
                "{}/{name}: VUS-PR {:.3} frozen, {:.3} refitted",
                dataset.name, report.frozen.vus_pr, report.refitted.vus_pr
            );
            if let Ok(mut done) = done.lock() {
                done.push(report);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a scoring thread panicked"))?
        })
    })?;
    let mut reports = done
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a scoring thread panicked"))?;
    reports.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(reports)
}

fn score_series(
    arguments: &Arguments,
    bundle: &Bundle,
    runtime: &Runtime,
    series: &Series,
) -> anyhow::Result<SeriesReport> {
    let columns: Vec<Vec<f64>> = (0..series.train.columns)
        .map(|column| series.train.column(column))
        .collect();
    let day = match arguments.step_s {
        Some(step_s) => Some(86_400.0 / step_s),
        None => window::windows_per_day(&columns).map(|day| day as f64),
    };
    let clock = Clock {
        step_s: day.map_or(STEP_DEFAULT_S, |day| 86_400.0 / day),
        period_s: day.map(|_| 86_400.0),
    };
    let first: Vec<f64> = columns
        .first()
        .cloned()
        .unwrap_or_default()
        .into_iter()
        .chain(series.test.column(0))
        .collect();
    let windows = [
        window::vus_window(&first),
        window::vus_window(&series.test.column(0)),
    ];
    let model = |learning| {
        detect::run(
            bundle,
            runtime,
            &series.train,
            &series.test,
            clock,
            learning,
            arguments.alerts_per_day,
        )
    };
    let (frozen, refitted) = (model(Learning::Frozen)?, model(Learning::Refit)?);
    let baselines = baseline::all(&series.train, &series.test, 86_400.0 / clock.step_s);
    let mut took = frozen.observe_us.clone();
    took.sort_by(f64::total_cmp);
    let share = |share: f64| {
        took.get(percentile(took.len(), share))
            .copied()
            .unwrap_or_default()
    };
    Ok(SeriesReport {
        name: series.name.clone(),
        metrics: series.train.columns,
        test_windows: series.test.len(),
        events: events(&series.label).len(),
        step_s: clock.step_s,
        daily_period: day.is_some(),
        vus_window: windows[0],
        frozen: judged(series, &frozen, windows, clock),
        refitted: judged(series, &refitted, windows, clock),
        regimes_accepted: refitted.regimes,
        observe_p50_us: share(0.5),
        observe_p99_us: share(0.99),
        baselines: baselines
            .iter()
            .map(|baseline| (baseline.name, ranked(series, &baseline.scores, windows)))
            .collect(),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a position within the list")]
fn percentile(count: usize, share: f64) -> usize {
    (count as f64 * share) as usize
}

/// Figures that need only the scores.
fn ranked(series: &Series, scores: &[f64], [window, test_window]: [usize; 2]) -> Figures {
    let (auc_pr, best_f1) = score::precision_recall(&series.label, scores);
    Figures {
        vus_pr: score::vus_pr(&series.label, scores, window),
        vus_pr_test_window: score::vus_pr(&series.label, scores, test_window),
        auc_pr,
        best_f1,
        ..Figures::default()
    }
}

/// Figures of the model: its alerts and its explanations too.
fn judged(series: &Series, run: &Run, windows: [usize; 2], clock: Clock) -> Figures {
    let days = series.test.len() as f64 * clock.step_s / 86_400.0;
    let episodes = score::episodes(&series.label, &run.unusual, EPISODE_GAP, days);
    let named: Vec<bool> = series
        .named
        .iter()
        .filter_map(|named| {
            let part = run
                .scores
                .get(named.from..=named.to.min(run.scores.len().saturating_sub(1)))?;
            let worst = part.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?.0;
            let top = run.top.get(named.from + worst).copied().flatten();
            Some(top.is_some_and(|top| named.metrics.contains(&top)))
        })
        .collect();
    let right = named.iter().filter(|right| **right).count() as f64;
    Figures {
        event_recall: Some(episodes.recall),
        false_episodes_per_day: Some(episodes.false_per_day),
        top_metric_in_list: (!named.is_empty()).then(|| right / named.len() as f64),
        ..ranked(series, &run.scores, windows)
    }
}
