//! The shipped model over one series: learnt on train, then window by window over test.

use std::sync::Arc;
use std::time::Instant;

use agent_detect::anomaly::{FeatureVector, HostAnomaly, HostAnomalyConfig, Learning, Subject};
use agent_detect::onnx::{HostGraph, Runtime};
use fleetmend_event::TimeMicros;
use fleetmend_models::{Bundle, Feature, Scale, Source};

use crate::npy::Array;

/// What the model said about the test windows.
pub(crate) struct Run {
    pub(crate) scores: Vec<f64>,
    pub(crate) unusual: Vec<bool>,
    /// Metric with the largest contribution, from 1.
    pub(crate) top: Vec<Option<usize>>,
    pub(crate) regimes: usize,
    pub(crate) observe_us: Vec<f64>,
}

/// How long a window is, and whether a day is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) step_s: f64,
    pub(crate) period_s: Option<f64>,
}

/// Learns on train and scores test.
pub(crate) fn run(
    bundle: &Bundle,
    runtime: &Runtime,
    train: &Array,
    test: &Array,
    clock: Clock,
    learning: Learning,
    alerts_per_day: f64,
) -> anyhow::Result<Run> {
    let features: Vec<Feature> = (0..train.columns).map(feature).collect();
    let subject = Subject {
        features: Arc::from(features),
        schema_sha256: "0".repeat(64),
    };
    let config = HostAnomalyConfig {
        window_s: clock.step_s,
        period_s: clock.period_s,
        // A fit every six hours: the series are weeks of minutes, and the figure is the same as hourly.
        refit_s: 6.0 * 3_600.0,
        learning,
        alerts_per_day,
        ..HostAnomalyConfig::default()
    };
    let graph = HostGraph::new(runtime, bundle)?;
    let mut model = HostAnomaly::new(config, subject, &bundle.manifest().parameters, graph);
    let vector = |(index, row): (usize, &[f64])| FeatureVector {
        time: TimeMicros(micros(index as f64 * clock.step_s)),
        values: row.iter().map(|value| narrow(*value)).collect(),
    };
    let history: Vec<FeatureVector> = train.rows().enumerate().map(vector).collect();
    model.learn(&history)?;
    let mut run = Run {
        scores: Vec::new(),
        unusual: Vec::new(),
        top: Vec::new(),
        regimes: 0,
        observe_us: Vec::new(),
    };
    for (index, row) in test.rows().enumerate() {
        let vector = vector((history.len() + index, row));
        let started = Instant::now();
        let scored = model.observe(&vector)?;
        run.observe_us.push(started.elapsed().as_secs_f64() * 1e6);
        let scored = scored.ok_or_else(|| anyhow::anyhow!("train is too short to learn from"))?;
        run.scores.push(scored.surprise);
        run.unusual.push(scored.unusual);
        run.top.push(scored.top.first().map(|part| part.index + 1));
        run.regimes += usize::from(scored.regime_accepted);
    }
    Ok(run)
}

/// The series are scaled to about 0..1 already.
fn feature(index: usize) -> Feature {
    Feature {
        name: (index + 1).to_string(),
        unit: "1".to_owned(),
        from: Source {
            metric: (index + 1).to_string(),
            attributes: Default::default(),
            without: Default::default(),
            reduce: Default::default(),
            rate: false,
        },
        per: None,
        scale: Scale::Linear(1.0),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the model takes 32 bits")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, reason = "a time within the series")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6) as i64
}
