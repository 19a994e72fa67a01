//! Files of tiers are read: the rows of one row group after the other, whole or only those of series that are wanted.

use std::sync::Arc;

use arrow::array::{
    Array, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use fleetmend_event::HostId;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection};

use super::window::Window;
use crate::chunk::{FileError, OpenFile, Wanted};
use crate::select::SeriesKey;
use crate::shape::{HOST_ID, INGESTED_AT, TIME, typed};

/// Columns that tell whose a window is, and when.
const KEYS: [&str; 5] = [TIME, "name", "unit", "labels", HOST_ID];
/// The others that are read.
const SUMS: [&str; 12] = [
    TIME,
    "count",
    "sum",
    "min",
    "max",
    "first",
    "first_time",
    "last",
    "last_time",
    "resets",
    "increase",
    INGESTED_AT,
];
/// Columns of times.
const SPANS: (&str, &str) = (TIME, TIME);
/// Rows read at once.
const BATCH_ROWS: usize = 8 * 1024;

/// Whose windows rows are.
struct Keys<'a> {
    times: &'a TimestampMicrosecondArray,
    names: &'a StringArray,
    units: &'a StringArray,
    labels: &'a StringArray,
    hosts: &'a StringArray,
}

impl<'a> Keys<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, FileError> {
        Ok(Self {
            times: column(batch, TIME)?,
            names: column(batch, "name")?,
            units: column(batch, "unit")?,
            labels: column(batch, "labels")?,
            hosts: column(batch, HOST_ID)?,
        })
    }

    fn host(&self, row: usize) -> Result<HostId, FileError> {
        let host: Result<HostId, _> = self.hosts.value(row).parse();
        host.map_err(|_| FileError::shape("a host that is none"))
    }

    /// The series of a row; `last` when it is of that.
    fn key(&self, row: usize, last: Option<&Arc<SeriesKey>>) -> Result<Arc<SeriesKey>, FileError> {
        let host = self.host(row)?;
        let (name, unit, labels) = (
            self.names.value(row),
            self.units.value(row),
            self.labels.value(row),
        );
        let same = last
            .filter(|key| key.host == host && key.name == name && key.labels == labels && key.unit == unit);
        if let Some(key) = same {
            return Ok(key.clone());
        }
        Ok(Arc::new(SeriesKey {
            name: name.to_owned(),
            labels: labels.to_owned(),
            host,
            unit: unit.to_owned(),
        }))
    }
}

/// What windows say.
struct Sums<'a> {
    start: &'a TimestampMicrosecondArray,
    counts: [&'a Int64Array; 2],
    values: [&'a Float64Array; 6],
    times: [&'a TimestampMicrosecondArray; 3],
}

impl<'a> Sums<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, FileError> {
        Ok(Self {
            start: column(batch, TIME)?,
            counts: [column(batch, "count")?, column(batch, "resets")?],
            values: [
                column(batch, "sum")?,
                column(batch, "min")?,
                column(batch, "max")?,
                column(batch, "first")?,
                column(batch, "last")?,
                column(batch, "increase")?,
            ],
            times: [
                column(batch, "first_time")?,
                column(batch, "last_time")?,
                column(batch, INGESTED_AT)?,
            ],
        })
    }

    /// A window, and when the latest of its samples was taken. Counts and times that cannot be are damage.
    fn window(&self, row: usize) -> Result<(Window, i64), FileError> {
        let [count, resets] = self.counts.map(|column| column.value(row));
        let [sum, min, max, first, last, increase] = self.values.map(|column| column.value(row));
        let [first_time, last_time, taken] = self.times.map(|column| column.value(row));
        let start = self.start.value(row);
        if count < 1 || resets < 0 || first_time < start || last_time < first_time {
            return Err(FileError::shape("a window of an impossible count or time"));
        }
        let window = Window {
            start,
            count,
            sum,
            min,
            max,
            first: (first_time, first),
            last: (last_time, last),
            resets,
            increase,
        };
        Ok((window, taken))
    }
}

/// Gives `take` the windows that `wanted` and `keeps` want, in the file's order. `look` is asked now and then whether to
/// go on.
pub(crate) fn read_windows<E: From<FileError>>(
    file: &OpenFile,
    wanted: &Wanted,
    mut keeps: impl FnMut(&SeriesKey) -> bool,
    look: impl Fn() -> Result<(), E>,
    mut take: impl FnMut(&Arc<SeriesKey>, Window) -> Result<(), E>,
) -> Result<(), E> {
    for group in wanted.groups(file.metadata(), SPANS) {
        look()?;
        let mut chosen: Vec<bool> = Vec::new();
        let mut keys: Vec<Arc<SeriesKey>> = Vec::new();
        // Windows of one series follow each other.
        let mut last: Option<(Arc<SeriesKey>, bool)> = None;
        for batch in file.read(group, &KEYS, None, BATCH_ROWS)? {
            let batch = batch.map_err(FileError::from)?;
            let rows = Keys::of(&batch)?;
            for row in 0..batch.num_rows() {
                let time = rows.times.value(row);
                let is_wanted = wanted.touches(time, time) && wanted.wants_name(rows.names.value(row));
                if !is_wanted || !wanted.wants_host(rows.host(row)?) {
                    chosen.push(false);
                    continue;
                }
                let key = rows.key(row, last.as_ref().map(|(key, _)| key))?;
                let kept = match &last {
                    Some((held, kept)) if Arc::ptr_eq(held, &key) => *kept,
                    _ => keeps(&key),
                };
                chosen.push(kept);
                if kept {
                    keys.push(key.clone());
                }
                last = Some((key, kept));
            }
        }
        if keys.is_empty() {
            continue;
        }
        let selection = RowSelection::from_filters(&[BooleanArray::from(chosen)]);
        let mut keys = keys.into_iter();
        for batch in file.read(group, &SUMS, Some(selection), BATCH_ROWS)? {
            look()?;
            let batch = batch.map_err(FileError::from)?;
            let rows = Sums::of(&batch)?;
            for row in 0..batch.num_rows() {
                let key = keys
                    .next()
                    .ok_or_else(|| FileError::shape("more windows than it says"))?;
                take(&key, rows.window(row)?.0)?;
            }
        }
    }
    Ok(())
}

/// Every window of a file in its order, some at a time.
pub(super) struct WindowCursor {
    file: OpenFile,
    /// Row group that is read next.
    group: usize,
    reader: Option<ParquetRecordBatchReader>,
    rows: std::vec::IntoIter<(Arc<SeriesKey>, Taken)>,
    last: Option<Arc<SeriesKey>>,
}

/// A window, and when the latest of its samples was taken.
pub(super) type Taken = (Window, i64);
/// The windows of one series.
pub(super) type OfSeries = (Arc<SeriesKey>, Vec<Taken>);

impl WindowCursor {
    /// From the first window on.
    pub(super) fn new(file: OpenFile) -> Self {
        Self {
            file,
            group: 0,
            reader: None,
            rows: Vec::new().into_iter(),
            last: None,
        }
    }

    /// The next series with its windows; none after the last.
    pub(super) fn next(&mut self) -> Result<Option<OfSeries>, FileError> {
        let mut windows = Vec::new();
        let mut series: Option<Arc<SeriesKey>> = None;
        while self.fill()? {
            let is_other = |key: &Arc<SeriesKey>| series.as_ref().is_some_and(|held| !Arc::ptr_eq(held, key));
            if self.rows.as_slice().first().is_none_or(|(key, _)| is_other(key)) {
                break;
            }
            let Some((key, window)) = self.rows.next() else {
                break;
            };
            series = Some(key);
            windows.push(window);
        }
        Ok(series.map(|series| (series, windows)))
    }

    /// Whether there are rows left; some are at hand then.
    fn fill(&mut self) -> Result<bool, FileError> {
        while self.rows.as_slice().is_empty() {
            if let Some(batch) = self.reader.as_mut().and_then(Iterator::next) {
                let batch = batch?;
                let (keys, sums) = (Keys::of(&batch)?, Sums::of(&batch)?);
                let mut rows = Vec::with_capacity(batch.num_rows());
                for row in 0..batch.num_rows() {
                    let key = keys.key(row, self.last.as_ref())?;
                    self.last = Some(key.clone());
                    rows.push((key, sums.window(row)?));
                }
                self.rows = rows.into_iter();
            } else if self.group < self.file.metadata().num_row_groups() {
                let columns: Vec<&str> = KEYS.into_iter().chain(SUMS).collect();
                self.reader = Some(self.file.read(self.group, &columns, None, BATCH_ROWS)?);
                self.group = self.group.saturating_add(1);
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A column of a known type without nulls.
fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a A, FileError> {
    let column: &A = typed(batch, name).map_err(|error| FileError::shape(error.to_string()))?;
    if column.null_count() > 0 {
        return Err(FileError::shape(format!("nulls in column {name}")));
    }
    Ok(column)
}
