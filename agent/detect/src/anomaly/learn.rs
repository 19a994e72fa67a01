//! Learning from a run of vectors: basis, sums, residual scales and score history.

use super::fit::{Fitted, narrow};
use super::model::HostAnomaly;
use super::score::{Judge, Smoother, whole};
use super::sums::Sums;
use super::{FeatureVector, metrics};
use crate::onnx::OnnxError;

/// Share of a run on which the first fit is made; the rest measures how well it foresees.
const FITTED_SHARE: f64 = 0.7;

/// Shortest run worth learning from.
pub(super) const RUN_MIN: usize = 20;

/// Whether the model learns while it scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// It takes in what it scores and refits.
    Refit,
    /// It stays as it was learnt.
    Frozen,
}

/// Squared residuals of the three layers, with forgetting: what a metric's residual is divided by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Residuals {
    /// Temporal, level, subspace.
    pub(super) square: [Vec<f64>; 3],
    pub(super) weight: Vec<f64>,
}

impl Residuals {
    pub(super) fn new(metrics: usize) -> Self {
        Self {
            square: std::array::from_fn(|_| vec![0.0; metrics]),
            weight: vec![0.0; metrics],
        }
    }

    /// Takes in raw residuals of temporal, level and subspace; `keep` is what remains of the past.
    pub(super) fn add(&mut self, raw: [&[f32]; 3], mask: &[f32], keep: f64) {
        for (weight, present) in self.weight.iter_mut().zip(mask) {
            *weight = if *present > 0.0 {
                *weight * keep + 1.0
            } else {
                *weight
            };
        }
        for (square, raw) in self.square.iter_mut().zip(raw) {
            for ((sum, value), present) in square.iter_mut().zip(raw).zip(mask) {
                let value = f64::from(*value);
                if *present > 0.0 && value.is_finite() {
                    *sum = *sum * keep + value * value;
                }
            }
        }
    }

    /// One over the RMS of each metric's residual; metrics never seen are left as they are.
    pub(super) fn inverse(&self, floor: f64) -> [Vec<f32>; 3] {
        std::array::from_fn(|layer| {
            let square = self.square.get(layer).map_or(&[][..], Vec::as_slice);
            let rms = |(sum, weight): (&f64, &f64)| if *weight > 0.0 { (sum / weight).sqrt() } else { 1.0 };
            square
                .iter()
                .zip(&self.weight)
                .map(|pair| narrow(1.0 / rms(pair).max(floor)))
                .collect()
        })
    }
}

impl HostAnomaly {
    /// Learns everything anew from a run of vectors in order of time. What was known before is forgotten.
    ///
    /// A run shorter than 20 vectors changes nothing. After an error the model keeps what it knew.
    pub fn learn(&mut self, run: &[FeatureVector]) -> Result<(), OnnxError> {
        if run.len() < RUN_MIN {
            return Ok(());
        }
        self.relearn(run)?;
        let skip = run
            .len()
            .saturating_sub(self.config.ring_windows_max.max(RUN_MIN));
        self.ring = run.iter().skip(skip).cloned().collect();
        self.seen = run.len();
        self.learn_at = run.len().saturating_mul(2);
        Ok(())
    }

    pub(super) fn relearn(&mut self, run: &[FeatureVector]) -> Result<(), OnnxError> {
        let before = self.learnt.clone();
        let result = self.learn_run(run);
        if result.is_err() {
            self.learnt = before;
        }
        result
    }

    fn learn_run(&mut self, run: &[FeatureVector]) -> Result<(), OnnxError> {
        let metrics = self.shape.metrics;
        let (center, inv_scale) = basis(run, metrics, self.scale_floor);
        let learnt = &mut self.learnt;
        learnt.center = center;
        learnt.inv_scale = inv_scale;
        learnt.sums = Sums::new(metrics, self.shape.features(), self.shape.older());
        learnt.residuals = Residuals::new(metrics);
        learnt.fitted = Fitted::empty(&self.shape);
        learnt.inverse = std::array::from_fn(|_| vec![1.0; metrics]);
        learnt.primed = false;

        let (first, rest) = run.split_at(whole(run.len() as f64 * FITTED_SHARE).min(run.len()));
        for vector in first {
            let step = self.step(vector)?;
            self.accumulate(&step, 1.0);
        }
        self.refit();
        let (window, last) = (self.learnt.window.clone(), self.learnt.last);
        for vector in rest {
            let step = self.step(vector)?;
            self.learnt.residuals.add(step.raw(), &step.mask, 1.0);
            self.accumulate(&step, 1.0);
        }
        // The same windows again, now divided by their own RMS, make the score history.
        self.learnt.inverse = self.learnt.residuals.inverse(self.scale_floor);
        (self.learnt.window, self.learnt.last) = (window, last);
        let mut smoother = Smoother::default();
        let mut scores = Vec::with_capacity(rest.len());
        for vector in rest {
            let step = self.step(vector)?;
            scores.push(smoother.take(&step.outputs));
        }
        let mut judge = Judge::new(
            self.config.window_s,
            self.history_windows(),
            self.config.alerts_per_day,
        );
        judge.calibrate(&scores);
        self.learnt.judge = judge;
        self.learnt.smoother = smoother;
        self.learnt.ready = true;
        self.refit();
        metrics::fitted();
        Ok(())
    }
}

/// Mean and one over the standard deviation of each metric, over the vectors in which it is present.
fn basis(run: &[FeatureVector], metrics: usize, floor: f64) -> (Vec<f32>, Vec<f32>) {
    let mut count = vec![0.0f64; metrics];
    let mut mean = vec![0.0f64; metrics];
    let mut square = vec![0.0f64; metrics];
    for vector in run {
        let columns = count.iter_mut().zip(&mut mean).zip(&mut square);
        for (((count, mean), square), value) in columns.zip(&vector.values) {
            let value = f64::from(*value);
            if value.is_finite() {
                // Welford's update: exact enough for values far from zero.
                *count += 1.0;
                let delta = value - *mean;
                *mean += delta / *count;
                *square += delta * (value - *mean);
            }
        }
    }
    let inverse = square.iter().zip(&count).map(|(square, count)| {
        let deviation = if *count > 0.0 {
            (square / count).sqrt()
        } else {
            0.0
        };
        narrow(1.0 / deviation.max(floor))
    });
    let inverse: Vec<f32> = inverse.collect();
    (mean.into_iter().map(narrow).collect(), inverse)
}
