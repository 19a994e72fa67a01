//! Medians and intervals of few, noisy measurements.

use serde_json::{Value, json};

/// The middle of `values`; NaN when there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `share` of `values` lie, interpolated; NaN when there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = share.clamp(0.0, 1.0) * last as f64;
    let places = || sorted.iter().zip(0_u32..);
    let below = places()
        .take_while(|(_, index)| f64::from(*index) <= place)
        .last();
    let above = places().find(|(_, index)| f64::from(*index) >= place);
    match (below, above) {
        (Some((low, index)), Some((high, _))) => low + (high - low) * (place - f64::from(index)),
        _ => f64::NAN,
    }
}

/// Median, quartiles and all values, for the conditions of a figure.
pub(crate) fn interval(values: &[f64]) -> Value {
    json!({
        "pairs": values.len(),
        "median": median(values),
        "quartiles": [quantile(values, 0.25), quantile(values, 0.75)],
        "values": values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_the_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0, 20.0], 0.75), 15.0);
        assert!(median(&[]).is_nan());
    }
}
