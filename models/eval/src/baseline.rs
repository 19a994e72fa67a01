//! What the model is compared with, each fitted on train and scored causally on test.

mod forest;
mod kmeans;

use crate::npy::Array;
use crate::random::Pcg64;

/// The model's own smoothing, given to the baselines too.
const TRAILING: usize = 5;

/// Constants of the model, so that the distance from the mean is compared on equal terms.
const SCALE_FLOOR: f64 = 0.01;
const CLIP: f64 = 20.0;

/// A baseline's scores of the test windows.
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    pub(crate) scores: Vec<f64>,
}

/// All baselines.
pub(crate) fn all(train: &Array, test: &Array, windows_per_day: f64) -> Vec<Baseline> {
    let mut random = Pcg64::numpy_zero();
    let (train, test_z) = (standardise(train, train), standardise(train, test));
    let distance: Vec<f64> = test_z
        .rows()
        .map(|row| (row.iter().map(|z| z * z).sum::<f64>() / row.len() as f64).sqrt())
        .collect();
    vec![
        Baseline {
            name: "random",
            scores: (0..test.len()).map(|_| random.uniform()).collect(),
        },
        Baseline {
            name: "distance_from_mean",
            scores: trailing_mean(&distance),
        },
        Baseline {
            name: "isolation_forest",
            scores: trailing_mean(&forest::scores(&train, &test_z)),
        },
        Baseline {
            name: "kmeans_consensus",
            scores: trailing_mean(&kmeans::scores(&train, &test_z, windows_per_day)),
        },
    ]
}

fn standardise(train: &Array, values: &Array) -> Array {
    let scale: Vec<(f64, f64)> = (0..train.columns)
        .map(|column| {
            let column = train.column(column);
            let mean = column.iter().sum::<f64>() / column.len() as f64;
            let variance = column
                .iter()
                .map(|value| (value - mean) * (value - mean))
                .sum::<f64>()
                / column.len() as f64;
            (mean, variance.sqrt().max(SCALE_FLOOR))
        })
        .collect();
    let standard = |row: &[f64]| -> Vec<f64> {
        row.iter()
            .zip(&scale)
            .map(|(value, (mean, scale))| ((value - mean) / scale).clamp(-CLIP, CLIP))
            .collect()
    };
    Array {
        columns: values.columns,
        data: values.rows().flat_map(standard).collect(),
    }
}

fn trailing_mean(scores: &[f64]) -> Vec<f64> {
    let mean = |end: usize| {
        let part = scores
            .get((end + 1).saturating_sub(TRAILING)..=end)
            .unwrap_or_default();
        part.iter().sum::<f64>() / part.len().max(1) as f64
    };
    (0..scores.len()).map(mean).collect()
}
