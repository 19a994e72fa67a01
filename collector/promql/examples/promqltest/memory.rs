//! Series in memory, for scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use collector_promql::{
    Labels, METRIC_NAME, STALE_BITS, SelectRequest, Selection, SeriesSamples, SeriesSource, SourceError,
};

use crate::series::{Point, Series};

/// A sample and when it began to count, 0 where that is not known.
#[derive(Clone, Copy)]
struct Sample {
    /// `None` for a native histogram.
    value: Option<f64>,
    start_ms: i64,
}

/// What was loaded. A native histogram is kept as the end of the floats before it, which is what functions of floats
/// see of it.
#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Sample>>,
    touched_native: AtomicBool,
}

impl Memory {
    pub(crate) fn load(&mut self, step_ms: i64, loaded: &[Series], with_native: bool) {
        for series in loaded {
            self.add(&series.labels, step_ms, &series.points, &series.starts);
            if with_native {
                self.add_native(series, step_ms);
            }
        }
    }

    fn add(&mut self, labels: &Labels, step_ms: i64, points: &[Point], starts: &[Option<i64>]) {
        let own = self.series.entry(labels.clone()).or_default();
        let starts = starts.iter().cycle().copied().chain(std::iter::repeat(None));
        for ((time, point), start) in (0..).map(|number: i64| number * step_ms).zip(points).zip(starts) {
            let value = match point {
                Point::Absent => continue,
                Point::Float(value) => Some(*value),
                Point::Native => None,
            };
            let start_ms = start.map_or(0, |start| time + start);
            own.entry(time).or_insert(Sample { value, start_ms });
        }
    }

    /// The histogram that the buckets of a classic one are joined to.
    fn add_native(&mut self, series: &Series, step_ms: i64) {
        for end in ["_bucket", "_count", "_sum"] {
            if let Some(base) = series.labels.name().strip_suffix(end) {
                let labels = Labels::new(
                    (series.labels.iter())
                        .filter(|(name, _)| *name != "le" && *name != METRIC_NAME)
                        .chain(std::iter::once((METRIC_NAME, base))),
                );
                let points: Vec<Point> = (series.points.iter())
                    .map(|point| {
                        if matches!(point, Point::Absent) {
                            Point::Absent
                        } else {
                            Point::Native
                        }
                    })
                    .collect();
                self.add(&labels, step_ms, &points, &[]);
            }
        }
    }

    /// Whether a query names a metric that has native histograms, which it may not even be able to ask for.
    pub(crate) fn names_native(&self, query: &str) -> bool {
        let in_name = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
        let words: BTreeSet<&str> = query.split(|letter| !in_name(letter)).collect();
        self.series.iter().any(|(labels, samples)| {
            words.contains(labels.name()) && samples.values().any(|sample| sample.value.is_none())
        })
    }

    /// Whether a native histogram was selected since the last time this was asked.
    pub(crate) fn take_touched_native(&self) -> bool {
        self.touched_native.swap(false, Ordering::Relaxed)
    }
}

#[async_trait]
impl SeriesSource for Memory {
    async fn select(&self, request: &SelectRequest) -> Result<Selection, SourceError> {
        let mut selection = Selection::default();
        let fits = |labels: &Labels| {
            request
                .matchers
                .iter()
                .all(|matcher| matcher.matches(labels.get(&matcher.name)))
        };
        for (labels, samples) in self.series.iter().filter(|(labels, _)| fits(labels)) {
            let mut series = SeriesSamples {
                labels: labels.clone(),
                ..SeriesSamples::default()
            };
            for (time, Sample { value, start_ms }) in samples.range(..=request.until_ms) {
                if *time <= request.after_ms {
                    continue;
                }
                if value.is_none() {
                    self.touched_native.store(true, Ordering::Relaxed);
                }
                series.times_ms.push(*time);
                series.starts_ms.push(*start_ms);
                series.values.push(value.unwrap_or(f64::from_bits(STALE_BITS)));
            }
            if !series.times_ms.is_empty() {
                selection.series.push(series);
            }
        }
        Ok(selection)
    }
}
