//! The model of one host: what it has learnt, and one window at a time through the graph.

use std::collections::VecDeque;
use std::time::Instant;

use fleetmend_event::TimeMicros;
use fleetmend_models::Parameters;

use super::explain::explain;
use super::fit::{Fitted, Season, Shape, fit, narrow};
use super::learn::{RUN_MIN, Residuals};
use super::score::{Judge, Judgement, Smoother, whole};
use super::sums::Sums;
use super::{FeatureVector, HostAnomalyConfig, Learning, Scored, Subject, hidden, metrics};
use crate::onnx::{GraphInputs, GraphOutputs, HostGraph, OnnxError};

/// Periods that must have been seen before the time of day is learnt.
const PERIODS_MIN: f64 = 2.0;

/// Windows that may be missing before the recent past is forgotten.
const GAP_WINDOWS_MAX: f64 = 3.0;

/// Score histories never hold more windows.
const HISTORY_WINDOWS_MAX: usize = 40_000;

/// How much faster a regime change is forgotten by a quiet window than built up by an unusual one.
const REGIME_RELAX: usize = 10;

/// Everything that was learnt; what [`super::state`] saves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Learnt {
    pub(super) ready: bool,
    pub(super) center: Vec<f32>,
    pub(super) inv_scale: Vec<f32>,
    pub(super) sums: Sums,
    pub(super) residuals: Residuals,
    pub(super) fitted: Fitted,
    /// One over the RMS of the temporal, level and subspace residuals.
    pub(super) inverse: [Vec<f32>; 3],
    pub(super) judge: Judge,
    pub(super) smoother: Smoother,
    /// Standardised vectors, newest first.
    pub(super) window: Vec<f32>,
    pub(super) primed: bool,
    pub(super) last: TimeMicros,
}

/// The host-anomaly model of one host. See the module's text.
pub struct HostAnomaly {
    pub(super) config: HostAnomalyConfig,
    pub(super) subject: Subject,
    pub(super) shape: Shape,
    pub(super) scale_floor: f64,
    pub(super) learnt: Learnt,
    pub(super) ring: VecDeque<FeatureVector>,
    hidden_weight: Vec<f32>,
    hidden_bias: Vec<f32>,
    graph: HostGraph,
    since_fit: usize,
    pub(super) learn_at: usize,
    pub(super) seen: usize,
    exclude_budget: f64,
    unusual_run: usize,
}

/// One window as it went through the graph.
pub(super) struct Step {
    pub(super) outputs: GraphOutputs,
    pub(super) x: Vec<f32>,
    pub(super) mask: Vec<f32>,
    older: Vec<f32>,
}

impl Step {
    pub(super) fn raw(&self) -> [&[f32]; 3] {
        [
            &self.outputs.temporal_raw,
            &self.outputs.level_raw,
            &self.outputs.subspace_raw,
        ]
    }
}

impl HostAnomaly {
    /// A model that knows nothing yet.
    pub fn new(
        config: HostAnomalyConfig,
        subject: Subject,
        parameters: &Parameters,
        graph: HostGraph,
    ) -> Self {
        let shape = Shape {
            metrics: subject.features.len(),
            lags: parameters.lags,
            season: parameters.season,
            hidden: parameters.hidden_units,
            window: parameters.window,
        };
        let (hidden_weight, hidden_bias) = hidden::units(parameters.hidden_seed, shape.past(), shape.hidden);
        let d = shape.metrics;
        let learnt = Learnt {
            ready: false,
            center: vec![0.0; d],
            inv_scale: vec![1.0; d],
            sums: Sums::new(d, shape.features(), shape.older()),
            residuals: Residuals::new(d),
            fitted: Fitted::empty(&shape),
            inverse: std::array::from_fn(|_| vec![1.0; d]),
            judge: Judge::new(config.window_s, 1, config.alerts_per_day),
            smoother: Smoother::default(),
            window: vec![0.0; d * shape.window.saturating_sub(1)],
            primed: false,
            last: TimeMicros(0),
        };
        let learn_at = whole(config.warmup_s / config.window_s).max(RUN_MIN);
        Self {
            config,
            subject,
            shape,
            scale_floor: parameters.scale_floor,
            learnt,
            ring: VecDeque::new(),
            hidden_weight,
            hidden_bias,
            graph,
            since_fit: 0,
            learn_at,
            seen: 0,
            exclude_budget: 0.0,
            unusual_run: 0,
        }
    }

    /// Whether the warm-up is over.
    pub fn is_ready(&self) -> bool {
        self.learnt.ready
    }

    /// Takes in one window; the answer is `None` while the model warms up.
    pub fn observe(&mut self, vector: &FeatureVector) -> Result<Option<Scored>, OnnxError> {
        if vector.values.len() != self.shape.metrics {
            return Ok(None);
        }
        self.keep(vector);
        if !self.learnt.ready {
            if self.ring.len() >= self.learn_at {
                self.learn_ring()?;
            }
            return Ok(None);
        }
        let started = Instant::now();
        let step = self.step(vector)?;
        metrics::inferred(
            started.elapsed(),
            step.mask.iter().filter(|present| **present == 0.0).count(),
        );
        let scores = self.learnt.smoother.take(&step.outputs);
        let judgement = self.learnt.judge.judge(&scores);
        let mut scored = self.scored(vector, &step, &judgement);
        if judgement.unusual {
            metrics::unusual();
        }
        if self.config.learning == Learning::Refit {
            self.learn_from(&step, &scores, &judgement);
            scored.regime_accepted = self.keep_up(judgement.unusual)?;
        }
        Ok(Some(scored))
    }

    /// Runs one vector through the graph and moves the recent past on.
    pub(super) fn step(&mut self, vector: &FeatureVector) -> Result<Step, OnnxError> {
        let d = self.shape.metrics;
        let learnt = &mut self.learnt;
        let pause_s = vector.time.micros_since(learnt.last) as f64 / 1e6;
        if pause_s.abs() > GAP_WINDOWS_MAX * self.config.window_s {
            learnt.primed = false;
        }
        learnt.last = vector.time;
        let mask: Vec<f32> = vector
            .values
            .iter()
            .map(|value| if value.is_finite() { 1.0 } else { 0.0 })
            .collect();
        let present = vector.values.iter().zip(&learnt.center);
        let x: Vec<f32> = present
            .map(|(value, center)| if value.is_finite() { *value } else { *center })
            .collect();
        if !learnt.primed {
            // The past before the first window is taken to have been like it.
            let standard = x.iter().zip(&learnt.center).zip(&learnt.inv_scale);
            let z: Vec<f32> = standard
                .map(|((x, center), inverse)| ((x - center) * inverse).clamp(-20.0, 20.0))
                .collect();
            learnt
                .window
                .chunks_mut(d.max(1))
                .for_each(|row| row.copy_from_slice(&z));
            learnt.primed = true;
        }
        let season = season(vector.time, self.config.period_s, self.shape.season);
        let [temporal_inv, level_inv, subspace_inv] = &learnt.inverse;
        let outputs = self.graph.run(&GraphInputs {
            x: &x,
            mask: &mask,
            history: &learnt.window,
            season: &season,
            center: &learnt.center,
            inv_scale: &learnt.inv_scale,
            baseline: &learnt.fitted.baseline,
            hidden_weight: &self.hidden_weight,
            hidden_bias: &self.hidden_bias,
            forecast: &learnt.fitted.forecast,
            window_center: &learnt.fitted.window_center,
            basis: &learnt.fitted.basis,
            level_inv,
            subspace_inv,
            temporal_inv,
        })?;
        let older = learnt
            .window
            .get(d * self.shape.lags..)
            .unwrap_or_default()
            .to_vec();
        let all = learnt.window.len();
        learnt.window.copy_within(..all.saturating_sub(d), d.min(all));
        learnt
            .window
            .iter_mut()
            .zip(&outputs.z)
            .for_each(|(slot, z)| *slot = *z);
        Ok(Step {
            outputs,
            x,
            mask,
            older,
        })
    }

    pub(super) fn accumulate(&mut self, step: &Step, forget: f64) {
        self.learnt
            .sums
            .add(&step.outputs.z, &step.outputs.features, &step.older, forget);
    }

    /// Fits parameters, scales and tails to what was taken in.
    pub(super) fn refit(&mut self) {
        let seen_s = self.learnt.sums.windows as f64 * self.config.window_s;
        let season = match self.config.period_s {
            Some(period) if seen_s >= PERIODS_MIN * period => Season::Open,
            _ => Season::Closed,
        };
        self.learnt.fitted = fit(&self.shape, &self.learnt.sums, season);
        self.since_fit = 0;
    }

    pub(super) fn history_windows(&self) -> usize {
        whole(self.config.history_s / self.config.window_s).clamp(RUN_MIN, HISTORY_WINDOWS_MAX)
    }

    fn keep(&mut self, vector: &FeatureVector) {
        while self.ring.len() >= self.config.ring_windows_max.max(RUN_MIN) {
            self.ring.pop_front();
        }
        self.ring.push_back(vector.clone());
        self.seen += 1;
    }

    /// Learns anew from the ring.
    fn learn_ring(&mut self) -> Result<(), OnnxError> {
        let run: Vec<FeatureVector> = self.ring.iter().cloned().collect();
        self.relearn(&run)?;
        self.learn_at = self.seen.saturating_mul(2);
        Ok(())
    }

    /// Takes a scored window into sums, scales and histories, unless it is unusual and may be left out.
    fn learn_from(&mut self, step: &Step, scores: &[f64; 4], judgement: &Judgement) {
        let share = self.config.exclude_share_max;
        let most = share * self.history_windows() as f64;
        self.exclude_budget = (self.exclude_budget + share).min(most);
        if judgement.unusual && self.exclude_budget >= 1.0 {
            self.exclude_budget -= 1.0;
            metrics::excluded();
            return;
        }
        let half_life = (self.config.half_life_s / self.config.window_s).max(1.0);
        let keep = 0.5f64.powf(1.0 / half_life);
        self.accumulate(step, 1.0 / keep);
        self.learnt.residuals.add(step.raw(), &step.mask, keep);
        self.learnt.judge.remember(scores, judgement.surprise);
    }

    /// Refits when it is time, learns anew while the ring still grows, accepts a regime that lasted.
    fn keep_up(&mut self, unusual: bool) -> Result<bool, OnnxError> {
        self.since_fit += 1;
        let regime = whole(self.config.regime_s / self.config.window_s).max(RUN_MIN);
        self.unusual_run = if unusual {
            self.unusual_run + 1
        } else {
            self.unusual_run.saturating_sub(REGIME_RELAX)
        };
        if self.unusual_run >= regime {
            self.unusual_run = 0;
            self.learn_ring()?;
            metrics::regime_accepted();
            return Ok(true);
        }
        if self.seen >= self.learn_at && self.ring.len() == self.seen {
            self.learn_ring()?;
            return Ok(false);
        }
        if self.since_fit >= whole(self.config.refit_s / self.config.window_s).max(1) {
            self.refit();
            self.learnt.inverse = self.learnt.residuals.inverse(self.scale_floor);
            self.learnt.judge.refit();
            metrics::fitted();
        }
        Ok(false)
    }

    fn scored(&self, vector: &FeatureVector, step: &Step, judgement: &Judgement) -> Scored {
        let levels = step.outputs.z.iter().zip(&step.outputs.level_raw);
        let basis = self.learnt.center.iter().zip(&self.learnt.inv_scale);
        let expected: Vec<f32> = levels
            .zip(basis)
            .map(|((z, level), (center, inverse))| (z - level) / inverse + center)
            .collect();
        Scored {
            time: vector.time,
            score: 1.0 - judgement.p,
            p: judgement.p,
            surprise: judgement.surprise,
            per_day: judgement.per_day,
            unusual: judgement.unusual,
            layers: judgement.layers,
            top: explain(
                &self.subject,
                &self.learnt.smoother,
                &judgement.layers,
                &step.mask,
                &step.x,
                &expected,
            ),
            regime_accepted: false,
        }
    }
}

/// Sines, then cosines, of the first harmonics of the period; zeros without one.
fn season(time: TimeMicros, period_s: Option<f64>, size: usize) -> Vec<f32> {
    let Some(period) = period_s else {
        return vec![0.0; size];
    };
    let phase = std::f64::consts::TAU * ((time.0 as f64 / 1e6).rem_euclid(period) / period);
    let half = size / 2;
    (0..size)
        .map(|index| {
            let harmonic = (index % half.max(1) + 1) as f64 * phase;
            narrow(if index < half {
                harmonic.sin()
            } else {
                harmonic.cos()
            })
        })
        .collect()
}
