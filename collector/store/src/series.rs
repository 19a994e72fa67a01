//! How many series a host may have.
//!
//! A label with a value for each request makes series without end, and each costs every query and every file from
//! then on. So a host has a number of them; samples of further ones are not stored and become a gap with the reason
//! [`REASON`]. A series that did not come for [`GENERATION`] or two counts no more. What was refused is decided
//! before it is durable, by what this process has seen since it started.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array as _, BooleanArray, RecordBatch, StringArray};
use arrow::buffer::BooleanBuffer;
use fleetmend_event::HostId;
use parking_lot::Mutex;
use twox_hash::XxHash64;

use crate::error::ReadError;
use crate::shape::typed;
use crate::strangers::Strangers;

/// Reason of the gap.
pub(crate) const REASON: &str = "series_limit";
/// A series is forgotten when it did not come in two of these.
const GENERATION: Duration = Duration::from_hours(6);
/// Hosts whose series are known; with more, all are learned anew.
const HOSTS_MAX: usize = 100_000;
/// Series of all hosts that are known, at some 16 bytes each; with more, all are learned anew.
const SERIES_MAX: usize = 8_000_000;
/// Sets of series that came in one frame of a host and were all known; most frames bring the same again.
const FRAMES_MAX: usize = 4;
/// The columns that name a series.
const COLUMNS: [&str; 3] = ["name", "unit", "labels"];

/// The series of all hosts.
#[derive(Debug)]
pub(crate) struct SeriesLimit {
    most: usize,
    /// Nobody outside knows it, so that nobody makes series that look alike.
    seed: u64,
    hosts: Mutex<HashMap<HostId, Arc<Mutex<Known>>>>,
    /// Columns that hosts send and nobody here knows.
    pub(crate) strangers: Strangers,
}

/// Series of one host, as hashes.
#[derive(Debug)]
struct Known {
    current: HashSet<u64>,
    previous: HashSet<u64>,
    since: Instant,
    frames: Vec<u64>,
}

impl SeriesLimit {
    /// So many series for each host.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            seed: rand::random(),
            hosts: Mutex::new(HashMap::new()),
            strangers: Strangers::default(),
        }
    }

    /// Which rows of an aligned batch of metrics may stay; none when all may.
    pub(crate) fn judge(&self, host: HostId, batch: &RecordBatch) -> Result<Option<BooleanArray>, ReadError> {
        let [name, unit, labels] = COLUMNS;
        let columns: [&StringArray; 3] = [typed(batch, name)?, typed(batch, unit)?, typed(batch, labels)?];
        let known = self.of_host(host);
        let mut known = known.lock();
        known.grow_old();
        let frame = self.hash_of_columns(&columns);
        if known.frames.contains(&frame) {
            return Ok(None);
        }
        let stays = BooleanBuffer::collect_bool(batch.num_rows(), |row| {
            let series = columns.iter().fold(self.seed, |hash, column| {
                let text = if row < column.len() { column.value(row) } else { "" };
                XxHash64::oneshot(hash, text.as_bytes())
            });
            known.admit(series, self.most)
        });
        if stays.count_set_bits() == batch.num_rows() {
            known.note_frame(frame);
            return Ok(None);
        }
        Ok(Some(BooleanArray::new(stays, None)))
    }

    fn of_host(&self, host: HostId) -> Arc<Mutex<Known>> {
        let mut hosts = self.hosts.lock();
        if let Some(known) = hosts.get(&host) {
            return known.clone();
        }
        let series = || hosts.values().map(|known| known.lock().len()).sum::<usize>();
        if hosts.len() >= HOSTS_MAX || series() >= SERIES_MAX {
            hosts.clear();
        }
        hosts
            .entry(host)
            .or_insert_with(|| Arc::new(Mutex::new(Known::new())))
            .clone()
    }

    /// A hash over all texts of a batch and where each ends.
    fn hash_of_columns(&self, columns: &[&StringArray]) -> u64 {
        columns.iter().fold(self.seed, |hash, column| {
            let hash = XxHash64::oneshot(hash, column.value_data());
            let offsets = column.offsets().inner().inner();
            XxHash64::oneshot(hash, offsets.as_slice())
        })
    }
}

impl Known {
    fn new() -> Self {
        Self {
            current: HashSet::new(),
            previous: HashSet::new(),
            since: Instant::now(),
            frames: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.current.len().saturating_add(self.previous.len())
    }

    fn grow_old(&mut self) {
        if self.since.elapsed() >= GENERATION {
            self.begin_generation();
        }
    }

    fn begin_generation(&mut self) {
        self.previous = std::mem::take(&mut self.current);
        self.since = Instant::now();
        // What is known by its frame has to be seen series by series once in each generation.
        self.frames.clear();
    }

    fn admit(&mut self, series: u64, most: usize) -> bool {
        if self.current.contains(&series) {
            return true;
        }
        if !self.previous.remove(&series) && self.len() >= most {
            return false;
        }
        self.current.insert(series)
    }

    fn note_frame(&mut self, frame: u64) {
        if self.frames.len() >= FRAMES_MAX {
            self.frames.remove(0);
        }
        self.frames.push(frame);
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_event::table::{MetricChunk, Table as _};

    use super::*;

    fn batch(series: std::ops::Range<u32>) -> RecordBatch {
        let chunk = |number| MetricChunk {
            name: "requests".to_owned(),
            unit: "1".to_owned(),
            labels: format!("{{\"request\":\"{number}\"}}"),
            start_time: fleetmend_event::TimeMicros(0),
            step_ms: 1_000,
            offset_ms: Vec::new(),
            value: vec![1.0],
        };
        MetricChunk::to_batch(&series.map(chunk).collect::<Vec<_>>()).unwrap()
    }

    fn kept(limit: &SeriesLimit, host: HostId, series: std::ops::Range<u32>) -> usize {
        let rows = batch(series);
        let stays = limit.judge(host, &rows).unwrap();
        stays.map_or(rows.num_rows(), |stays| stays.true_count())
    }

    #[test]
    fn new_series_beyond_the_limit_are_refused_and_known_ones_stay() {
        let (limit, host) = (SeriesLimit::new(100), HostId::random());
        assert_eq!(kept(&limit, host, 0..80), 80);
        assert_eq!(kept(&limit, host, 0..80), 80, "the same again");
        assert_eq!(kept(&limit, host, 70..130), 30);
        assert_eq!(kept(&limit, host, 0..100), 100);
        assert_eq!(kept(&limit, host, 100..200), 0);
        assert_eq!(kept(&limit, HostId::random(), 100..200), 100, "others are others");
    }

    #[test]
    fn series_that_no_longer_come_make_room_for_others() {
        let (limit, host) = (SeriesLimit::new(100), HostId::random());
        assert_eq!(kept(&limit, host, 0..100), 100);
        limit.of_host(host).lock().begin_generation();
        assert_eq!(kept(&limit, host, 100..101), 0, "they may still come");
        assert_eq!(kept(&limit, host, 0..40), 40);
        limit.of_host(host).lock().begin_generation();
        assert_eq!(kept(&limit, host, 100..200), 60);
        assert_eq!(kept(&limit, host, 0..40), 40);
    }
}
