//! Differences that begin and end exactly where the range does: `anchored` takes the last sample before, `smoothed`
//! interpolates.

use std::ops::Range;

use super::rate::Kind;
use crate::eval::Window;
use crate::syntax::ast::Edge;

/// A value between two samples. A counter that was reset between them began at zero.
pub(crate) fn interpolate(before: (i64, f64), after: (i64, f64), at_ms: i64, is_counter: bool) -> f64 {
    let from = if is_counter && after.1 < before.1 {
        0.0
    } else {
        before.1
    };
    let part = at_ms.saturating_sub(before.0) as f64 / after.0.saturating_sub(before.0) as f64;
    from + (after.1 - from) * part
}

/// Where an anchored window begins: at the last sample before it, if there is one.
pub(crate) fn first_anchored(window: &Window<'_>) -> Option<usize> {
    if *window.times.last()? <= window.start_ms {
        return None;
    }
    let last = window.times.len() - 1;
    let after = window
        .times
        .get(..last)?
        .partition_point(|time| *time <= window.start_ms);
    Some(after.saturating_sub(1))
}

/// A range with a value at either end.
struct Ends {
    left: f64,
    right: f64,
    /// The samples strictly between.
    between: Range<usize>,
}

fn ends(window: &Window<'_>, is_counter: bool) -> Option<Ends> {
    let smoothed = window.edge == Edge::Smoothed;
    let end = window.times.len().checked_sub(1)?;
    let before_end = window.times.get(..end)?;
    let first = before_end
        .partition_point(|time| *time <= window.start_ms)
        .saturating_sub(1);
    let last = if smoothed {
        before_end.partition_point(|time| *time < window.end_ms)
    } else {
        end
    };
    let sample = |index: usize| Some((*window.times.get(index)?, *window.values.get(index)?));
    let (first_sample, last_sample) = (sample(first)?, sample(last)?);
    if last_sample.0 <= window.start_ms || first_sample.0 > window.end_ms {
        return None;
    }
    let left = if smoothed && first_sample.0 < window.start_ms {
        interpolate(first_sample, sample(first + 1)?, window.start_ms, is_counter)
    } else {
        first_sample.1
    };
    let right = if smoothed && last > 0 && last_sample.0 > window.end_ms {
        interpolate(sample(last - 1)?, last_sample, window.end_ms, is_counter)
    } else {
        last_sample.1
    };
    let from = first + usize::from(first_sample.0 <= window.start_ms);
    let to = last + usize::from(last_sample.0 < window.end_ms);
    Some(Ends {
        left,
        right,
        between: from..to.max(from),
    })
}

pub(crate) fn difference(window: &Window<'_>, kind: Kind) -> Option<f64> {
    let is_counter = kind != Kind::Delta;
    let ends = ends(window, is_counter)?;
    let mut difference = ends.right - ends.left;
    if is_counter {
        let between = window.values.get(ends.between).unwrap_or_default();
        difference += resets(ends.left, ends.right, between);
    }
    if kind == Kind::Rate {
        difference /= window.range_seconds();
    }
    Some(difference)
}

/// Times and values of a range that is asked for by itself: its samples, and one at either end.
pub(crate) fn points(window: &Window<'_>) -> Option<(Vec<i64>, Vec<f64>)> {
    let ends = ends(window, false)?;
    let mut times = vec![window.start_ms];
    times.extend_from_slice(window.times.get(ends.between.clone()).unwrap_or_default());
    times.push(window.end_ms);
    let mut values = vec![ends.left];
    values.extend_from_slice(window.values.get(ends.between).unwrap_or_default());
    values.push(ends.right);
    Some((times, values))
}

fn resets(left: f64, right: f64, between: &[f64]) -> f64 {
    let mut correction = 0.0;
    let mut before = left;
    for value in between.iter().chain(std::iter::once(&right)) {
        if *value < before {
            correction += before;
        }
        before = *value;
    }
    correction
}
