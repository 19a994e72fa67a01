//! Raw samples to one per series and minute.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleetmend_event::metric::{self, is_cumulative};
use fleetmend_event::table::MetricChunk;
use fleetmend_event::{MetricFrame, SeriesKey, SeriesSet, TimeMicros};

/// What becomes one sample.
const WINDOW_MICROS: i64 = 60_000_000;
/// Windows that may wait in memory; then what is there becomes rows, though a minute may be cut in two.
const WINDOWS_MAX: usize = 65_536;

/// Takes rows in and gives back fewer.
#[derive(Debug, Default)]
pub(super) struct Reducer {
    series: BTreeMap<(String, String, String), BTreeMap<i64, Window>>,
    windows: usize,
    rows: Vec<MetricChunk>,
    taken: u64,
    kept: u64,
}

#[derive(Debug)]
struct Window {
    /// Of the last sample that could be taken, or of the last at all.
    time: TimeMicros,
    last: f64,
    sum: f64,
    count: u32,
}

/// What came out of it.
#[derive(Debug)]
pub(super) struct Reduced {
    pub(super) rows: Vec<MetricChunk>,
    /// Samples that were taken in, and those that are left.
    pub(super) taken: u64,
    pub(super) kept: u64,
}

impl Reducer {
    pub(super) fn take(&mut self, row: MetricChunk) {
        let count = u64::try_from(row.value.len()).unwrap_or(u64::MAX);
        self.taken = self.taken.saturating_add(count);
        let times: Vec<TimeMicros> = (0..row.value.len()).map(|index| row.sample_time(index)).collect();
        let windows = self.series.entry((row.name, row.unit, row.labels)).or_default();
        let before = windows.len();
        for (time, value) in times.into_iter().zip(row.value) {
            windows
                .entry(time.0.div_euclid(WINDOW_MICROS))
                .or_insert(Window {
                    time,
                    last: f64::NAN,
                    sum: 0.0,
                    count: 0,
                })
                .take(time, value);
        }
        self.windows = self.windows.saturating_add(windows.len().saturating_sub(before));
        if self.windows >= WINDOWS_MAX {
            self.emit();
        }
    }

    pub(super) fn finish(mut self) -> Reduced {
        self.emit();
        Reduced {
            rows: self.rows,
            taken: self.taken,
            kept: self.kept,
        }
    }

    fn emit(&mut self) {
        self.windows = 0;
        for ((name, unit, labels), windows) in std::mem::take(&mut self.series) {
            let cumulative = is_cumulative(&name);
            let labels = serde_json::from_str(&labels).unwrap_or_default();
            let set: SeriesSet = Arc::from([SeriesKey { name, unit, labels }]);
            let frames: Vec<MetricFrame> = windows
                .into_values()
                .map(|window| MetricFrame {
                    time: window.time,
                    series: set.clone(),
                    values: vec![window.value(cumulative)],
                })
                .collect();
            let kept = u64::try_from(frames.len()).unwrap_or(u64::MAX);
            self.kept = self.kept.saturating_add(kept);
            self.rows.extend(metric::chunks(&frames));
        }
    }
}

impl Window {
    fn take(&mut self, time: TimeMicros, value: f64) {
        if value.is_nan() {
            return;
        }
        if self.count == 0 || time >= self.time {
            (self.time, self.last) = (time, value);
        }
        self.sum += value;
        self.count = self.count.saturating_add(1);
    }

    /// A minute in which no sample could be taken stays one: NaN.
    fn value(&self, cumulative: bool) -> f64 {
        if cumulative || self.count == 0 {
            self.last
        } else {
            self.sum / f64::from(self.count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(name: &str, samples: &[(i64, f64)]) -> (Vec<(i64, f64)>, u64, u64) {
        let set: SeriesSet = Arc::from([SeriesKey::new(name, "1", [("a", "b")])]);
        let frames: Vec<MetricFrame> = samples
            .iter()
            .map(|(second, value)| MetricFrame {
                time: TimeMicros(second * 1_000_000),
                series: set.clone(),
                values: vec![*value],
            })
            .collect();
        let mut reducer = Reducer::default();
        // As they lie in the lane: a few seconds in each row.
        for frames in frames.chunks(7) {
            for row in metric::chunks(frames) {
                reducer.take(row);
            }
        }
        let Reduced { rows, taken, kept } = reducer.finish();
        let left = rows
            .iter()
            .flat_map(|row| {
                assert_eq!(row.labels, r#"{"a":"b"}"#);
                (0..row.value.len()).map(|at| (row.sample_time(at).0 / 1_000_000, row.value[at]))
            })
            .collect();
        (left, taken, kept)
    }

    #[test]
    fn counter_keeps_its_last_value_and_gauge_its_mean() {
        let samples: Vec<(i64, f64)> = (0..180).map(|second| (second, second as f64)).collect();
        assert_eq!(
            reduced("system.cpu.time", &samples),
            (vec![(59, 59.0), (119, 119.0), (179, 179.0)], 180, 3)
        );
        assert_eq!(
            reduced("system.memory.usage", &samples),
            (vec![(59, 29.5), (119, 89.5), (179, 149.5)], 180, 3)
        );
    }

    #[test]
    fn sample_that_could_not_be_taken_changes_nothing() {
        let samples = [(0, 2.0), (1, f64::NAN), (2, 4.0), (3, f64::NAN)];
        assert_eq!(reduced("system.memory.usage", &samples), (vec![(2, 3.0)], 4, 1));
        let (left, ..) = reduced("system.memory.usage", &[(7, f64::NAN), (8, f64::NAN)]);
        assert!(
            left.len() == 1 && left[0].1.is_nan(),
            "a minute without any stays: {left:?}"
        );
    }

    #[test]
    fn memory_is_bounded_by_windows() {
        let mut reducer = Reducer::default();
        for number in 0..WINDOWS_MAX + 10 {
            let set: SeriesSet = Arc::from([SeriesKey {
                name: format!("m{number}"),
                unit: String::new(),
                labels: BTreeMap::new(),
            }]);
            let frame = MetricFrame {
                time: TimeMicros(0),
                series: set,
                values: vec![1.0],
            };
            metric::chunks(&[frame])
                .into_iter()
                .for_each(|row| reducer.take(row));
            assert!(reducer.windows < WINDOWS_MAX);
        }
        assert_eq!(reducer.finish().kept, WINDOWS_MAX as u64 + 10);
    }
}
