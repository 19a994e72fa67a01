//! Differences over a range: `rate`, `increase`, `delta` and what is like them.

use std::cmp::Ordering;

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
/// of that; a counter not below zero. A counter that is known to have begun within the window began at zero, which needs
/// no second sample and no extrapolation.
pub(crate) fn rate(window: &Window<'_>, kind: Kind) -> Option<f64> {
    if window.edge != Edge::Plain {
        return extended::difference(window, kind);
    }
    let is_counter = kind != Kind::Delta;
    let (first_time, last_time) = (*window.times.first()?, *window.times.last()?);
    let (first, last) = (*window.values.first()?, *window.values.last()?);
    let mut difference = last - first;
    if is_counter {
        difference += lost_to_resets(window);
    }
    let samples = Samples {
        span: (first_time, last_time),
        first,
        count: window.values.len(),
    };
    extrapolated(difference, &samples, window, kind)
}

/// The samples that a difference is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Times of the first and the last.
    pub(crate) span: (i64, i64),
    /// Value of the first.
    pub(crate) first: f64,
    /// How many there are.
    pub(crate) count: usize,
}

/// A difference between samples, as that of the whole window; none of fewer than two samples, unless the counter is known
/// to have begun within the window.
pub(crate) fn extrapolated(
    difference: f64,
    samples: &Samples,
    window: &Window<'_>,
    kind: Kind,
) -> Option<f64> {
    let mut difference = difference;
    let is_counter = kind != Kind::Delta;
    let ((first_time, last_time), first) = (samples.span, samples.first);
    let seconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
    let mut to_start = seconds(window.start_ms, first_time);
    let mut to_end = seconds(last_time, window.end_ms);
    let mut sampled = seconds(first_time, last_time);
    let intervals = samples.count.saturating_sub(1);
    let between = if intervals > 0 {
        sampled / intervals as f64
    } else {
        0.0
    };
    let threshold = between * 1.1;
    if let Some(begun) = begun_within(window).filter(|_| is_counter) {
        to_start = 0.0;
        sampled = seconds(begun, last_time);
        difference += first;
    } else if intervals == 0 {
        return None;
    } else {
        if to_start >= threshold {
            to_start = between / 2.0;
        }
        if is_counter && difference > 0.0 && first >= 0.0 {
            to_start = to_start.min(sampled * (first / difference));
        }
    }
    if to_end >= threshold {
        to_end = between / 2.0;
    }
    let mut factor = (sampled + to_start + to_end) / sampled;
    if kind == Kind::Rate {
        factor /= window.range_seconds();
    }
    Some(difference * factor)
}

/// What a counter had when it was reset, all together.
fn lost_to_resets(window: &Window<'_>) -> f64 {
    let mut lost = 0.0;
    for (index, pair) in window.values.windows(2).enumerate() {
        if let [before, after] = pair
            && (after < before || began_between(window, index))
        {
            lost += before;
        }
    }
    lost
}

/// When the first sample began to count, if that was within the window and before the sample.
fn begun_within(window: &Window<'_>) -> Option<i64> {
    let (begun, first) = (*window.starts.first()?, *window.times.first()?);
    (begun != 0 && begun > window.start_ms && begun < first).then_some(begun)
}

/// Whether a sample's counting began after the sample at an index, which is the one before it. Where it began exactly
/// then, it did if that sample's own beginning is known: such series count from sample to sample.
fn began_between(window: &Window<'_>, index: usize) -> bool {
    let at = |index: usize| Some((*window.starts.get(index)?, *window.times.get(index)?));
    let (Some((before_begun, before)), Some((begun, time))) = (at(index), at(index + 1)) else {
        return false;
    };
    if begun == 0 || begun >= time {
        return false;
    }
    match begun.cmp(&before) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => before_begun != 0 && before_begun < before,
    }
}

/// Whether a sample began to count before the one before it was taken, and not together with it.
pub(crate) fn overlaps(window: &Window<'_>) -> bool {
    let mut pairs = window.starts.windows(2).zip(window.times);
    pairs.any(|(pair, before)| {
        matches!(pair, [earlier, later] if *later != 0 && later < before && later != earlier)
    })
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
    let reset = after < before || began_between(window, window.times.len().saturating_sub(2));
    let difference = if is_rate && reset { *after } else { after - before };
    Some(if is_rate {
        difference / (between as f64 / 1000.0)
    } else {
        difference
    })
}

/// How often a counter was reset.
pub(crate) fn resets(window: &Window<'_>) -> Option<f64> {
    count_between(window, |index, before, after| {
        after < before || began_between(window, index)
    })
}

/// How often a value changed; from one NaN to another it did not.
pub(crate) fn changes(window: &Window<'_>) -> Option<f64> {
    count_between(window, |_, before, after| {
        after != before && !(after.is_nan() && before.is_nan())
    })
}

/// How often something holds of two samples in a row, the first of which has the index.
fn count_between(window: &Window<'_>, holds: impl Fn(usize, f64, f64) -> bool) -> Option<f64> {
    let from = if window.edge == Edge::Anchored {
        extended::first_anchored(window)?
    } else {
        0
    };
    let values = window.values.get(from..)?;
    let count = (from..)
        .zip(values.windows(2))
        .filter(|(index, pair)| matches!(pair, [before, after] if holds(*index, *before, *after)))
        .count();
    Some(count as f64)
}
