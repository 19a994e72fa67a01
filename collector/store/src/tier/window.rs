//! Samples of a series become windows.

/// The samples of one window, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    /// When it begins.
    pub(super) start: i64,
    pub(super) count: i64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) first: (i64, f64),
    pub(super) last: (i64, f64),
    /// How often a sample was less than the one before it.
    pub(super) resets: i64,
    /// Sum of what each sample was more than the one before it, or its whole value after a reset.
    pub(super) increase: f64,
}

/// Windows of `length`, of samples in rising time. A first sample compares with `before`, the one before all, when it is
/// of the window right before.
pub(super) fn windows(times: &[i64], values: &[f64], length: i64, before: Option<(i64, f64)>) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    let start_of = |time: i64| time.div_euclid(length).saturating_mul(length);
    let mut last = before;
    for (time, value) in times.iter().copied().zip(values.iter().copied()) {
        if value.is_nan() {
            continue;
        }
        let start = start_of(time);
        // What happened in windows without samples nobody knows.
        let near = last.filter(|(earlier, _)| start.saturating_sub(start_of(*earlier)) <= length);
        let (resets, increase) = match near {
            Some((_, earlier)) if value < earlier => (1, value),
            Some((_, earlier)) => (0, value - earlier),
            None => (0, 0.0),
        };
        last = Some((time, value));
        match windows.last_mut() {
            Some(window) if window.start == start => window.add((time, value), resets, increase),
            _ => windows.push(Window {
                start,
                count: 1,
                sum: value,
                min: value,
                max: value,
                first: (time, value),
                last: (time, value),
                resets,
                increase,
            }),
        }
    }
    windows
}

impl Window {
    fn add(&mut self, (time, value): (i64, f64), resets: i64, increase: f64) {
        self.count = self.count.saturating_add(1);
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.last = (time, value);
        self.resets = self.resets.saturating_add(resets);
        self.increase += increase;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sums_up_its_samples_and_skips_those_that_could_not_be_taken() {
        let windows = windows(&[0, 4, 7, 10], &[5.0, f64::NAN, 3.0, 8.0], 10, None);
        let first = Window {
            start: 0,
            count: 2,
            sum: 8.0,
            min: 3.0,
            max: 5.0,
            first: (0, 5.0),
            last: (7, 3.0),
            resets: 1,
            increase: 3.0,
        };
        assert_eq!(windows[0], first);
        assert_eq!(
            (windows[1].start, windows[1].count, windows[1].increase),
            (10, 1, 5.0)
        );
        assert_eq!(windows.len(), 2);
    }

    #[test]
    fn growth_goes_on_over_windows_but_not_over_silence() {
        let increase = |times: &[i64], before| -> Vec<f64> {
            let values: Vec<f64> = (1..=times.len()).map(|n| n as f64 * 10.0).collect();
            windows(times, &values, 10, before)
                .iter()
                .map(|window| window.increase)
                .collect()
        };
        assert_eq!(increase(&[1, 11, 21], Some((-3, 4.0))), [6.0, 10.0, 10.0]);
        assert_eq!(increase(&[1, 35], Some((-30, 4.0))), [0.0, 0.0]);
    }
}
