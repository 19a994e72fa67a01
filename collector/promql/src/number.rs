//! Arithmetic and number formats that have to come out as Prometheus' do.

use std::cmp::Ordering;

/// One step of Kahan's summation in Neumaier's form: the new sum and compensation.
pub(crate) fn kahan(add: f64, sum: f64, compensation: f64) -> (f64, f64) {
    let total = sum + add;
    let compensation = if total.is_infinite() {
        0.0
    } else if sum.abs() >= add.abs() {
        compensation + ((sum - total) + add)
    } else {
        compensation + ((add - total) + sum)
    };
    (total, compensation)
}

/// A running mean: the sum while it does not overflow, then incremental; compensated in both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mean {
    count: f64,
    value: f64,
    compensation: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn first(value: f64) -> Self {
        Self {
            count: 1.0,
            value,
            compensation: 0.0,
            incremental: false,
        }
    }

    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let (sum, compensation) = kahan(value, self.value, self.compensation);
            if !sum.is_infinite() {
                (self.value, self.compensation) = (sum, compensation);
                return;
            }
            self.incremental = true;
            self.value /= self.count - 1.0;
            self.compensation /= self.count - 1.0;
        }
        let weight = (self.count - 1.0) / self.count;
        (self.value, self.compensation) = kahan(
            value / self.count,
            weight * self.value,
            weight * self.compensation,
        );
    }

    pub(crate) fn get(self) -> f64 {
        if self.incremental {
            self.value + self.compensation
        } else {
            self.value / self.count + self.compensation / self.count
        }
    }
}

/// Ascending, NaN first.
pub(crate) fn ascending(left: &f64, right: &f64) -> Ordering {
    match (left.is_nan(), right.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => left.partial_cmp(right).unwrap_or(Ordering::Equal),
    }
}

/// The quantile of values, which are sorted by it; between two of them a weighted average.
pub(crate) fn quantile(rank: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || rank.is_nan() {
        return f64::NAN;
    }
    if rank < 0.0 {
        return f64::NEG_INFINITY;
    }
    if rank > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(ascending);
    let last = values.len() as f64 - 1.0;
    let position = rank * last;
    let lower = position.floor().max(0.0);
    let upper = (lower + 1.0).min(last);
    let weight = position - position.floor();
    let at = |index: f64| values.get(to_index(index)).copied().unwrap_or(f64::NAN);
    at(lower) * (1.0 - weight) + at(upper) * weight
}

/// The lesser, as Go chooses it: minus infinity before NaN, NaN before everything else.
pub(crate) fn minimum(left: f64, right: f64) -> f64 {
    if left == f64::NEG_INFINITY || right == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if left.is_nan() || right.is_nan() {
        f64::NAN
    } else {
        left.min(right)
    }
}

/// The greater, as Go chooses it: infinity before NaN, NaN before everything else.
pub(crate) fn maximum(left: f64, right: f64) -> f64 {
    -minimum(-left, -right)
}

/// A float that is a small whole number, as an index; anything else saturates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, which is what an index out of range should do"
)]
pub(crate) fn to_index(value: f64) -> usize {
    value as usize
}

/// Towards zero, saturating; NaN is the smallest, as on the processors that Prometheus is tested on.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, which is what a time out of range should do"
)]
pub(crate) fn to_i64(value: f64) -> i64 {
    if value.is_nan() { i64::MIN } else { value as i64 }
}

/// Go's `%g`, for messages.
pub(crate) fn general(value: f64) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        return exponent(value);
    }
    value.to_string()
}

/// Go's `%.Ng`.
pub(crate) fn general_digits(value: f64, digits: usize) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let rounded: f64 = format!("{value:.*e}", digits.saturating_sub(1))
        .parse()
        .unwrap_or(value);
    let limit = 10_f64.powf(digits as f64);
    if rounded != 0.0 && !(1e-4..limit).contains(&rounded.abs()) {
        return exponent(rounded);
    }
    rounded.to_string()
}

/// Go's `%e` with the fewest digits.
pub(crate) fn exponent(value: f64) -> String {
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = power
                .strip_prefix('-')
                .map_or(('+', power), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// Go's `strconv.FormatFloat(value, 'f', -1, 64)`, which `count_values` makes label values with.
pub(crate) fn fixed(value: f64) -> String {
    special(value).map_or_else(|| value.to_string(), str::to_owned)
}

/// A quantile as the value of a label: whole numbers keep a fraction.
pub(crate) fn open_metrics(value: f64) -> String {
    let text = general(value);
    if value.is_finite() && !text.contains(['.', 'e']) {
        return format!("{text}.0");
    }
    text
}

/// What is not a finite number.
pub(crate) fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Equal within a relative tolerance.
pub(crate) fn almost_equal(left: f64, right: f64, tolerance: f64) -> bool {
    if left.is_nan() && right.is_nan() || left == right {
        return true;
    }
    let sum = left.abs() + right.abs();
    let difference = (left - right).abs();
    if left == 0.0 || right == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < tolerance * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < tolerance
}
