//! What a family's programs cost the traced ones, and how much it sheds when that is more than its budget.

use std::time::{Duration, Instant};

use super::family::DutyTime;

/// Looks in a row above the budget before the family sheds more.
const OVER_LOOKS: u32 = 2;
/// Looks in a row below half of it before it sheds less again.
const UNDER_LOOKS: u32 = 10;
/// Less time than this between two looks says nothing.
const SPAN_MIN: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(crate) struct Toll {
    /// Percent of one core; `None` without a budget.
    bound: Option<f64>,
    levels: u32,
    level: u32,
    over: u32,
    under: u32,
    last: Vec<DutyTime>,
    last_look: Instant,
    /// Percent of one core that each duty took between the last two looks.
    pct: Vec<f64>,
}

impl Toll {
    pub(crate) fn new(bound: Option<f64>, levels: usize, now: Instant) -> Self {
        Self {
            bound,
            levels: u32::try_from(levels).unwrap_or(u32::MAX),
            level: 0,
            over: 0,
            under: 0,
            last: Vec::new(),
            last_look: now,
            pct: Vec::new(),
        }
    }

    /// Takes over a reading; says the level of shedding when that changes.
    pub(crate) fn look(&mut self, times: &[DutyTime], now: Instant) -> Option<u32> {
        let span = now.saturating_duration_since(self.last_look);
        if span < SPAN_MIN {
            return None;
        }
        self.last_look = now;
        let before = std::mem::replace(&mut self.last, times.to_vec());
        let used = |(at, time): (usize, &DutyTime)| {
            let before = before.get(at).copied().unwrap_or_default();
            let since = DutyTime {
                runs: time.runs.saturating_sub(before.runs),
                timed_runs: time.timed_runs.saturating_sub(before.timed_runs),
                timed_ns: time.timed_ns.saturating_sub(before.timed_ns),
            };
            // A duty that ran, and was never timed while it did, took what it takes on the average.
            let mean = if since.timed_runs == 0 {
                time.mean_ns()
            } else {
                since.mean_ns()
            };
            100.0 * mean * count(since.runs) / 1e9 / span.as_secs_f64()
        };
        self.pct = times.iter().enumerate().map(used).collect();
        let bound = self.bound?;
        let all = self.pct();
        self.over = if all > bound { self.over + 1 } else { 0 };
        self.under = if all < bound / 2.0 { self.under + 1 } else { 0 };
        let level = if self.over >= OVER_LOOKS {
            (self.level + 1).min(self.levels)
        } else if self.under >= UNDER_LOOKS {
            self.level.saturating_sub(1)
        } else {
            self.level
        };
        if level == self.level {
            return None;
        }
        (self.level, self.over, self.under) = (level, 0, 0);
        Some(level)
    }

    /// How much is shed: so many of the family's levels.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }

    /// What all duties took, in percent of one core.
    pub(crate) fn pct(&self) -> f64 {
        self.pct.iter().sum()
    }

    /// What each duty took, in percent of one core.
    pub(crate) fn duties_pct(&self) -> &[f64] {
        &self.pct
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a percentage does not need more than 53 bits"
)]
fn count(runs: u64) -> f64 {
    runs as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many runs of a microsecond, one of 64 timed.
    fn runs(runs: u64) -> DutyTime {
        DutyTime {
            runs,
            timed_runs: runs / 64,
            timed_ns: runs / 64 * 1_000,
        }
    }

    #[test]
    fn family_over_its_budget_sheds_level_by_level_and_comes_back() {
        let begun = Instant::now();
        let mut toll = Toll::new(Some(5.0), 2, begun);
        let mut levels = Vec::new();
        let mut total = 0;
        let mut at = begun;
        // A hundred thousand runs a second are 10 % of a core.
        for per_second in [100_000; 6].into_iter().chain([1_000; 25]) {
            total += per_second;
            at += Duration::from_secs(1);
            levels.extend(toll.look(&[runs(total)], at));
        }
        assert_eq!(levels, [1, 2, 1, 0]);
        assert!(toll.pct() < 0.2, "{}", toll.pct());
    }

    #[test]
    fn family_without_a_budget_or_without_levels_never_sheds() {
        let begun = Instant::now();
        for mut toll in [Toll::new(None, 2, begun), Toll::new(Some(0.1), 0, begun)] {
            for second in 1..20 {
                let at = begun + Duration::from_secs(second);
                assert_eq!(toll.look(&[runs(second * 1_000_000)], at), None);
            }
            assert!(toll.pct() > 50.0);
        }
    }
}
