//! Differences over a range: `rate`, `increase`, `delta` and what is like them.

use super::extended;
use crate::eval::Window;
use crate::syntax::ast::Edge;

/// Which difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of a counter, per second.
    Rate,
    /// Of a counter.
    Increase,
    /// Of a gauge.
    Delta,
}

/// The difference between first and last sample, resets of a counter taken back, extrapolated to the ends of the
/// window: all the way where a sample is about as near as the samples are to each other (up to 1.1 times), else by half
/// of that; a counter not below zero.
pub(crate) fn rate(window: &Window<'_>, kind: Kind) -> Option<f64> {
    if window.edge != Edge::Plain {
        return extended::difference(window, kind);
    }
    let (first_time, last_time) = (*window.times.first()?, *window.times.last()?);
    let (first, last) = (*window.values.first()?, *window.values.last()?);
    if window.values.len() < 2 {
        return None;
    }
    let mut difference = last - first;
    if kind != Kind::Delta {
        for pair in window.values.windows(2) {
            if let [before, after] = pair
                && after < before
            {
                difference += before;
            }
        }
    }
    let samples = Samples {
        span: (first_time, last_time),
        first,
        count: window.values.len(),
    };
    Some(extrapolated(difference, &samples, window, kind))
}

/// The samples that a difference is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Times of the first and the last.
    pub(crate) span: (i64, i64),
    /// Value of the first.
    pub(crate) first: f64,
    /// At least two.
    pub(crate) count: usize,
}

/// A difference between samples, as that of the whole window.
pub(crate) fn extrapolated(difference: f64, samples: &Samples, window: &Window<'_>, kind: Kind) -> f64 {
    let (first_time, last_time) = samples.span;
    let first = samples.first;
    let mut to_start = first_time.saturating_sub(window.start_ms) as f64 / 1000.0;
    let mut to_end = window.end_ms.saturating_sub(last_time) as f64 / 1000.0;
    let sampled = last_time.saturating_sub(first_time) as f64 / 1000.0;
    let between = sampled / (samples.count - 1) as f64;
    let threshold = between * 1.1;
    if to_start >= threshold {
        to_start = between / 2.0;
    }
    if kind != Kind::Delta {
        let mut to_zero = to_start;
        if difference > 0.0 && first >= 0.0 {
            to_zero = sampled * (first / difference);
        }
        to_start = to_start.min(to_zero);
    }
    if to_end >= threshold {
        to_end = between / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if kind == Kind::Rate {
        factor /= window.range_seconds();
    }
    difference * factor
}

/// Between the last two samples.
pub(crate) fn instant(window: &Window<'_>, is_rate: bool) -> Option<f64> {
    let [.., before_time, after_time] = window.times else {
        return None;
    };
    let [.., before, after] = window.values else {
        return None;
    };
    let between = after_time.saturating_sub(*before_time);
    if between == 0 {
        return None;
    }
    let difference = if is_rate && after < before {
        *after
    } else {
        after - before
    };
    Some(if is_rate {
        difference / (between as f64 / 1000.0)
    } else {
        difference
    })
}

/// How often something holds of two samples in a row.
pub(crate) fn count_between(window: &Window<'_>, holds: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let from = if window.edge == Edge::Anchored {
        extended::first_anchored(window)?
    } else {
        0
    };
    let values = window.values.get(from..)?;
    let count = values
        .windows(2)
        .filter(|pair| matches!(pair, [before, after] if holds(*before, *after)))
        .count();
    Some(count as f64)
}
