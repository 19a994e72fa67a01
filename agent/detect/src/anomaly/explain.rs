//! Which features made a score.

use super::score::Smoother;
use super::{LayerScore, Subject};

/// Features named in an explanation.
const NAMED_MAX: usize = 5;

/// Smallest share of a score that is named.
const SHARE_MIN: f64 = 0.02;

/// Weight of temporal, level and subspace in an explanation: the subspace residual smears a cause over its kin.
const WEIGHTS: [f64; 3] = [1.0, 1.0, 0.5];

/// Index of the layer in `Layer::ALL` whose residuals are temporal, level and subspace.
const LAYER_OF: [usize; 3] = [0, 2, 3];

/// One feature's part in a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Contribution {
    /// Name of the feature.
    pub feature: String,
    /// Its unit.
    pub unit: String,
    /// Its value, unscaled.
    pub value: f64,
    /// What the daily baseline expects, unscaled.
    pub expected: f64,
    /// Share of the score, 0..1.
    pub contribution: f64,
    /// Position in the schema.
    pub index: usize,
}

/// The largest contributions. `x` and `expected` are scaled; missing features take no part.
pub(super) fn explain(
    subject: &Subject,
    smoother: &Smoother,
    layers: &[LayerScore; 4],
    mask: &[f32],
    x: &[f32],
    expected: &[f32],
) -> Vec<Contribution> {
    let mut shares = vec![0.0f64; subject.features.len()];
    for ((energy, weight), layer) in smoother.energy.iter().zip(WEIGHTS).zip(LAYER_OF) {
        let all: f64 = energy.iter().map(|value| f64::from(*value)).sum();
        let surprise = layers
            .get(layer)
            .map_or(0.0, |layer| -layer.p.max(f64::MIN_POSITIVE).ln());
        if all <= 0.0 {
            continue;
        }
        for ((share, value), present) in shares.iter_mut().zip(energy).zip(mask) {
            *share += weight * surprise * f64::from(*value * *present) / all;
        }
    }
    let total: f64 = shares.iter().sum();
    if total <= 0.0 || !total.is_finite() {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let share = |index: usize| shares.get(index).map_or(0.0, |share| share / total);
    order.sort_by(|a, b| share(*b).total_cmp(&share(*a)));
    let unscaled = |index: usize, values: &[f32]| {
        let scale = subject.features.get(index).map(|feature| feature.scale);
        values
            .get(index)
            .zip(scale)
            .map_or(f64::NAN, |(value, scale)| scale.undo(f64::from(*value)))
    };
    order
        .into_iter()
        .take(NAMED_MAX)
        .filter(|index| share(*index) >= SHARE_MIN)
        .filter_map(|index| {
            let feature = subject.features.get(index)?;
            Some(Contribution {
                feature: feature.name.clone(),
                unit: feature.unit.clone(),
                value: unscaled(index, x),
                expected: unscaled(index, expected),
                contribution: share(index),
                index,
            })
        })
        .collect()
}
