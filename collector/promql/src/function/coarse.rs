//! Functions over ranges of which some samples are gone and windows stand in their place.
//!
//! Of the samples of a window is known how many they are, the first and the last, their sum, the least and the greatest, how
//! much a counter grew and how often it was reset. A range that holds a whole window knows all that. Of one at an end of
//! the range, which is in it in part, the samples are taken to lie at equal distances from first to last, all to be the mean,
//! and the growth to be even: a *share*. So
//!
//! - `count`, `sum` and `avg_over_time` and the rate family are off by what the two windows at the ends are unlike that;
//!   on samples at equal distances `count_over_time` is exact, and so is everything where ranges end where windows do;
//! - `min` and `max_over_time` are those of all windows that reach into the range: not greater than the true least one, not
//!   less than the true greatest;
//! - `first` and `last_over_time` are samples that were there: the first or last of a window;
//! - `irate` and `idelta` are the mean over the last window, `resets` counts a share of a window's resets;
//! - every other function sees the first and the last sample of each window and no other; it gives nothing for a range that
//!   has none of these.
//!
//! `anchored` and `smoothed` ranges see first and last samples too.

use super::WindowFunction;
use super::rate::{self, Kind, Samples};
use crate::error::QueryError;
use crate::eval::Window;
use crate::number::{kahan, to_i64, to_index};
use crate::source::SeriesWindow;
use crate::syntax::ast::Edge;

/// What a function gives for a range in which there are windows.
pub(crate) fn compute(
    name: &str,
    function: WindowFunction,
    range: &Window<'_>,
) -> Result<Option<f64>, QueryError> {
    let of_samples = || {
        if range.times.is_empty() {
            Ok(None)
        } else {
            (function.compute)(range)
        }
    };
    if range.edge != Edge::Plain {
        return of_samples();
    }
    let parts = parts(range);
    Ok(match name {
        "count_over_time" => Some(count(&parts)).filter(|count| *count > 0.0),
        "sum_over_time" => Some(sum(&parts)).filter(|_| count(&parts) > 0.0),
        "avg_over_time" => mean(&parts),
        "min_over_time" => extreme(&parts, |part| part.min, |new, old| new < old),
        "max_over_time" => extreme(&parts, |part| part.max, |new, old| new > old),
        "present_over_time" => Some(1.0),
        "first_over_time" => parts.first().map(|part| part.known_first),
        "last_over_time" => parts.last().map(|part| part.known_last),
        "rate" => difference(&parts, range, Kind::Rate),
        "increase" => difference(&parts, range, Kind::Increase),
        "delta" => difference(&parts, range, Kind::Delta),
        "irate" => latest(&parts, true),
        "idelta" => latest(&parts, false),
        "resets" => Some(resets(&parts)),
        _ => return of_samples(),
    })
}

/// A sample, or the share of a window that is in the range.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Samples in the range; none where it is shorter than they are apart.
    count: f64,
    /// Of all samples of the window.
    all: f64,
    /// Times of the first and last of them.
    span: (i64, i64),
    /// Their values, as far as a gauge goes evenly.
    first: f64,
    last: f64,
    /// A first and a last that were there.
    known_first: f64,
    known_last: f64,
    /// Mean of the whole window.
    mean: f64,
    min: f64,
    max: f64,
    /// Growth of a counter, and its resets.
    growth: f64,
    resets: f64,
}

impl Part {
    fn of_sample(time_ms: i64, value: f64) -> Self {
        Self {
            count: 1.0,
            all: 1.0,
            span: (time_ms, time_ms),
            first: value,
            last: value,
            known_first: value,
            known_last: value,
            mean: value,
            min: value,
            max: value,
            growth: 0.0,
            resets: 0.0,
        }
    }

    /// The share of `window` later than `start_ms` and up to `end_ms`.
    fn of_window(window: &SeriesWindow, start_ms: i64, end_ms: i64) -> Self {
        let ((first_ms, first), (last_ms, last)) = (window.first, window.last);
        let all = window.count as f64;
        let steps = (all - 1.0).max(0.0);
        let apart = if steps > 0.0 {
            last_ms.saturating_sub(first_ms) as f64 / steps
        } else {
            0.0
        };
        // Numbers of the first and the last sample that are in it.
        let number = |at_ms: i64| (at_ms.saturating_sub(first_ms) as f64 / apart).floor();
        let low = if start_ms < first_ms {
            0.0
        } else {
            number(start_ms) + 1.0
        };
        let high = if end_ms >= last_ms { steps } else { number(end_ms) };
        let share = |number: f64| if steps > 0.0 { number / steps } else { 0.0 };
        let count = (high - low + 1.0).clamp(0.0, all);
        let part = (share(high) - share(low)).max(0.0);
        let value = |number: f64| first + (last - first) * share(number);
        // Some milliseconds off where distances are no whole ones.
        let time = |number: f64| first_ms.saturating_add(to_i64((number * apart).round()));
        Self {
            count,
            all,
            span: (time(low), if end_ms >= last_ms { last_ms } else { time(high) }),
            first: value(low),
            last: if end_ms >= last_ms { last } else { value(high) },
            known_first: if start_ms < first_ms { first } else { last },
            known_last: if end_ms >= last_ms { last } else { first },
            mean: window.sum / all,
            min: window.min,
            max: window.max,
            growth: window.growth * part,
            resets: window.resets as f64 * part,
        }
    }
}

/// Samples and windows in the order of time.
fn parts(range: &Window<'_>) -> Vec<Part> {
    let mut parts = Vec::with_capacity(range.times.len().saturating_add(range.coarse.len()));
    let mut samples = (range.times.iter().copied())
        .zip(range.values.iter().copied())
        .peekable();
    for window in range.coarse {
        while let Some((time, value)) = samples.next_if(|(time, _)| *time < window.first.0) {
            parts.push(Part::of_sample(time, value));
        }
        // The window's own two.
        while samples.next_if(|(time, _)| *time <= window.last.0).is_some() {}
        parts.push(Part::of_window(window, range.start_ms, range.end_ms));
    }
    parts.extend(samples.map(|(time, value)| Part::of_sample(time, value)));
    parts
}

fn count(parts: &[Part]) -> f64 {
    parts.iter().map(|part| part.count).sum()
}

fn sum(parts: &[Part]) -> f64 {
    let (sum, compensation) = parts.iter().fold((0.0, 0.0), |(sum, compensation), part| {
        kahan(part.mean * part.count, sum, compensation)
    });
    if f64::is_infinite(sum) {
        sum
    } else {
        sum + compensation
    }
}

/// Where a range is shorter than samples are apart, that of the windows it lies in.
fn mean(parts: &[Part]) -> Option<f64> {
    let held = count(parts);
    if held > 0.0 {
        return Some(sum(parts) / held);
    }
    let all = parts.iter().map(|part| part.all).sum::<f64>();
    let sums = parts.iter().map(|part| part.mean * part.all).sum::<f64>();
    (all > 0.0).then(|| sums / all)
}

/// A NaN gives way to anything.
fn extreme(parts: &[Part], of: impl Fn(&Part) -> f64, better: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let values = parts.iter().map(of);
    values.reduce(|best, value| {
        if better(value, best) || best.is_nan() {
            value
        } else {
            best
        }
    })
}

/// From the first sample to the last, as far as they are in the range, resets of a counter taken back; then as of samples.
fn difference(parts: &[Part], range: &Window<'_>, kind: Kind) -> Option<f64> {
    let mut held = parts.iter().filter(|part| part.count >= 1.0);
    let first = held.next()?;
    let is_counter = kind != Kind::Delta;
    let within = |part: &Part| {
        if is_counter {
            part.growth
        } else {
            part.last - part.first
        }
    };
    let (mut difference, mut before) = (within(first), first);
    for part in held {
        difference += between(before, part, is_counter) + within(part);
        before = part;
    }
    let count = count(parts);
    if count < 2.0 || before.span.1 <= first.span.0 {
        return None;
    }
    let samples = Samples {
        span: (first.span.0, before.span.1),
        first: first.first,
        count: to_index(count),
    };
    rate::extrapolated(difference, &samples, range, kind)
}

/// From the last sample of one to the first of the next.
fn between(before: &Part, after: &Part, is_counter: bool) -> f64 {
    if is_counter && after.first < before.last {
        after.first
    } else {
        after.first - before.last
    }
}

/// Between the last two samples: those of a window are taken to be alike.
fn latest(parts: &[Part], is_rate: bool) -> Option<f64> {
    let mut held = parts.iter().rev().filter(|part| part.count >= 1.0);
    let last = held.next()?;
    let (difference, steps, span) = if last.count >= 2.0 {
        let difference = if is_rate {
            last.growth
        } else {
            last.last - last.first
        };
        (difference, last.count - 1.0, last.span)
    } else {
        let before = held.next()?;
        let span = (before.span.1, last.span.0);
        (between(before, last, is_rate), 1.0, span)
    };
    let milliseconds = span.1.saturating_sub(span.0);
    if milliseconds <= 0 {
        return None;
    }
    Some(if is_rate {
        difference / (milliseconds as f64 / 1000.0)
    } else {
        difference / steps
    })
}

fn resets(parts: &[Part]) -> f64 {
    let mut resets = 0.0;
    let mut before: Option<&Part> = None;
    for part in parts.iter().filter(|part| part.count >= 1.0) {
        if before.is_some_and(|before| part.first < before.last) {
            resets += 1.0;
        }
        resets += part.resets;
        before = Some(part);
    }
    resets
}
