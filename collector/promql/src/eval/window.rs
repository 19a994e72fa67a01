//! Ranges: selectors with a duration, and subqueries, as windows that slide over samples.

use std::borrow::Cow;

use super::{Evaluator, Grid, is_present};
use crate::error::QueryError;
use crate::labels::Labels;
use crate::source::{STALE_BITS, SeriesSamples, SeriesWindow};
use crate::syntax::ast::{Edge, Expr, Node, Shift, Subquery};

/// Series with all samples that any window needs.
pub(crate) struct Ranges<'a> {
    pub(crate) series: Vec<RangeSeries<'a>>,
    pub(crate) range_ms: i64,
    pub(crate) shift: Shift,
}

pub(crate) struct RangeSeries<'a> {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) times: Cow<'a, [i64]>,
    pub(crate) values: Cow<'a, [f64]>,
    /// When each sample began to count; empty where that is not known.
    pub(crate) starts: Cow<'a, [i64]>,
    /// What stands in the place of samples.
    pub(crate) windows: &'a [SeriesWindow],
}

/// What a function over a range sees at one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'w> {
    /// Of the samples, rising. With `anchored` and `smoothed` also some outside of the window.
    pub(crate) times: &'w [i64],
    pub(crate) values: &'w [f64],
    /// When each of them began to count, 0 where unknown; empty where that is known of none.
    pub(crate) starts: &'w [i64],
    /// What stands in the place of samples. The samples of these reach into the window, or beyond.
    pub(crate) coarse: &'w [SeriesWindow],
    /// Not part of the window.
    pub(crate) start_ms: i64,
    /// Part of it.
    pub(crate) end_ms: i64,
    /// The step itself, whatever `@` and `offset` say.
    pub(crate) now_ms: i64,
    pub(crate) edge: Edge,
    /// Arguments beside the range.
    pub(crate) scalars: [f64; 2],
}

impl Window<'_> {
    pub(crate) fn range_seconds(&self) -> f64 {
        self.end_ms.saturating_sub(self.start_ms) as f64 / 1000.0
    }
}

/// The steps of a subquery for the steps around it: multiples of its own step, whatever those are.
pub(crate) fn inner_grid(subquery: &Subquery, first_ms: i64, last_ms: i64, default_step_ms: i64) -> Grid {
    let step = subquery.step_ms.unwrap_or(default_step_ms).max(1);
    let after = subquery.shift.apply(first_ms).saturating_sub(subquery.range_ms);
    let end = subquery.shift.apply(last_ms);
    let start = after.div_euclid(step).saturating_add(1).saturating_mul(step);
    Grid::between(start, end, step)
}

impl<'d> Evaluator<'d> {
    pub(crate) fn subquery_step_ms(&self) -> i64 {
        i64::try_from(self.options.subquery_step.as_millis()).unwrap_or(i64::MAX)
    }

    /// The ranges of an argument that the parser knows to be one.
    pub(crate) fn ranges(&self, expr: &Expr, grid: Grid) -> Result<Ranges<'d>, QueryError> {
        match &expr.bare().node {
            Node::Matrix(matrix) => {
                let data = self.data;
                let mut series = Vec::new();
                for one in data.of(matrix.selector.id) {
                    self.meter.tick(one.values.len())?;
                    series.push(RangeSeries {
                        windows: data.windows_of(matrix.selector.id, &one.labels),
                        ..without_markers(one)
                    });
                }
                Ok(Ranges {
                    series,
                    range_ms: matrix.range_ms,
                    shift: matrix.selector.shift,
                })
            }
            Node::Subquery(subquery) => self.subquery(subquery, grid),
            _ => Err(QueryError::execution("expected range vector")),
        }
    }

    fn subquery(&self, subquery: &Subquery, grid: Grid) -> Result<Ranges<'d>, QueryError> {
        let inner = inner_grid(subquery, grid.start_ms, grid.last(), self.subquery_step_ms());
        self.admit(1, inner)?;
        let mut series = Vec::new();
        let rows = if inner.steps == 0 {
            Vec::new()
        } else {
            self.rows(&subquery.inner, inner)?
        };
        // Beside the values stand their times.
        let _held = self.hold(&rows);
        self.admit(rows.len(), inner)?;
        for row in rows {
            self.meter.tick(row.values.len())?;
            let (times, values) = inner
                .times()
                .zip(row.values)
                .filter(|(_, value)| is_present(*value))
                .unzip();
            series.push(RangeSeries {
                labels: row.labels,
                drop_name: row.drop_name,
                times: Cow::Owned(times),
                values: Cow::Owned(values),
                starts: Cow::Borrowed(&[]),
                windows: &[],
            });
        }
        Ok(Ranges {
            series,
            range_ms: subquery.range_ms,
            shift: subquery.shift,
        })
    }

    /// Calls back for every step whose window has a sample, or lies where there were some.
    pub(crate) fn slide(
        &self,
        series: &RangeSeries<'_>,
        ranges: &Ranges<'_>,
        grid: Grid,
        mut visit: impl FnMut(usize, Window<'_>),
    ) -> Result<(), QueryError> {
        let lookback = self.lookback_ms();
        let (before, after) = match ranges.shift.edge {
            Edge::Plain => (0, 0),
            Edge::Anchored => (lookback, 0),
            Edge::Smoothed => (lookback, lookback),
        };
        let (mut low, mut high) = (0, 0);
        let times = series.times.as_ref();
        for (index, now_ms) in grid.times().enumerate() {
            let end_ms = ranges.shift.apply(now_ms);
            let start_ms = end_ms.saturating_sub(ranges.range_ms);
            let first = start_ms.saturating_sub(before);
            let last = end_ms.saturating_add(after);
            low += count_while(times, low, |time| time <= first);
            high = high.max(low);
            high += count_while(times, high, |time| time <= last);
            let (Some(times), Some(values)) = (times.get(low..high), series.values.get(low..high)) else {
                continue;
            };
            let coarse = overlapping(series.windows, start_ms, end_ms);
            self.meter.tick(times.len() + coarse.len() + 1)?;
            if !(times.is_empty() && coarse.is_empty()) {
                visit(
                    index,
                    Window {
                        times,
                        values,
                        starts: series.starts.get(low..high).unwrap_or_default(),
                        coarse,
                        start_ms,
                        end_ms,
                        now_ms,
                        edge: ranges.shift.edge,
                        scalars: [0.0; 2],
                    },
                );
            }
        }
        Ok(())
    }
}

/// The windows with samples later than `start_ms` and up to `end_ms`, as far as their first and last ones tell.
fn overlapping(windows: &[SeriesWindow], start_ms: i64, end_ms: i64) -> &[SeriesWindow] {
    let first = windows.partition_point(|window| window.last.0 <= start_ms);
    let end = windows.partition_point(|window| window.first.0 <= end_ms);
    windows.get(first..end).unwrap_or_default()
}

fn count_while(times: &[i64], from: usize, holds: impl Fn(i64) -> bool) -> usize {
    times
        .get(from..)
        .unwrap_or_default()
        .iter()
        .take_while(|time| holds(**time))
        .count()
}

fn without_markers(series: &SeriesSamples) -> RangeSeries<'_> {
    let (times, values, starts) = (&series.times_ms, &series.values, &series.starts_ms);
    let fresh = |value: &f64| value.to_bits() != STALE_BITS;
    let (times, values, starts) = if values.iter().all(fresh) {
        (
            Cow::Borrowed(times.as_slice()),
            Cow::Borrowed(values.as_slice()),
            Cow::Borrowed(starts.as_slice()),
        )
    } else {
        (kept(times, values), kept(values, values), kept(starts, values))
    };
    RangeSeries {
        labels: series.labels.clone(),
        drop_name: false,
        times,
        values,
        starts,
        windows: &[],
    }
}

/// What belongs to values that are no markers.
fn kept<'a, T: Copy>(all: &[T], values: &[f64]) -> Cow<'a, [T]> {
    all.iter()
        .zip(values)
        .filter(|(_, value)| value.to_bits() != STALE_BITS)
        .map(|(one, _)| *one)
        .collect()
}
