//! Bounded running sums from which everything is refitted.
//!
//! Per window one symmetric outer product of `[z | features]` and one of `z` with the older half of the history:
//! means, covariance, lagged cross-products and the forecast's normal equations in one place, `n (n + 1) / 2`
//! numbers with `n = d + f` however long the host runs. Forgetting multiplies the weight of each new window
//! instead of shrinking the sums, which are rescaled long before that weight overflows.

/// The weight of a new window at which all sums are scaled back.
const GROWTH_MAX: f64 = 1e9;

/// Running sums over windows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sums {
    metrics: usize,
    features: usize,
    older: usize,
    /// Lower triangle, row by row, of the weighted sum of `v v'` with `v = [z | features]`.
    pub(super) square: Vec<f64>,
    /// Weighted sum of `z` times the older lags, `d` rows of `older` numbers.
    pub(super) cross: Vec<f64>,
    /// Weighted number of windows.
    pub(super) weight: f64,
    /// Weight of the next window.
    pub(super) growth: f64,
    /// Windows taken in, unweighted.
    pub(super) windows: u64,
    row: Vec<f64>,
}

impl Sums {
    /// Empty sums for `metrics` values, `features` of the forecast and `older` lagged values beyond them.
    pub(super) fn new(metrics: usize, features: usize, older: usize) -> Self {
        let n = metrics + features;
        Self {
            metrics,
            features,
            older,
            square: vec![0.0; n * (n + 1) / 2],
            cross: vec![0.0; metrics * older],
            weight: 0.0,
            growth: 1.0,
            windows: 0,
            row: Vec::with_capacity(n),
        }
    }

    /// Takes in one window; `forget` is the factor by which every later window weighs more.
    pub(super) fn add(&mut self, z: &[f32], features: &[f32], older: &[f32], forget: f64) {
        self.row.clear();
        self.row
            .extend(z.iter().chain(features).map(|value| f64::from(*value)));
        if self.row.len() != self.metrics + self.features || older.len() != self.older {
            return;
        }
        let mut rest = self.square.as_mut_slice();
        for (index, value) in self.row.iter().enumerate() {
            let (line, next) = rest.split_at_mut((index + 1).min(rest.len()));
            let weighted = value * self.growth;
            for (sum, other) in line.iter_mut().zip(&self.row) {
                *sum += weighted * other;
            }
            rest = next;
        }
        if self.older > 0 {
            for (line, value) in self.cross.chunks_exact_mut(self.older).zip(&self.row) {
                let weighted = value * self.growth;
                for (sum, other) in line.iter_mut().zip(older) {
                    *sum += weighted * f64::from(*other);
                }
            }
        }
        self.weight += self.growth;
        self.windows += 1;
        self.growth *= forget;
        if self.growth > GROWTH_MAX {
            self.rescale();
        }
    }

    fn rescale(&mut self) {
        let by = 1.0 / self.growth;
        self.square
            .iter_mut()
            .chain(&mut self.cross)
            .for_each(|sum| *sum *= by);
        self.weight *= by;
        self.growth = 1.0;
    }

    /// Number of windows the sums are worth: all without forgetting, its sum of weights with it.
    pub(super) fn effective(&self) -> f64 {
        self.weight / self.growth
    }

    /// Mean of `v[a] * v[b]`.
    pub(super) fn moment(&self, a: usize, b: usize) -> f64 {
        let (high, low) = if a >= b { (a, b) } else { (b, a) };
        self.mean(self.square.get(high * (high + 1) / 2 + low))
    }

    /// Mean of `z[metric]` times the `lagged`-th older value.
    pub(super) fn older_moment(&self, metric: usize, lagged: usize) -> f64 {
        self.mean(self.cross.get(metric * self.older + lagged))
    }

    fn mean(&self, sum: Option<&f64>) -> f64 {
        if self.weight > 0.0 {
            sum.copied().unwrap_or_default() / self.weight
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_windows() {
        let mut sums = Sums::new(2, 3, 1);
        sums.add(&[1.0, 2.0], &[3.0, 4.0, 1.0], &[5.0], 1.0);
        sums.add(&[2.0, 0.0], &[1.0, 1.0, 1.0], &[3.0], 1.0);
        assert_eq!(sums.moment(0, 0), 2.5);
        assert_eq!(sums.moment(0, 2), 2.5);
        assert_eq!(sums.moment(2, 0), 2.5);
        assert_eq!(sums.moment(3, 4), 2.5);
        assert_eq!(sums.older_moment(0, 0), 5.5);
        assert_eq!(sums.effective(), 2.0);
    }

    #[test]
    fn forgetting_weighs_the_past_less_and_never_overflows() {
        let mut sums = Sums::new(1, 1, 0);
        for _ in 0..100 {
            sums.add(&[1.0], &[1.0], &[], 2.0);
        }
        for _ in 0..1_000 {
            sums.add(&[0.0], &[1.0], &[], 2.0);
        }
        assert!(sums.moment(0, 0) < 1e-20);
        assert!((sums.moment(1, 1) - 1.0).abs() < 1e-9);
        assert!((sums.effective() - 1.0).abs() < 1.1 && sums.growth <= GROWTH_MAX * 2.0);
    }

    #[test]
    fn window_of_another_shape_is_not_taken_in() {
        let mut sums = Sums::new(2, 1, 0);
        sums.add(&[1.0], &[1.0], &[], 1.0);
        assert_eq!(sums.windows, 0);
    }
}
