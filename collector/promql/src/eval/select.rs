//! Instant selectors: the latest sample before each step.

use super::{ABSENT, Evaluator, Grid, Row};
use crate::error::QueryError;
use crate::function::extended::interpolate;
use crate::source::{STALE_BITS, SeriesSamples, SeriesWindow};
use crate::syntax::ast::{Edge, Selector};

/// What is wanted of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Value,
    /// Its time in seconds.
    Time,
    /// When it began to count, in seconds; nothing where the source knows no such times.
    Start,
}

impl Evaluator<'_> {
    pub(crate) fn lookback_ms(&self) -> i64 {
        i64::try_from(self.options.lookback.as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn instant(
        &self,
        selector: &Selector,
        grid: Grid,
        look: Look,
    ) -> Result<Vec<Row>, QueryError> {
        let series = self.data.of(selector.id);
        self.admit(series.len(), grid)?;
        let mut rows = Vec::with_capacity(series.len());
        for one in series {
            self.meter.tick(grid.steps.saturating_add(one.times_ms.len()))?;
            let values = if selector.shift.edge == Edge::Smoothed && look == Look::Value {
                self.smoothed(one, selector, grid)
            } else {
                self.latest(one, selector, grid, look)
            };
            let row = Row {
                labels: one.labels.clone(),
                drop_name: false,
                values,
            };
            if !row.is_empty() {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    fn latest(&self, series: &SeriesSamples, selector: &Selector, grid: Grid, look: Look) -> Vec<f64> {
        let lookback = self.lookback_ms();
        let windows = self.data.windows_of(selector.id, &series.labels);
        let mut samples = (0_usize..)
            .zip(series.times_ms.iter().copied().zip(series.values.iter().copied()))
            .peekable();
        let mut latest: Option<(usize, (i64, f64))> = None;
        let mut values = Vec::with_capacity(grid.steps);
        for step in grid.times() {
            let at = selector.shift.apply(step);
            while let Some(sample) = samples.next_if(|(_, (time, _))| *time <= at) {
                latest = Some(sample);
            }
            values.push(match latest {
                Some((index, (time, value)))
                    if value.to_bits() != STALE_BITS
                        && (time > at.saturating_sub(lookback) || stands(windows, time, at)) =>
                {
                    match look {
                        Look::Value => value,
                        Look::Time => time as f64 / 1000.0,
                        Look::Start => {
                            (series.starts_ms.get(index)).map_or(ABSENT, |start| *start as f64 / 1000.0)
                        }
                    }
                }
                _ => ABSENT,
            });
        }
        values
    }

    /// Between the sample before and the one after; the one before when there is none after, nothing when there is none
    /// before.
    fn smoothed(&self, series: &SeriesSamples, selector: &Selector, grid: Grid) -> Vec<f64> {
        let lookback = self.lookback_ms();
        let fresh = |value: &f64| value.to_bits() != STALE_BITS;
        let samples: Vec<(i64, f64)> = (series.times_ms.iter().copied().zip(series.values.iter().copied()))
            .filter(|(_, value)| fresh(value))
            .collect();
        grid.times()
            .map(|step| {
                let at = selector.shift.apply(step);
                let after = samples.partition_point(|(time, _)| *time <= at);
                let before = after
                    .checked_sub(1)
                    .and_then(|index| samples.get(index))
                    .filter(|(time, _)| *time > at.saturating_sub(lookback));
                let next = samples
                    .get(after)
                    .filter(|(time, _)| *time <= at.saturating_add(lookback));
                match (before, next) {
                    (Some(before), _) if before.0 == at => before.1,
                    (Some(before), Some(next)) => interpolate(*before, *next, at, false),
                    (Some(before), None) => before.1,
                    (None, _) => ABSENT,
                }
            })
            .collect()
    }
}

/// Whether a sample is the first of a window whose samples go on until `at` or later: of those in between nothing is known
/// but that they were there, and so the first stands for its series however long the lookback is.
fn stands(windows: &[SeriesWindow], time_ms: i64, at_ms: i64) -> bool {
    let after = windows.partition_point(|window| window.first.0 <= time_ms);
    let window = after.checked_sub(1).and_then(|place| windows.get(place));
    window.is_some_and(|window| window.first.0 == time_ms && window.last.0 >= at_ms)
}
