//! The host-anomaly model: how far this host is from its own normal, learnt on the host in bounded memory.
//!
//! One vector of features per window goes in, a [`Scored`] comes out. The ONNX graph computes; this module owns
//! what the graph takes as inputs and what follows from its outputs:
//!
//! - **warm-up**: vectors are kept in a ring until `warmup_s` is full; then everything is learnt from the ring
//!   ([`HostAnomaly::learn`]): centre and scale first, then running sums ([`sums`]), a fit on the first 70 %
//!   ([`fit`]), residual scales and score history on the remaining 30 % that the fit did not see, and a fit on
//!   all. It is learnt again whenever the ring has doubled, until the ring is full;
//! - **watching**: each vector is scored, then taken into the sums with forgetting; every `refit_s` the
//!   parameters and the tails are fitted again;
//! - **scores**: four layers (temporal, temporal broad, level, subspace), each smoothed, turned into `-ln p` on
//!   its own history ([`tail`]), averaged, and held with a slow decay so that an event is one episode. A window
//!   is unusual when the episode rate of the average, or of one layer alone, is below the configured number of
//!   alerts per host-day;
//! - **learning stays possible**: an unusual window is left out of learning, but never more than
//!   `exclude_share_max` of the windows; when nearly every window was unusual for `regime_s`, the new regime is
//!   learnt from the ring and reported as such.
//!
//! Invariants: memory depends on the number of features and on the limits in [`HostAnomalyConfig`], never on
//! time; no input makes it panic; a missing value neither alarms nor teaches; the same vectors give the same
//! scores. Limits of this version: one daily period (no day of week), no boot, deployment or maintenance
//! context, and after a regime change the longer history is forgotten.

mod explain;
mod extract;
mod fit;
mod hidden;
mod learn;
mod linear;
pub(crate) mod metrics;
mod model;
mod score;
mod state;
mod sums;
mod tail;
pub mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_models::{Bundle, Feature};

use crate::onnx::{HostGraph, OnnxError, Runtime};

pub use explain::Contribution;
pub use extract::FeatureExtractor;
pub use learn::Learning;
pub use model::HostAnomaly;
pub use state::StateError;

/// Most features a model may have: the square sums grow with its square.
pub const FEATURES_MAX: usize = 512;

/// One window of features.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureVector {
    /// End of the window.
    pub time: TimeMicros,
    /// Scaled values in the order of the schema; NaN is missing.
    pub values: Vec<f32>,
}

/// What the host's side of the model is set to.
#[derive(Debug, Clone, PartialEq)]
pub struct HostAnomalyConfig {
    /// Length of a window.
    pub window_s: f64,
    /// How much is collected before the first fit.
    pub warmup_s: f64,
    /// How often everything is fitted again.
    pub refit_s: f64,
    /// After this long a window weighs half.
    pub half_life_s: f64,
    /// How far back scores are remembered for the tails.
    pub history_s: f64,
    /// The knob: wanted alerts per host-day.
    pub alerts_per_day: f64,
    /// Largest share of windows left out of learning.
    pub exclude_share_max: f64,
    /// How long a new state must last before it is accepted as the normal one.
    pub regime_s: f64,
    /// Vectors kept for learning anew.
    pub ring_windows_max: usize,
    /// Length of the period that the baseline knows; `None` for no baseline.
    pub period_s: Option<f64>,
    /// Whether it learns while it scores.
    pub learning: Learning,
}

impl Default for HostAnomalyConfig {
    fn default() -> Self {
        Self {
            window_s: 5.0,
            warmup_s: 600.0,
            refit_s: 3_600.0,
            half_life_s: 7.0 * 86_400.0,
            history_s: 2.0 * 86_400.0,
            alerts_per_day: 1.0,
            exclude_share_max: 0.10,
            regime_s: 6.0 * 3_600.0,
            ring_windows_max: 4_096,
            period_s: Some(86_400.0),
            learning: Learning::Refit,
        }
    }
}

/// What is scored: names and scaling of the features, and the key of the learnt state.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The features, in order.
    pub features: Arc<[Feature]>,
    /// Digest of the schema they came from.
    pub schema_sha256: String,
}

impl Subject {
    /// The features of a bundle.
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            features: bundle.schema().features.clone().into(),
            schema_sha256: bundle.schema_sha256().to_owned(),
        }
    }
}

/// A part of the model that judges on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Forecast from the recent past, strongest where few metrics deviate much.
    Temporal,
    /// The same, strongest where many metrics deviate a little.
    TemporalBroad,
    /// Distance from the daily baseline.
    Level,
    /// Mix of metrics that was never seen.
    Subspace,
}

impl Layer {
    /// All layers in the order of the graph's scores.
    pub const ALL: [Self; 4] = [Self::Temporal, Self::TemporalBroad, Self::Level, Self::Subspace];

    /// Name in findings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temporal => "temporal",
            Self::TemporalBroad => "temporal_broad",
            Self::Level => "level",
            Self::Subspace => "subspace",
        }
    }
}

/// One layer's part of a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerScore {
    /// Which layer.
    pub layer: Layer,
    /// Smoothed score, in RMS of its own residual.
    pub score: f64,
    /// Probability of a score at least as large in a window like those of its history.
    pub p: f64,
    /// Expected episodes a day that reach it.
    pub per_day: f64,
}

/// How a window compares with the host's own history.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// End of the window.
    pub time: TimeMicros,
    /// 0 for an everyday window to 1 for one never seen: 1 - `p`.
    pub score: f64,
    /// Probability of a window at least as surprising, from the layers together.
    pub p: f64,
    /// Mean of the layers' `-ln p`, held with a slow decay: unbounded, for ranking.
    pub surprise: f64,
    /// Expected episodes a day that are at least as surprising.
    pub per_day: f64,
    /// Whether this is rarer than the configured alerts per host-day.
    pub unusual: bool,
    /// The layers.
    pub layers: [LayerScore; 4],
    /// The features that made it, largest contribution first.
    pub top: Vec<Contribution>,
    /// A new regime was accepted with this window: what was unusual until now is normal from here on.
    pub regime_accepted: bool,
}

/// Builds the model of a bundle on a loaded runtime.
pub fn build(
    config: HostAnomalyConfig,
    bundle: &Bundle,
    runtime: &Runtime,
) -> Result<HostAnomaly, OnnxError> {
    let graph = HostGraph::new(runtime, bundle)?;
    Ok(HostAnomaly::new(
        config,
        Subject::of(bundle),
        &bundle.manifest().parameters,
        graph,
    ))
}
