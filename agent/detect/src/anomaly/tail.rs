//! How rare a score is, judged by the host's own history.
//!
//! [`Tail`] turns one layer's score into `-ln p`: empirical below the 98th percentile of a rolling history, an
//! exponential tail with the mean excess above it. [`EpisodeRate`] turns a score into the number of episodes a
//! day that reach it: peaks over the same percentile are declustered into episodes and a generalised Pareto tail
//! is fitted to them by moments, heavy when they are few. Both are refitted, never updated in between, so that a
//! long incident cannot raise its own threshold window by window.

use std::collections::VecDeque;

use super::score::whole;

/// Quantile above which the tail is modelled.
const TAIL_FROM: f64 = 0.98;

/// Points of the empirical part.
const QUANTILES: usize = 512;

/// Shape of the tail while fewer than [`PEAKS_FOR_SHAPE`] episodes are known: heavy, hence cautious.
const SHAPE_UNKNOWN: f64 = 0.3;

/// Episodes from which the tail's shape is estimated.
const PEAKS_FOR_SHAPE: usize = 10;

/// Windows of history at which the tail is taken as twice as wide as it was seen: a short history proves little.
const HISTORY_HALF_TRUSTED: f64 = 120.0;

/// Largest shape: beyond it the tail has no variance and thresholds run away.
const SHAPE_MAX: f64 = 0.5;

/// The latest scores, at most a fixed number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    pub(super) scores: VecDeque<f32>,
    pub(super) most: usize,
}

impl History {
    pub(super) fn new(most: usize) -> Self {
        Self {
            scores: VecDeque::new(),
            most: most.max(1),
        }
    }

    pub(super) fn push(&mut self, score: f32) {
        if !score.is_finite() {
            return;
        }
        while self.scores.len() >= self.most {
            self.scores.pop_front();
        }
        self.scores.push_back(score);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.scores.iter().map(|score| f64::from(*score)).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * sorted.len().saturating_sub(1) as f64;
    let below = position.floor();
    let at = |index: usize| sorted.get(index).or(sorted.last()).copied().unwrap_or_default();
    let index = whole(below);
    at(index) + (at(index + 1) - at(index)) * (position - below)
}

/// Tail probability of one layer's score.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tail {
    quantiles: Vec<f64>,
    from: f64,
    excess: f64,
}

impl Tail {
    /// A tail that finds nothing rare.
    pub(super) fn unknown() -> Self {
        Self {
            quantiles: Vec::new(),
            from: f64::INFINITY,
            excess: 1.0,
        }
    }

    /// The tail of a history.
    pub(super) fn of(history: &History) -> Self {
        let sorted = history.sorted();
        if sorted.is_empty() {
            return Self::unknown();
        }
        let from = quantile(&sorted, TAIL_FROM);
        let above: Vec<f64> = sorted
            .iter()
            .filter(|score| **score > from)
            .map(|score| score - from)
            .collect();
        let mean = above.iter().sum::<f64>() / above.len().max(1) as f64;
        // Few or equal scores: a tail as wide as a tenth of the score itself, rather than none.
        let excess = if above.is_empty() { 0.1 * from.abs() } else { mean };
        let share = |index: usize| index as f64 / (QUANTILES - 1) as f64;
        let quantiles = (0..QUANTILES)
            .map(|index| quantile(&sorted, share(index)))
            .collect();
        Self {
            quantiles,
            from,
            excess: excess.max(1e-6),
        }
    }

    /// `-ln` of the probability of a score at least this large.
    pub(super) fn surprise(&self, score: f64) -> f64 {
        if !score.is_finite() || self.quantiles.is_empty() {
            return 0.0;
        }
        if score > self.from {
            return -(1.0 - TAIL_FROM).ln() + (score - self.from) / self.excess;
        }
        let below = self.quantiles.partition_point(|quantile| *quantile < score);
        let p = 1.0 - below as f64 / QUANTILES as f64;
        -p.max(1.0 - TAIL_FROM).ln()
    }
}

/// Episodes per day that reach a score.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EpisodeRate {
    from: f64,
    per_day: f64,
    scale: f64,
    shape: f64,
    windows: usize,
}

impl EpisodeRate {
    /// A rate under which every score is common.
    pub(super) fn unknown() -> Self {
        Self {
            from: f64::INFINITY,
            per_day: f64::INFINITY,
            scale: 1.0,
            shape: SHAPE_UNKNOWN,
            windows: 0,
        }
    }

    /// The rate in a history; exceedances less than `gap` windows apart are one episode.
    pub(super) fn of(history: &History, windows_per_day: f64, gap: usize) -> Self {
        let sorted = history.sorted();
        if sorted.is_empty() {
            return Self::unknown();
        }
        let from = quantile(&sorted, TAIL_FROM);
        let peaks = peaks(history, from, gap);
        let days = sorted.len() as f64 / windows_per_day;
        // One more than was seen: a history without episodes does not prove that there are none.
        let per_day = (peaks.len() + 1) as f64 / days;
        let count = peaks.len().max(1) as f64;
        let mean = (peaks.iter().sum::<f64>() / count)
            .max(0.02 * from.abs())
            .max(1e-6);
        let variance = peaks
            .iter()
            .map(|peak| (peak - mean) * (peak - mean))
            .sum::<f64>()
            / count;
        let (scale, shape) = if peaks.len() < PEAKS_FOR_SHAPE || variance <= 0.0 {
            (mean, SHAPE_UNKNOWN)
        } else {
            let ratio = mean * mean / variance;
            let shape = (0.5 * (1.0 - ratio)).clamp(0.0, SHAPE_MAX);
            (mean * (1.0 - shape), shape)
        };
        let doubt = 1.0 + HISTORY_HALF_TRUSTED / sorted.len() as f64;
        Self {
            from,
            per_day,
            scale: scale * doubt,
            shape,
            windows: sorted.len(),
        }
    }

    /// Windows of the history it was fitted to.
    pub(super) fn windows(&self) -> usize {
        self.windows
    }

    /// Episodes per day whose peak is at least `score`.
    pub(super) fn at(&self, score: f64) -> f64 {
        if !score.is_finite() || score <= self.from {
            return f64::INFINITY;
        }
        let excess = (score - self.from) / self.scale;
        let tail = if self.shape < 1e-6 {
            (-excess).exp()
        } else {
            (1.0 + self.shape * excess).powf(-1.0 / self.shape)
        };
        self.per_day * tail
    }
}

/// Heights above `from` of the episodes in a history.
fn peaks(history: &History, from: f64, gap: usize) -> Vec<f64> {
    let mut peaks = Vec::new();
    let mut current: Option<f64> = None;
    let mut quiet = 0;
    for score in &history.scores {
        let excess = f64::from(*score) - from;
        if excess > 0.0 {
            current = Some(current.map_or(excess, |peak| peak.max(excess)));
            quiet = 0;
        } else {
            quiet += 1;
            if quiet >= gap {
                peaks.extend(current.take());
            }
        }
    }
    peaks.extend(current);
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponential(count: usize) -> History {
        let mut history = History::new(count);
        let mut state = 12_345u64;
        for _ in 0..count {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 / (1u64 << 53) as f64).max(1e-12);
            history.push(crate::anomaly::fit::narrow(-uniform.ln()));
        }
        history
    }

    #[test]
    fn surprise_of_an_exponential_score_is_the_score() {
        let tail = Tail::of(&exponential(20_000));
        for score in [0.5, 2.0, 3.0, 6.0, 9.0] {
            assert!(
                (tail.surprise(score) - score).abs() < 0.15 * score,
                "{score}: {}",
                tail.surprise(score)
            );
        }
    }

    #[test]
    fn rate_falls_as_an_exponential_tail_does() {
        // A day of 10,000 windows; each exceedance is an episode when the gap is 1.
        let rate = EpisodeRate::of(&exponential(20_000), 10_000.0, 1);
        let wanted = 10_000.0 * (-8.0f64).exp();
        let found = rate.at(8.0);
        assert!(
            found > wanted / 3.0 && found < wanted * 3.0,
            "{found} where {wanted} was expected"
        );
        assert_eq!(rate.at(0.1), f64::INFINITY);
    }

    #[test]
    fn neighbouring_exceedances_are_one_episode() {
        let mut history = History::new(1_000);
        for window in 0..1_000 {
            history.push(if (500..510).contains(&window) { 5.0 } else { 0.0 });
        }
        assert_eq!(peaks(&history, 1.0, 5).len(), 1);
    }

    #[test]
    fn history_is_bounded_and_ignores_what_is_no_number() {
        let mut history = History::new(10);
        (0..100).for_each(|index| history.push(index as f32));
        history.push(f32::NAN);
        assert_eq!(history.scores.len(), 10);
        assert_eq!(history.scores.back(), Some(&99.0));
    }

    #[test]
    fn unknown_history_finds_nothing_rare() {
        assert_eq!(Tail::unknown().surprise(1e9), 0.0);
        assert_eq!(EpisodeRate::unknown().at(1e9), f64::INFINITY);
    }

    #[test]
    fn constant_history_still_measures_distance() {
        let mut history = History::new(100);
        (0..100).for_each(|_| history.push(1.0));
        let tail = Tail::of(&history);
        assert!(tail.surprise(3.0) > tail.surprise(1.5));
        assert!(tail.surprise(3.0).is_finite());
    }
}
