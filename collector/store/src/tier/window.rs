//! Samples of a series become windows.

/// The samples of one window, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    /// When it begins.
    pub(crate) start: i64,
    /// Samples, at least one.
    pub(crate) count: i64,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Time and value of the first sample.
    pub(crate) first: (i64, f64),
    pub(crate) last: (i64, f64),
    /// How often a sample was less than the one before it.
    pub(crate) resets: i64,
    /// Sum of what each sample was more than the one before it, or its whole value after a reset.
    pub(crate) increase: f64,
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

/// Windows of a day, made anew, in the place of those that were `kept` of it: of two of one start the one that knows
/// of fewer samples goes, and the new one stays where they know of as many. So what is made when some samples of the day
/// are already gone takes nothing away. Both rise, and so does what is given back.
pub(super) fn renewed(kept: Vec<(Window, i64)>, made: Vec<(Window, i64)>) -> Vec<(Window, i64)> {
    if kept.is_empty() {
        return made;
    }
    let mut all = Vec::with_capacity(kept.len().max(made.len()));
    let mut kept = kept.into_iter().peekable();
    for (window, taken) in made {
        while let Some(before) = kept.next_if(|(held, _)| held.start < window.start) {
            all.push(before);
        }
        let same = kept.next_if(|(held, _)| held.start == window.start);
        all.push(
            same.filter(|(held, _)| held.count > window.count)
                .unwrap_or((window, taken)),
        );
    }
    all.extend(kept);
    all
}

impl Window {
    /// How much a counter grew from the first sample to the last, and how often it was reset in between. `increase` and
    /// `resets` count from the last sample of the window before, where there is one.
    pub(crate) fn growth(&self, before: Option<&Window>, length: i64) -> (f64, i64) {
        let near = before.filter(|before| self.start.saturating_sub(before.start) <= length);
        let (step, reset) = match near {
            Some(before) if self.first.1 < before.last.1 => (self.first.1, 1),
            Some(before) => (self.first.1 - before.last.1, 0),
            None => (0.0, 0),
        };
        let resets = self.resets.saturating_sub(reset).max(0);
        if resets == 0 {
            return (self.last.1 - self.first.1, 0);
        }
        ((self.increase - step).max(0.0), resets)
    }

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
    fn window_that_knows_of_more_samples_stays() {
        let of = |start: i64, count: i64, sum: f64| {
            let window = Window {
                start,
                count,
                sum,
                min: 0.0,
                max: 0.0,
                first: (start, 0.0),
                last: (start, 0.0),
                resets: 0,
                increase: 0.0,
            };
            (window, 0)
        };
        let sums = |kept: &[(Window, i64)], made: &[(Window, i64)]| -> Vec<f64> {
            let all = renewed(kept.to_vec(), made.to_vec());
            assert!(all.is_sorted_by_key(|(window, _)| window.start));
            all.iter().map(|(window, _)| window.sum).collect()
        };
        let kept = [of(0, 5, 1.0), of(10, 5, 2.0), of(20, 5, 3.0)];
        assert_eq!(sums(&kept, &[]), [1.0, 2.0, 3.0]);
        assert_eq!(sums(&[], &kept), [1.0, 2.0, 3.0]);
        // One of as many, one of fewer, one that is new.
        let made = [of(0, 5, 10.0), of(20, 4, 30.0), of(30, 1, 40.0)];
        assert_eq!(sums(&kept, &made), [10.0, 2.0, 3.0, 40.0]);
    }

    #[test]
    fn growth_within_a_window_leaves_out_the_way_to_it() {
        let (times, values) = ([1, 4, 11, 14, 18], [10.0, 12.0, 15.0, 3.0, 4.0]);
        let all = windows(&times, &values, 10, None);
        assert_eq!(all[0].growth(None, 10), (2.0, 0));
        // 12 to 15 is the way to it; a reset to 3, and one more.
        assert_eq!((all[1].increase, all[1].resets), (7.0, 1));
        assert_eq!(all[1].growth(Some(&all[0]), 10), (4.0, 1));
        // A reset between two windows is of neither.
        let all = windows(&[1, 11, 14], &[9.0, 2.0, 5.0], 10, None);
        assert_eq!(all[1].resets, 1);
        assert_eq!(all[1].growth(Some(&all[0]), 10), (3.0, 0));
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
