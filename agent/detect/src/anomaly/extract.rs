//! From metric frames to feature vectors, by the recipes of the feature schema.
//!
//! Which series feed which feature is worked out once per set of series. A counter becomes its increase per
//! second; a feature without any number in a window is missing (NaN), never zero. The same code makes the
//! vectors a model is trained on and the ones it scores.

use std::sync::Arc;

use fleetmend_event::{MetricFrame, SeriesKey, SeriesSet, TimeMicros};
use fleetmend_models::{Feature, FeatureSchema, Reduce, Source};

use super::FeatureVector;
use super::fit::narrow;

/// Where one source finds its series in the present set, and what it last read.
#[derive(Debug, Clone, Default)]
struct Tap {
    positions: Vec<usize>,
    before: Option<(TimeMicros, f64)>,
}

impl Tap {
    fn read(&mut self, source: &Source, frame: &MetricFrame) -> Option<f64> {
        let numbers = self
            .positions
            .iter()
            .filter_map(|position| frame.values.get(*position));
        let (mut count, mut sum, mut most) = (0usize, 0.0, f64::NEG_INFINITY);
        for number in numbers.filter(|number| number.is_finite()) {
            count += 1;
            sum += number;
            most = most.max(*number);
        }
        if count == 0 {
            self.before = None;
            return None;
        }
        let value = match source.reduce {
            Reduce::Sum => sum,
            Reduce::Mean => sum / count as f64,
            Reduce::Max => most,
        };
        if !source.rate {
            return Some(value);
        }
        let (time, before) = self.before.replace((frame.time, value))?;
        let seconds = frame.time.micros_since(time) as f64 / 1e6;
        // A counter that fell was reset: nothing is known about that interval.
        (seconds > 0.0 && value >= before).then(|| (value - before) / seconds)
    }
}

/// Makes one feature vector per window out of metric frames.
#[derive(Debug, Clone)]
pub struct FeatureExtractor {
    features: Arc<[Feature]>,
    window_s: f64,
    series: Option<SeriesSet>,
    taps: Vec<(Tap, Tap)>,
    sums: Vec<(f64, u32)>,
    started: Option<TimeMicros>,
}

impl FeatureExtractor {
    /// An extractor that averages over windows of `window_s`.
    pub fn new(schema: &FeatureSchema, window_s: f64) -> Self {
        let features: Arc<[Feature]> = schema.features.clone().into();
        Self {
            taps: vec![Default::default(); features.len()],
            sums: vec![(0.0, 0); features.len()],
            features,
            window_s,
            series: None,
            started: None,
        }
    }

    /// Takes in one frame; answers with the window that it completes.
    pub fn push(&mut self, frame: &MetricFrame) -> Option<FeatureVector> {
        self.follow(&frame.series);
        for ((feature, (from, per)), (sum, count)) in
            self.features.iter().zip(&mut self.taps).zip(&mut self.sums)
        {
            let value = from.read(&feature.from, frame);
            let value = match &feature.per {
                None => value,
                Some(source) => {
                    let by = per.read(source, frame).filter(|by| *by > 0.0);
                    value.zip(by).map(|(value, by)| value / by)
                }
            };
            if let Some(value) = value
                .map(|value| feature.scale.apply(value))
                .filter(|value| value.is_finite())
            {
                *sum += value;
                *count += 1;
            }
        }
        let started = *self.started.get_or_insert(frame.time);
        // Frames come about once a second: the window ends with the frame that fills it, within half a second.
        let elapsed_s = frame.time.micros_since(started) as f64 / 1e6;
        if elapsed_s >= 0.0 && elapsed_s + 1.5 <= self.window_s {
            return None;
        }
        self.started = None;
        let mean = |(sum, count): &mut (f64, u32)| {
            let value = if *count > 0 {
                narrow(*sum / f64::from(*count))
            } else {
                f32::NAN
            };
            (*sum, *count) = (0.0, 0);
            value
        };
        Some(FeatureVector {
            time: frame.time,
            values: self.sums.iter_mut().map(mean).collect(),
        })
    }

    /// Forgets what was read: the next frame begins a window, and no rate reaches over the time between.
    pub fn restart(&mut self) {
        self.started = None;
        self.sums.fill((0.0, 0));
        for (from, per) in &mut self.taps {
            (from.before, per.before) = (None, None);
        }
    }

    /// Names of features that the present series cannot make.
    pub fn absent(&self) -> Vec<&str> {
        let features = self.features.iter().zip(&self.taps);
        features
            .filter(|(_, (from, _))| from.positions.is_empty())
            .map(|(feature, _)| feature.name.as_str())
            .collect()
    }

    fn follow(&mut self, series: &SeriesSet) {
        if self
            .series
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, series))
        {
            return;
        }
        for (feature, (from, per)) in self.features.iter().zip(&mut self.taps) {
            *from = Tap {
                positions: positions(&feature.from, series),
                before: None,
            };
            *per = feature.per.as_ref().map_or_else(Tap::default, |source| Tap {
                positions: positions(source, series),
                before: None,
            });
        }
        self.series = Some(series.clone());
    }
}

fn positions(source: &Source, series: &[SeriesKey]) -> Vec<usize> {
    let fits = |key: &SeriesKey| {
        let has = |name: &String, value: &String| key.labels.get(name) == Some(value);
        key.name == source.metric
            && source.attributes.iter().all(|(name, value)| {
                // An empty value asks for the attribute to be absent.
                if value.is_empty() {
                    !key.labels.contains_key(name)
                } else {
                    has(name, value)
                }
            })
            && !source.without.iter().any(|(name, value)| has(name, value))
    };
    series
        .iter()
        .enumerate()
        .filter(|(_, key)| fits(key))
        .map(|(position, _)| position)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(json: &str) -> FeatureSchema {
        serde_json::from_str(&format!(r#"{{"about":"test","features":[{json}]}}"#)).unwrap()
    }

    fn frame(second: i64, series: &SeriesSet, values: &[f64]) -> MetricFrame {
        MetricFrame {
            time: TimeMicros(second * 1_000_000),
            series: series.clone(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn counter_becomes_a_rate_summed_over_its_series() {
        let schema = schema(
            r#"{"name":"in","unit":"By/s","from":{"metric":"net","attributes":{"dir":"rx"},"without":{"if":"lo"},"rate":true},"scale":{"linear":10.0}}"#,
        );
        let series: SeriesSet = Arc::new([
            SeriesKey::new("net", "By", [("dir", "rx"), ("if", "a")]),
            SeriesKey::new("net", "By", [("dir", "rx"), ("if", "b")]),
            SeriesKey::new("net", "By", [("dir", "tx"), ("if", "a")]),
            SeriesKey::new("net", "By", [("dir", "rx"), ("if", "lo")]),
        ]);
        let mut extractor = FeatureExtractor::new(&schema, 1.0);
        let first = extractor
            .push(&frame(1, &series, &[10.0, 20.0, 1e9, 1e9]))
            .unwrap();
        assert!(first.values[0].is_nan(), "a rate needs two readings");
        let second = extractor
            .push(&frame(2, &series, &[40.0, 20.0, 0.0, 0.0]))
            .unwrap();
        assert_eq!(second.values, [3.0]);
        let reset = extractor.push(&frame(3, &series, &[0.0, 0.0, 0.0, 0.0])).unwrap();
        assert!(reset.values[0].is_nan(), "a counter that fell says nothing");
    }

    #[test]
    fn absent_or_unread_series_are_missing_and_not_zero() {
        let schema = schema(
            r#"{"name":"a","unit":"1","from":{"metric":"a"},"scale":{"linear":1.0}},
               {"name":"b","unit":"1","from":{"metric":"b"},"per":{"metric":"limit"},"scale":{"linear":1.0}}"#,
        );
        let series: SeriesSet = Arc::new([SeriesKey::new("b", "1", []), SeriesKey::new("limit", "1", [])]);
        let mut extractor = FeatureExtractor::new(&schema, 1.0);
        let values = extractor.push(&frame(1, &series, &[2.0, 8.0])).unwrap().values;
        assert!(values[0].is_nan());
        assert_eq!(values[1], 0.25);
        assert_eq!(extractor.absent(), ["a"]);
        assert!(
            extractor
                .push(&frame(2, &series, &[f64::NAN, 8.0]))
                .unwrap()
                .values[1]
                .is_nan()
        );
    }

    #[test]
    fn window_averages_what_was_read_in_it() {
        let schema = schema(r#"{"name":"a","unit":"1","from":{"metric":"a"},"scale":{"linear":1.0}}"#);
        let series: SeriesSet = Arc::new([SeriesKey::new("a", "1", [])]);
        let mut extractor = FeatureExtractor::new(&schema, 5.0);
        let mut vectors = Vec::new();
        for second in 1..=10 {
            let value = if second % 5 == 0 { f64::NAN } else { second as f64 };
            vectors.extend(extractor.push(&frame(second, &series, &[value])));
        }
        assert_eq!(vectors.len(), 2);
        assert_eq!(vectors[0].values, [2.5]);
        assert_eq!(vectors[1].time, TimeMicros(10_000_000));
    }
}
