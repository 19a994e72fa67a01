//! From running sums to the parameters of the graph, in closed form.

use super::linear::{Matrix, leading, solve};
use super::sums::Sums;

/// Share of the window's variance that the kept directions explain.
const EXPLAINED: f64 = 0.9;

/// Most directions kept, for the inference budget.
const DIRECTIONS_MAX: usize = 96;

/// Ridge for plenty of data, in variances of a standardised feature.
const RIDGE: f64 = 1e-3;

/// How much the ridge grows when windows are few: this times (features / windows) squared.
const RIDGE_SCARCE: f64 = 0.25;

/// Ridge of the time-of-day features before enough days were seen: they stay out of the fit.
const RIDGE_CLOSED: f64 = 1e9;

/// Whether the time of day may be learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Season {
    /// Enough days were seen.
    Open,
    /// They were not.
    Closed,
}

/// Shape of the problem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Metrics.
    pub(super) metrics: usize,
    /// Lags of the forecast.
    pub(super) lags: usize,
    /// Time-of-day features.
    pub(super) season: usize,
    /// Random units.
    pub(super) hidden: usize,
    /// Steps of the subspace window.
    pub(super) window: usize,
}

impl Shape {
    /// Inputs of the random units.
    pub(super) fn past(&self) -> usize {
        self.metrics * self.lags + self.season
    }

    /// Features of the forecast.
    pub(super) fn features(&self) -> usize {
        self.past() + self.hidden + 1
    }

    /// Lagged values of the window that the forecast does not see.
    pub(super) fn older(&self) -> usize {
        self.metrics * self.window.saturating_sub(1 + self.lags)
    }
}

/// What was fitted, row by row as the graph reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fitted {
    pub(super) forecast: Vec<f32>,
    pub(super) baseline: Vec<f32>,
    pub(super) window_center: Vec<f32>,
    pub(super) basis: Vec<f32>,
}

impl Fitted {
    /// Parameters that foresee nothing, for the time before the first fit.
    pub(super) fn empty(shape: &Shape) -> Self {
        let window = shape.metrics * shape.window;
        Self {
            forecast: vec![0.0; shape.features() * shape.metrics],
            baseline: vec![0.0; (shape.season + 1) * shape.metrics],
            window_center: vec![0.0; window],
            basis: vec![0.0; window],
        }
    }
}

/// Fits all layers. Where the arithmetic fails, a layer stays empty and its residual is the plain level.
pub(super) fn fit(shape: &Shape, sums: &Sums, season: Season) -> Fitted {
    let mut fitted = Fitted::empty(shape);
    if sums.effective() < 1.0 {
        return fitted;
    }
    let d = shape.metrics;
    let clock = d + d * shape.lags..d + shape.past();
    let closed = |index: usize| season == Season::Closed && clock.contains(&index);
    let features: Vec<usize> = (d..d + shape.features()).collect();
    if let Some(solution) = ridge(sums, d, &features, &closed) {
        fitted.forecast = solution;
    }
    let baseline: Vec<usize> = clock.clone().chain([d + shape.features() - 1]).collect();
    if let Some(solution) = ridge(sums, d, &baseline, &closed) {
        fitted.baseline = solution;
    }
    if let Some((center, basis)) = subspace(shape, sums) {
        fitted.window_center = center;
        fitted.basis = basis;
    }
    fitted
}

/// Ridge regression of the metrics on the chosen entries of `v`; one row per entry, one column per metric.
fn ridge(sums: &Sums, metrics: usize, chosen: &[usize], closed: &dyn Fn(usize) -> bool) -> Option<Vec<f32>> {
    let scarcity = chosen.len() as f64 / sums.effective();
    let open = RIDGE + RIDGE_SCARCE * scarcity * scarcity;
    let normal = Matrix::from_fn(chosen.len(), chosen.len(), |row, column| {
        let (Some(a), Some(b)) = (chosen.get(row), chosen.get(column)) else {
            return 0.0;
        };
        let extra = match (a == b, closed(*a)) {
            (false, _) => 0.0,
            (true, true) => RIDGE_CLOSED,
            (true, false) => open,
        };
        sums.moment(*a, *b) + extra
    });
    let target = Matrix::from_fn(metrics, chosen.len(), |metric, column| {
        chosen
            .get(column)
            .map_or(0.0, |feature| sums.moment(*feature, metric))
    });
    let solution = solve(normal, target)?;
    let column = |feature: usize| {
        solution
            .rows()
            .map(move |row| narrow(row.get(feature).copied().unwrap_or_default()))
    };
    let flat: Vec<f32> = (0..chosen.len()).flat_map(column).collect();
    flat.iter().all(|value| value.is_finite()).then_some(flat)
}

/// Mean and principal directions of the window, from lagged cross-products taken as stationary: the covariance
/// of steps i and j depends on j - i only.
fn subspace(shape: &Shape, sums: &Sums) -> Option<(Vec<f32>, Vec<f32>)> {
    let (d, steps) = (shape.metrics, shape.window);
    let one = d + shape.features() - 1;
    let mean: Vec<f64> = (0..d).map(|metric| sums.moment(metric, one)).collect();
    // E[z_t[a] z_{t-lag}[b]]
    let lagged = |lag: usize, a: usize, b: usize| match lag {
        0 => sums.moment(a, b),
        lag if lag <= shape.lags => sums.moment(a, d * lag + b),
        lag => sums.older_moment(a, d * (lag - shape.lags - 1) + b),
    };
    let size = d * steps;
    let covariance = Matrix::from_fn(size, size, |row, column| {
        let (i, a, j, b) = (row / d, row % d, column / d, column % d);
        let product = if j >= i {
            lagged(j - i, a, b)
        } else {
            lagged(i - j, b, a)
        };
        product - mean.get(a).zip(mean.get(b)).map_or(0.0, |(a, b)| a * b)
    });
    let total: f64 =
        (0..d).map(|metric| lagged(0, metric, metric)).sum::<f64>() - mean.iter().map(|m| m * m).sum::<f64>();
    let total = total * steps as f64;
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    let (values, vectors) = leading(&covariance, DIRECTIONS_MAX);
    let mut explained = 0.0;
    let mut kept = 0;
    for value in &values {
        kept += 1;
        explained += value.max(0.0);
        if explained > EXPLAINED * total {
            break;
        }
    }
    let column = |component: usize| {
        vectors
            .rows()
            .take(kept)
            .map(move |row| narrow(row.get(component).copied().unwrap_or_default()))
    };
    let basis: Vec<f32> = (0..size).flat_map(column).collect();
    let center = (0..size)
        .map(|index| narrow(mean.get(index % d).copied().unwrap_or_default()))
        .collect();
    basis
        .iter()
        .all(|value| value.is_finite())
        .then_some((center, basis))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the graph computes in 32 bits; parameters are of order one"
)]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        metrics: 2,
        lags: 1,
        season: 0,
        hidden: 0,
        window: 3,
    };

    /// z0 is its own past times 0.8; z1 copies z0.
    fn autoregressive() -> Sums {
        let mut sums = Sums::new(2, SHAPE.features(), SHAPE.older());
        let (mut past, mut older, mut noise) = ([0.0f32; 2], [0.0f32; 2], 1u32);
        for _ in 0..5_000 {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let shock = (noise >> 8) as f32 / 16_777_216.0 - 0.5;
            let next = 0.8 * past[0] + shock;
            let z = [next, next];
            sums.add(&z, &[past[0], past[1], 1.0], &older, 1.0);
            (older, past) = (past, z);
        }
        sums
    }

    #[test]
    fn forecast_finds_the_autoregression() {
        let fitted = fit(&SHAPE, &autoregressive(), Season::Closed);
        let weight = fitted.forecast[0] + fitted.forecast[2];
        assert!((weight - 0.8).abs() < 0.03, "{weight}");
    }

    #[test]
    fn directions_are_orthonormal_and_hold_the_common_movement() {
        let fitted = fit(&SHAPE, &autoregressive(), Season::Closed);
        let kept = fitted.basis.len() / 6;
        assert!((1..=2).contains(&kept), "{kept} directions for one movement");
        let square: f32 = fitted.basis.chunks(kept).map(|row| row[0] * row[0]).sum();
        assert!((square - 1.0).abs() < 1e-4);
    }

    #[test]
    fn nothing_seen_fits_nothing() {
        let sums = Sums::new(2, SHAPE.features(), SHAPE.older());
        assert_eq!(fit(&SHAPE, &sums, Season::Closed), Fitted::empty(&SHAPE));
    }

    #[test]
    fn constant_metrics_leave_finite_parameters() {
        let mut sums = Sums::new(2, SHAPE.features(), SHAPE.older());
        for _ in 0..100 {
            sums.add(&[0.0, 0.0], &[0.0, 0.0, 1.0], &[0.0, 0.0], 1.0);
        }
        let fitted = fit(&SHAPE, &sums, Season::Closed);
        assert!(
            fitted
                .forecast
                .iter()
                .chain(&fitted.basis)
                .all(|value| value.is_finite())
        );
    }
}
