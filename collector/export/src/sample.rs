//! Samples on their way: gathered into one request, each series once and in rising time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use fleetmend_event::table::{MetricChunk, Table as _};
use fleetmend_event::{HostId, TimeMicros};

use crate::deliver::Parcel;
use crate::error::SourceError;
use crate::marks::{HostMarks, series_hash};
use crate::source::Series;

/// Names of hosts, as far as they are known.
pub(crate) type Names = Arc<HashMap<HostId, String>>;

/// Samples of one request.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) series: Vec<(u64, Series)>,
    pub(crate) names: Names,
}

/// The samples of a batch of `metrics` as it was sent.
pub(crate) fn series_of(host: HostId, batch: &RecordBatch) -> Result<Vec<Series>, SourceError> {
    let chunks = MetricChunk::from_batch(batch).map_err(|error| SourceError::Shape {
        table: MetricChunk::NAME.to_owned(),
        reason: error.to_string(),
    })?;
    let series = |chunk: MetricChunk| Series {
        host,
        samples: chunk
            .value
            .iter()
            .enumerate()
            .map(|(index, value)| (chunk.sample_time(index), *value))
            .collect(),
        name: chunk.name.into(),
        unit: chunk.unit.into(),
        labels: chunk.labels.into(),
    };
    Ok(chunks.into_iter().map(series).collect())
}

/// Samples that wait to be a request.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    places: HashMap<(HostId, u64), usize>,
    samples: Samples,
    count: usize,
}

/// What became of a sample that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// Not newer than what the target has or will have of the series.
    NotNewer,
}

impl Gathered {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds a sample of a series, when it is newer than the target's.
    pub(crate) fn offer(
        &mut self,
        series: &Series,
        hash: u64,
        (time, value): (TimeMicros, f64),
        marks: Option<&HostMarks>,
    ) -> Offered {
        if let Some(known) = self
            .places
            .get(&(series.host, hash))
            .and_then(|place| self.samples.series.get_mut(*place))
        {
            if known.1.samples.last().is_some_and(|(last, _)| time <= *last) {
                return Offered::NotNewer;
            }
            known.1.samples.push((time, value));
        } else {
            if marks.is_some_and(|marks| !marks.is_new(hash, time)) {
                return Offered::NotNewer;
            }
            self.places.insert((series.host, hash), self.samples.series.len());
            let begun = Series {
                samples: vec![(time, value)],
                ..series_without_samples(series)
            };
            self.samples.series.push((hash, begun));
        }
        self.count = self.count.saturating_add(1);
        Offered::Taken
    }

    /// All of it, and nothing is left.
    pub(crate) fn take(&mut self, names: Names) -> Samples {
        let taken = std::mem::take(self);
        Samples {
            names,
            ..taken.samples
        }
    }
}

fn series_without_samples(series: &Series) -> Series {
    Series {
        host: series.host,
        name: series.name.clone(),
        unit: series.unit.clone(),
        labels: series.labels.clone(),
        samples: Vec::new(),
    }
}

/// Which series, the same in every run.
pub(crate) fn hash_of(series: &Series) -> u64 {
    series_hash(&series.name, &series.unit, &series.labels)
}

impl Samples {
    fn times(&self) -> impl Iterator<Item = TimeMicros> {
        let series = self.series.iter();
        series.flat_map(|(_, series)| series.samples.iter().map(|(time, _)| *time))
    }

    /// What each host's marks become once the target has these.
    pub(crate) fn newest(&self) -> Vec<(HostId, u64, TimeMicros)> {
        let newest = |(hash, series): &(u64, Series)| {
            let (time, _) = series.samples.last()?;
            Some((series.host, *hash, *time))
        };
        self.series.iter().filter_map(newest).collect()
    }
}

impl Parcel for Samples {
    fn count(&self) -> u64 {
        self.series
            .iter()
            .map(|(_, series)| series.samples.len() as u64)
            .sum()
    }

    fn oldest(&self) -> Option<TimeMicros> {
        self.times().min()
    }

    fn halve(self) -> Result<(Self, Self), Self> {
        let mut times: Vec<TimeMicros> = self.times().collect();
        times.sort_unstable();
        times.dedup();
        let names = self.names.clone();
        let with = |series| Self {
            series,
            names: names.clone(),
        };
        if let Some(middle) = times.get(times.len() / 2).filter(|_| times.len() > 1) {
            let (mut older, mut newer) = (Vec::new(), Vec::new());
            for (hash, mut series) in self.series {
                let cut = series.samples.partition_point(|(time, _)| time < middle);
                let late = series.samples.split_off(cut);
                let rest = Series {
                    samples: late,
                    ..series_without_samples(&series)
                };
                older.extend((!series.samples.is_empty()).then_some((hash, series)));
                newer.extend((!rest.samples.is_empty()).then_some((hash, rest)));
            }
            return Ok((with(older), with(newer)));
        }
        if self.series.len() < 2 {
            return Err(self);
        }
        let mut first = self.series;
        let second = first.split_off(first.len() / 2);
        Ok((with(first), with(second)))
    }

    fn since(mut self, floor: TimeMicros) -> Self {
        for (_, series) in &mut self.series {
            let cut = series.samples.partition_point(|(time, _)| *time < floor);
            series.samples.drain(..cut);
        }
        self.series.retain(|(_, series)| !series.samples.is_empty());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, times: &[i64]) -> Series {
        Series {
            host: HostId::from_bytes([1; 16]),
            name: name.into(),
            unit: "1".into(),
            labels: "{}".into(),
            samples: times.iter().map(|time| (TimeMicros(*time), 1.0)).collect(),
        }
    }

    fn gathered(all: &[Series]) -> Samples {
        let mut gathered = Gathered::default();
        for series in all {
            for sample in &series.samples {
                gathered.offer(series, hash_of(series), *sample, None);
            }
        }
        gathered.take(Names::default())
    }

    fn shape(samples: &Samples) -> Vec<(String, Vec<i64>)> {
        let times = |series: &Series| series.samples.iter().map(|(time, _)| time.0).collect();
        let shape = |(_, series): &(u64, Series)| (series.name.to_string(), times(series));
        samples.series.iter().map(shape).collect()
    }

    #[test]
    fn series_is_there_once_and_rises() {
        let samples = gathered(&[series("a", &[1, 3]), series("b", &[2]), series("a", &[2, 3, 4])]);
        assert_eq!(
            shape(&samples),
            [("a".to_owned(), vec![1, 3, 4]), ("b".to_owned(), vec![2])]
        );
        assert_eq!(samples.count(), 4);
        assert_eq!(samples.oldest(), Some(TimeMicros(1)));
    }

    #[test]
    fn what_the_target_has_is_not_taken() {
        let a = series("a", &[5]);
        let mut marks = HostMarks::default();
        marks.raise(hash_of(&a), TimeMicros(5));
        let mut gathered = Gathered::default();
        let mut offer = |time| gathered.offer(&a, hash_of(&a), (TimeMicros(time), 1.0), Some(&marks));
        assert_eq!(offer(5), Offered::NotNewer);
        assert_eq!(offer(6), Offered::Taken);
        assert_eq!(gathered.count(), 1);
    }

    #[test]
    fn halves_hold_everything_the_older_first() {
        let (older, newer) = gathered(&[series("a", &[1, 2, 3, 4]), series("b", &[4])])
            .halve()
            .unwrap();
        assert_eq!(shape(&older), [("a".to_owned(), vec![1, 2])]);
        assert_eq!(
            shape(&newer),
            [("a".to_owned(), vec![3, 4]), ("b".to_owned(), vec![4])]
        );
        let (first, second) = gathered(&[series("a", &[1]), series("b", &[1])]).halve().unwrap();
        assert_eq!((first.count(), second.count()), (1, 1));
        assert!(first.halve().is_err());
    }

    #[test]
    fn what_is_too_old_goes_alone() {
        let samples = gathered(&[series("a", &[1, 2, 3, 4]), series("b", &[2])]);
        let rest = samples.since(TimeMicros(3));
        assert_eq!(shape(&rest), [("a".to_owned(), vec![3, 4])]);
        assert_eq!(rest.since(TimeMicros(5)).count(), 0);
    }
}
