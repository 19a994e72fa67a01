//! Series in memory, for scripts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use collector_promql::{
    Labels, METRIC_NAME, STALE_BITS, SelectRequest, Selection, SeriesSamples, SeriesSource, SourceError,
};

use crate::series::{Point, Series};

/// What was loaded. A native histogram is kept as the end of the floats before it, which is what functions of floats
/// see of it.
#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, BTreeMap<i64, Option<f64>>>,
    touched_native: AtomicBool,
}

impl Memory {
    pub(crate) fn load(&mut self, step_ms: i64, loaded: &[Series], with_native: bool) {
        for series in loaded {
            self.add(&series.labels, step_ms, &series.points);
            if with_native {
                self.add_native(series, step_ms);
            }
        }
    }

    fn add(&mut self, labels: &Labels, step_ms: i64, points: &[Point]) {
        let own = self.series.entry(labels.clone()).or_default();
        for (time, point) in (0..).map(|number: i64| number * step_ms).zip(points) {
            match point {
                Point::Absent => {}
                Point::Float(value) => {
                    own.entry(time).or_insert(Some(*value));
                }
                Point::Native => {
                    own.entry(time).or_insert(None);
                }
            }
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
                self.add(&labels, step_ms, &points);
            }
        }
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
            for (time, value) in samples.range(..=request.until_ms) {
                if *time <= request.after_ms {
                    continue;
                }
                if value.is_none() {
                    self.touched_native.store(true, Ordering::Relaxed);
                }
                series.times_ms.push(*time);
                series.values.push(value.unwrap_or(f64::from_bits(STALE_BITS)));
            }
            if !series.times_ms.is_empty() {
                selection.series.push(series);
            }
        }
        Ok(selection)
    }
}
