//! What is told of and not taken in: because the queue is lost, or because the store is being read.
//!
//! Reading the store goes by the times of samples, and begins a little before the newest that the target has. A sample
//! that became durable later than that lies beside the way. So whatever is told while it is not taken in is looked at:
//! what the target could not take any more, since it has newer ones of the series, is counted here; what it could is
//! noted by the oldest time of each host, and the next reading begins there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch, TimestampMicrosecondArray};
use fleetmend_event::{HostId, TimeMicros};
use parking_lot::Mutex;

use super::{AHEAD_MICROS_MAX, MetricTarget};
use crate::marks::HostMarks;
use crate::sample::{hash_of, series_of};
use crate::source::NewRows;
use crate::status::Gauge;

/// What the target has of each host, for the feed and for what is told meanwhile.
pub(crate) type Marks = Arc<Mutex<HashMap<HostId, HostMarks>>>;

/// Shared by the reading of the store and by who hears what is told; both are one task.
#[derive(Clone)]
pub(crate) struct Late {
    target: Arc<dyn MetricTarget>,
    gauge: Gauge,
    marks: Marks,
    way: Arc<Mutex<Way>>,
}

/// How far the store was read, and from where it has to be read again. Bounded by the hosts.
#[derive(Default)]
struct Way {
    /// Samples before this are for nobody.
    begin: Option<TimeMicros>,
    /// Samples before this are too old.
    floor: Option<TimeMicros>,
    /// Up to where each host was read, or is being read now; none: nothing is read, and all of it lies behind.
    read: Option<HashMap<HostId, TimeMicros>>,
    /// From where the next reading has to begin.
    from: HashMap<HostId, TimeMicros>,
    /// From where this one began for that reason.
    reading: HashMap<HostId, TimeMicros>,
}

/// What a told sample is to a target that does not take it in.
#[derive(Default)]
struct Counted {
    early: u64,
    old: u64,
    not_newer: u64,
    oldest: Option<TimeMicros>,
}

impl Late {
    pub(crate) fn new(target: Arc<dyn MetricTarget>, gauge: Gauge, marks: Marks) -> Self {
        Self {
            target,
            gauge,
            marks,
            way: Arc::default(),
        }
    }

    /// The store is going to be read: of which hosts it has to be read from earlier than the marks say. Nothing older
    /// than `floor`, and nothing from before `begin`, is wanted.
    pub(crate) fn ask(&self, begin: TimeMicros, floor: TimeMicros) -> HashMap<HostId, TimeMicros> {
        let mut way = self.way.lock();
        let mut from = std::mem::take(&mut way.from);
        // Of a reading that failed.
        for (host, time) in std::mem::take(&mut way.reading) {
            let oldest = from.entry(host).or_insert(time);
            *oldest = time.min(*oldest);
        }
        way.reading = from.clone();
        (way.begin, way.floor) = (Some(begin), Some(floor));
        from
    }

    /// Reading begins, each host at its place.
    pub(crate) fn set_out(&self, places: impl IntoIterator<Item = (HostId, TimeMicros)>) {
        self.way.lock().read = Some(places.into_iter().collect());
    }

    /// These hosts are read up to `until` from now on.
    pub(crate) fn reads(&self, hosts: &BTreeSet<HostId>, until: TimeMicros) {
        if let Some(read) = &mut self.way.lock().read {
            read.extend(hosts.iter().map(|host| (*host, until)));
        }
    }

    /// Nothing is read any more.
    pub(crate) fn rests(&self) {
        self.way.lock().read = None;
    }

    /// The store was read to its end, and what was told meanwhile waits to be taken in, or `is_lost`.
    pub(crate) fn was_read(&self, is_lost: bool) {
        let mut way = self.way.lock();
        way.reading.clear();
        if !is_lost {
            way.from.clear();
        }
    }

    /// Rows of metrics that were told and are not taken in now; not for the first time, when they are told `again`.
    pub(crate) fn told(&self, rows: &NewRows, again: bool) {
        let Some(oldest) = oldest_of(&rows.batch) else {
            return;
        };
        let oldest = self.target.rounded(oldest);
        let mut way = self.way.lock();
        let behind = match &way.read {
            None => TimeMicros(i64::MAX),
            // A host that nothing was known of before is read another time, as a whole.
            Some(read) => match read.get(&rows.host) {
                Some(until) => *until,
                None => return,
            },
        };
        if oldest > behind {
            return;
        }
        let newest = self.marks.lock().get(&rows.host).and_then(HostMarks::newest);
        let bounds = (way.begin, way.floor);
        let in_order = newest.is_none_or(|newest| oldest > newest)
            && bounds.0.is_none_or(|begin| oldest >= begin)
            && bounds.1.is_none_or(|floor| oldest >= floor);
        let first = if in_order {
            Some(oldest)
        } else {
            let counted = self.look_at(rows, behind, bounds);
            if !again {
                self.gauge.dropped("before_begin", counted.early);
                self.gauge.dropped("too_old", counted.old);
                self.gauge.dropped("not_newer", counted.not_newer);
            }
            counted.oldest
        };
        if let Some(first) = first {
            let oldest = way.from.entry(rows.host).or_insert(first);
            *oldest = first.min(*oldest);
        }
    }

    /// Each sample that lies behind; few come here, so that they are looked at where they are told.
    fn look_at(
        &self,
        rows: &NewRows,
        behind: TimeMicros,
        (begin, floor): (Option<TimeMicros>, Option<TimeMicros>),
    ) -> Counted {
        let mut counted = Counted::default();
        // What cannot be decoded says so where it is read.
        let Ok(all) = series_of(rows.host, &rows.batch) else {
            return counted;
        };
        let ahead = TimeMicros::now().plus_micros(AHEAD_MICROS_MAX);
        let marks = self.marks.lock();
        let marks = marks.get(&rows.host);
        for series in all.iter().filter(|series| self.target.wants(&series.name)) {
            let hash = hash_of(series);
            for (time, _) in &series.samples {
                let time = self.target.rounded(*time);
                if time > behind || time > ahead {
                    continue;
                }
                let count = if begin.is_some_and(|begin| time < begin) {
                    &mut counted.early
                } else if marks.is_some_and(|marks| !marks.is_new(hash, time)) {
                    &mut counted.not_newer
                } else if floor.is_some_and(|floor| time < floor) {
                    &mut counted.old
                } else {
                    counted.oldest = Some(counted.oldest.map_or(time, |oldest| oldest.min(time)));
                    continue;
                };
                *count = count.saturating_add(1);
            }
        }
        counted
    }
}

/// Time of the oldest sample of a batch of chunks.
fn oldest_of(batch: &RecordBatch) -> Option<TimeMicros> {
    let column = batch.column_by_name("start_time")?;
    let times = column.as_any().downcast_ref::<TimestampMicrosecondArray>()?;
    times.iter().flatten().min().map(TimeMicros)
}

#[cfg(test)]
pub(crate) mod tests {
    use fleetmend_event::table::{MetricChunk, Table as _};

    use super::*;
    use crate::config::RemoteWrite;
    use crate::remote_write::RemoteWriter;

    const HOST: HostId = HostId::from_bytes([1; 16]);
    const SECOND: i64 = 1_000_000;

    /// One over these marks, of a target that wants everything.
    pub(crate) fn late(marks: &Marks) -> Late {
        let target = serde_json::json!({"name": "t", "url": "https://t.example"});
        let target: RemoteWrite = serde_json::from_value(target).unwrap();
        let target = Arc::new(RemoteWriter::new(&target).unwrap());
        Late::new(target, Gauge::new("t", "metrics"), marks.clone())
    }

    /// Three samples of a series, a second apart.
    fn rows(name: &str, begin: i64) -> NewRows {
        let chunk = MetricChunk {
            name: name.to_owned(),
            unit: "1".to_owned(),
            labels: "{}".to_owned(),
            start_time: TimeMicros(begin * SECOND),
            step_ms: 1_000,
            offset_ms: Vec::new(),
            value: vec![0.0; 3],
        };
        NewRows {
            host: HOST,
            table: MetricChunk::NAME,
            batch: MetricChunk::to_batch(&[chunk]).unwrap(),
            withheld: false,
        }
    }

    /// The target has `a` up to second 101 of the host.
    fn marks() -> Marks {
        let marks = Marks::default();
        let series = series_of(HOST, &rows("a", 0).batch).unwrap();
        let mut of_host = HostMarks::default();
        of_host.raise(hash_of(&series[0]), TimeMicros(101 * SECOND));
        marks.lock().insert(HOST, of_host);
        marks
    }

    fn dropped(late: &Late) -> u64 {
        late.gauge.status().dropped
    }

    fn ask(late: &Late) -> Option<i64> {
        let from = late.ask(TimeMicros(0), TimeMicros(0));
        from.get(&HOST).map(|time| time.0 / SECOND)
    }

    #[test]
    fn what_nobody_takes_in_is_counted_or_read_again() {
        let late = late(&marks());
        late.told(&rows("a", 102), false);
        assert_eq!((dropped(&late), ask(&late)), (0, Some(102)), "in order");
        late.was_read(false);
        // Two of them the target can never have.
        late.told(&rows("a", 100), false);
        assert_eq!(dropped(&late), 2);
        late.told(&rows("a", 100), true);
        assert_eq!(dropped(&late), 2, "told again");
        late.told(&rows("b", 7), false);
        assert_eq!((dropped(&late), ask(&late)), (2, Some(7)), "new to the target");
        // The reading failed: what it began for is not forgotten.
        assert_eq!(ask(&late), Some(7));
        late.was_read(true);
        assert_eq!(ask(&late), None);
    }

    #[test]
    fn only_what_lies_behind_a_reading_is_late() {
        let late = late(&marks());
        late.ask(TimeMicros(0), TimeMicros(0));
        late.set_out([(HOST, TimeMicros(50 * SECOND))]);
        late.told(&rows("a", 60), false);
        late.told(&rows("b", 60), false);
        assert_eq!((dropped(&late), ask(&late)), (0, None), "it will be read");
        late.set_out([(HOST, TimeMicros(50 * SECOND))]);
        late.reads(&BTreeSet::from([HOST]), TimeMicros(80 * SECOND));
        late.told(&rows("a", 60), false);
        late.told(&rows("b", 79), false);
        assert_eq!((dropped(&late), ask(&late)), (3, Some(79)));
        late.rests();
    }

    #[test]
    fn what_is_too_old_or_of_before_is_counted_so() {
        let late = late(&Marks::default());
        late.ask(TimeMicros(10 * SECOND), TimeMicros(20 * SECOND));
        for begin in [8, 18] {
            late.told(&rows("a", begin), false);
        }
        // 8 and 9 are of before; 10, 18 and 19 too old; 20 is wanted.
        assert_eq!((dropped(&late), ask(&late)), (5, Some(20)));
    }
}
