//! Trends of a range: least squares and double exponential smoothing.

use crate::error::QueryError;
use crate::eval::Window;
use crate::number::kahan;

pub(crate) fn deriv(window: &Window<'_>) -> Option<f64> {
    // A time near the samples loses no precision.
    let near = *window.times.first()?;
    regression(window, near).map(|(slope, _)| slope)
}

pub(crate) fn predict(window: &Window<'_>) -> Option<f64> {
    let [seconds, _] = window.scalars;
    regression(window, window.now_ms).map(|(slope, intercept)| slope * seconds + intercept)
}

/// Slope and value at a time of the line with the least squares.
fn regression(window: &Window<'_>, at_ms: i64) -> Option<(f64, f64)> {
    let first = *window.values.first()?;
    if window.values.len() < 2 {
        return None;
    }
    if window.values.iter().skip(1).all(|value| *value == first) {
        return Some(if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        });
    }
    let count = window.values.len() as f64;
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    for (time, y) in window.times.iter().zip(window.values) {
        let x = time.saturating_sub(at_ms) as f64 / 1000.0;
        x_sum = kahan(x, x_sum.0, x_sum.1);
        y_sum = kahan(*y, y_sum.0, y_sum.1);
        xy_sum = kahan(x * y, xy_sum.0, xy_sum.1);
        xx_sum = kahan(x * x, xx_sum.0, xx_sum.1);
    }
    let (x, y, xy, xx) = (
        x_sum.0 + x_sum.1,
        y_sum.0 + y_sum.1,
        xy_sum.0 + xy_sum.1,
        xx_sum.0 + xx_sum.1,
    );
    let slope = (xy - x * y / count) / (xx - x * x / count);
    Some((slope, y / count - slope * x / count))
}

/// Holt's linear method.
pub(crate) fn smooth(window: &Window<'_>) -> Result<Option<f64>, QueryError> {
    let [smoothing, trending] = window.scalars;
    for (value, name) in [(smoothing, "smoothing"), (trending, "trend")] {
        if value <= 0.0 || value >= 1.0 {
            let letter = if name == "smoothing" { "sf" } else { "tf" };
            return Err(QueryError::execution(format!(
                "invalid {name} factor. Expected: 0 < {letter} < 1, got: {value:.6}"
            )));
        }
    }
    let [first, second, ..] = window.values else {
        return Ok(None);
    };
    let mut trend = second - first;
    let (mut before, mut level) = (0.0, *first);
    for (number, value) in window.values.iter().skip(1).enumerate() {
        if number > 0 {
            trend = trending * (level - before) + (1.0 - trending) * trend;
        }
        let next = smoothing * value + (1.0 - smoothing) * (level + trend);
        (before, level) = (level, next);
    }
    Ok(Some(level))
}
