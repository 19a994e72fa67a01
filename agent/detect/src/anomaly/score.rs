//! From the graph's outputs to a judgement: smoothing, tail probabilities, fusion and the episode rate.

use super::fit::narrow;
use super::tail::{EpisodeRate, History, Tail};
use super::{Layer, LayerScore};
use crate::onnx::GraphOutputs;

/// Weight of the newest window in the smoothed scores: about five windows of memory.
const SMOOTHING: f64 = 0.3;

/// How much of its surprise an event keeps from one window to the next.
const HOLD: f64 = 0.9;

/// Share of the alert budget that the layers together may spend; single layers share the rest.
const COMBINED_SHARE: f64 = 0.7;

/// Layers that may alert alone. Temporal broad sees what temporal sees.
const ALONE: [Layer; 3] = [Layer::Temporal, Layer::Level, Layer::Subspace];

/// Shortest quiet time between two episodes, in seconds.
const EPISODE_GAP_S: f64 = 300.0;

/// Fewest windows behind the fitted tails before anything is called unusual.
const HISTORY_MIN: usize = 30;

/// Smoothed layer scores and, per metric, smoothed squared residuals of the three residual layers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Smoother {
    pub(super) started: bool,
    pub(super) layers: [f64; 4],
    /// Temporal, level, subspace.
    pub(super) energy: [Vec<f32>; 3],
}

impl Smoother {
    pub(super) fn take(&mut self, outputs: &GraphOutputs) -> [f64; 4] {
        let by = if self.started { SMOOTHING } else { 1.0 };
        for (smooth, score) in self.layers.iter_mut().zip(outputs.scores) {
            let score = if score.is_finite() {
                f64::from(score)
            } else {
                *smooth
            };
            *smooth += by * (score - *smooth);
        }
        let residuals = [&outputs.temporal, &outputs.level, &outputs.subspace];
        for (energy, residual) in self.energy.iter_mut().zip(residuals) {
            energy.resize(residual.len(), 0.0);
            for (smooth, value) in energy.iter_mut().zip(residual) {
                *smooth += narrow(by) * (value * value - *smooth);
            }
        }
        self.started = true;
        self.layers
    }
}

/// What the layers' scores amount to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judgement {
    pub(super) layers: [LayerScore; 4],
    pub(super) surprise: f64,
    pub(super) p: f64,
    pub(super) per_day: f64,
    pub(super) unusual: bool,
}

/// Histories of the scores and the tails fitted to them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judge {
    pub(super) histories: [History; 4],
    pub(super) combined: History,
    pub(super) held: f64,
    tails: [Tail; 4],
    rates: [EpisodeRate; 4],
    combined_tail: Tail,
    combined_rate: EpisodeRate,
    windows_per_day: f64,
    gap: usize,
    alerts_per_day: f64,
}

impl Judge {
    pub(super) fn new(window_s: f64, history_windows: usize, alerts_per_day: f64) -> Self {
        let history = History::new(history_windows);
        Self {
            histories: [history.clone(), history.clone(), history.clone(), history.clone()],
            combined: history,
            held: 0.0,
            tails: std::array::from_fn(|_| Tail::unknown()),
            rates: std::array::from_fn(|_| EpisodeRate::unknown()),
            combined_tail: Tail::unknown(),
            combined_rate: EpisodeRate::unknown(),
            windows_per_day: 86_400.0 / window_s,
            gap: whole(EPISODE_GAP_S / window_s).max(3),
            alerts_per_day,
        }
    }

    /// Learns the tails from the smoothed scores of windows that the fit did not see, in their order.
    pub(super) fn calibrate(&mut self, windows: &[[f64; 4]]) {
        for window in windows {
            self.remember_layers(window);
        }
        self.refit_layers();
        self.held = 0.0;
        for window in windows {
            let surprise = self.combine(window);
            self.combined.push(narrow(surprise));
        }
        self.refit_combined();
    }

    /// Judges one window; the held surprise moves on.
    pub(super) fn judge(&mut self, scores: &[f64; 4]) -> Judgement {
        let surprise = self.combine(scores);
        let per_day = self.combined_rate.at(surprise);
        let mut layers = Layer::ALL.map(|layer| LayerScore {
            layer,
            score: 0.0,
            p: 1.0,
            per_day: f64::INFINITY,
        });
        for (((layer, score), tail), rate) in layers.iter_mut().zip(scores).zip(&self.tails).zip(&self.rates)
        {
            layer.score = *score;
            layer.p = (-tail.surprise(*score)).exp();
            layer.per_day = rate.at(*score);
        }
        let alone = self.alerts_per_day * (1.0 - COMBINED_SHARE) / ALONE.len() as f64;
        let enough = self.combined_rate.windows() >= HISTORY_MIN;
        let together = per_day <= self.alerts_per_day * COMBINED_SHARE;
        let one = layers
            .iter()
            .any(|score| ALONE.contains(&score.layer) && score.per_day <= alone);
        Judgement {
            layers,
            surprise,
            p: (-self.combined_tail.surprise(surprise)).exp(),
            per_day,
            unusual: enough && (together || one),
        }
    }

    /// Adds a judged window to the histories.
    pub(super) fn remember(&mut self, scores: &[f64; 4], surprise: f64) {
        self.remember_layers(scores);
        self.combined.push(narrow(surprise));
    }

    /// Fits all tails to the histories.
    pub(super) fn refit(&mut self) {
        self.refit_layers();
        self.refit_combined();
    }

    fn remember_layers(&mut self, scores: &[f64; 4]) {
        for (history, score) in self.histories.iter_mut().zip(scores) {
            history.push(narrow(*score));
        }
    }

    fn refit_layers(&mut self) {
        for ((history, tail), rate) in self.histories.iter().zip(&mut self.tails).zip(&mut self.rates) {
            *tail = Tail::of(history);
            *rate = EpisodeRate::of(history, self.windows_per_day, self.gap);
        }
    }

    fn refit_combined(&mut self) {
        self.combined_tail = Tail::of(&self.combined);
        self.combined_rate = EpisodeRate::of(&self.combined, self.windows_per_day, self.gap);
    }

    /// Mean of the layers' surprise, held.
    fn combine(&mut self, scores: &[f64; 4]) -> f64 {
        let sum: f64 = self
            .tails
            .iter()
            .zip(scores)
            .map(|(tail, score)| tail.surprise(*score))
            .sum();
        self.held = (sum / self.tails.len() as f64).max(HOLD * self.held);
        self.held
    }
}

/// A positive number of windows, rounded.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a float to integer cast saturates"
)]
pub(super) fn whole(windows: f64) -> usize {
    windows.round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_extreme_layer_is_unusual_alone() {
        let mut judge = Judge::new(60.0, 2_880, 1.0);
        let quiet: Vec<[f64; 4]> = (0..2_880)
            .map(|window| [1.0 + f64::from(window % 17) * 0.01; 4])
            .collect();
        judge.calibrate(&quiet);
        assert!(!judge.judge(&[1.1; 4]).unusual);
        let judged = judge.judge(&[1.1, 1.1, 40.0, 1.1]);
        assert!(judged.unusual && judged.layers[2].p < 1e-6, "{judged:?}");
    }

    #[test]
    fn surprise_is_held_and_decays() {
        let mut judge = Judge::new(60.0, 2_880, 1.0);
        judge.calibrate(
            &(0..500)
                .map(|window| [f64::from(window % 50); 4])
                .collect::<Vec<_>>(),
        );
        let peak = judge.judge(&[500.0; 4]).surprise;
        let after = judge.judge(&[1.0; 4]).surprise;
        assert!((after - HOLD * peak).abs() < 1e-9);
    }

    #[test]
    fn no_history_means_nothing_is_unusual() {
        let mut judge = Judge::new(60.0, 100, 1.0);
        assert!(!judge.judge(&[1e9; 4]).unusual);
        judge.calibrate(&[[1.0; 4]; 5]);
        assert!(!judge.judge(&[1e9; 4]).unusual);
    }
}
