//! The `*_over_time` family.

use crate::error::QueryError;
use crate::eval::Window;
use crate::number::{self, Mean, kahan};

type Compute = fn(&Window<'_>) -> Result<Option<f64>, QueryError>;

pub(crate) fn find(name: &str) -> Option<Compute> {
    Some(match name {
        "avg_over_time" => |window| Ok(mean(window.values)),
        "sum_over_time" => |window| Ok(Some(sum(window.values))),
        "count_over_time" => |window| Ok(Some(window.values.len() as f64)),
        "min_over_time" => |window| Ok(extreme(window, |new, old| new < old).map(|(_, value)| value)),
        "max_over_time" => |window| Ok(extreme(window, |new, old| new > old).map(|(_, value)| value)),
        "ts_of_min_over_time" => {
            |window| Ok(extreme(window, |new, old| new <= old).map(|(time, _)| seconds(time)))
        }
        "ts_of_max_over_time" => {
            |window| Ok(extreme(window, |new, old| new >= old).map(|(time, _)| seconds(time)))
        }
        "first_over_time" => |window| Ok(window.values.first().copied()),
        "last_over_time" => |window| Ok(window.values.last().copied()),
        "ts_of_first_over_time" => |window| Ok(window.times.first().map(|time| seconds(*time))),
        "ts_of_last_over_time" => |window| Ok(window.times.last().map(|time| seconds(*time))),
        "present_over_time" => |_| Ok(Some(1.0)),
        "stdvar_over_time" => |window| Ok(Some(variance(window.values))),
        "stddev_over_time" => |window| Ok(Some(variance(window.values).sqrt())),
        "mad_over_time" => |window| Ok(Some(median_deviation(window.values))),
        _ => return None,
    })
}

pub(crate) fn quantile(window: &Window<'_>) -> Option<f64> {
    let [rank, _] = window.scalars;
    Some(number::quantile(rank, &mut window.values.to_vec()))
}

fn seconds(time_ms: i64) -> f64 {
    time_ms as f64 / 1000.0
}

fn mean(values: &[f64]) -> Option<f64> {
    let (first, rest) = values.split_first()?;
    let mut mean = Mean::first(*first);
    for value in rest {
        mean.add(*value);
    }
    Some(mean.get())
}

fn sum(values: &[f64]) -> f64 {
    let (sum, compensation) = values.iter().fold((0.0, 0.0), |(sum, compensation), value| {
        kahan(*value, sum, compensation)
    });
    if f64::is_infinite(sum) {
        sum
    } else {
        sum + compensation
    }
}

/// A NaN gives way to anything.
fn extreme(window: &Window<'_>, better: impl Fn(f64, f64) -> bool) -> Option<(i64, f64)> {
    let mut samples = window.times.iter().copied().zip(window.values.iter().copied());
    let first = samples.next()?;
    Some(samples.fold(first, |best, sample| {
        if better(sample.1, best.1) || best.1.is_nan() {
            sample
        } else {
            best
        }
    }))
}

/// Welford's algorithm with compensated sums.
fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut mean_rest) = (0.0, 0.0, 0.0);
    let (mut squares, mut squares_rest) = (0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - (mean + mean_rest);
        (mean, mean_rest) = kahan(delta / count, mean, mean_rest);
        (squares, squares_rest) = kahan(delta * (value - (mean + mean_rest)), squares, squares_rest);
    }
    (squares + squares_rest) / count
}

fn median_deviation(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let median = number::quantile(0.5, &mut values.to_vec());
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
    number::quantile(0.5, &mut deviations)
}
