//! Files of the former layout of metrics: one row per sample, with the columns that SQL shows, sorted by name, labels,
//! host and time. They are read until they are merged into files of chunks.

use arrow::array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use super::footer::{FileError, OpenFile};
use super::prune::Wanted;
use crate::shape::typed;

/// Rows read at once.
pub(super) const BATCH_ROWS: usize = 8 * 1024;
/// The columns, all of them.
pub(super) const COLUMNS: [&str; 8] = [
    "time",
    "host_id",
    "name",
    "unit",
    "labels",
    "value",
    "ingested_at",
    "clock_ahead_us",
];
/// The column of times.
pub(super) const SPANS: (&str, &str) = ("time", "time");

/// Samples, one in a row.
#[derive(Debug)]
pub(crate) struct SampleRows<'a> {
    pub(crate) times: &'a TimestampMicrosecondArray,
    pub(crate) hosts: &'a StringArray,
    pub(crate) names: &'a StringArray,
    pub(crate) units: &'a StringArray,
    pub(crate) labels: &'a StringArray,
    pub(crate) values: &'a Float64Array,
    pub(crate) ingested: &'a TimestampMicrosecondArray,
    /// Missing in the oldest files.
    clocks: Option<&'a Int64Array>,
}

impl<'a> SampleRows<'a> {
    /// The columns of `batch`.
    pub(crate) fn of(batch: &'a RecordBatch) -> Result<Self, FileError> {
        let wrong = |error: crate::error::ReadError| FileError::shape(error.to_string());
        Ok(Self {
            times: typed(batch, "time").map_err(wrong)?,
            hosts: typed(batch, "host_id").map_err(wrong)?,
            names: typed(batch, "name").map_err(wrong)?,
            units: typed(batch, "unit").map_err(wrong)?,
            labels: typed(batch, "labels").map_err(wrong)?,
            values: typed(batch, "value").map_err(wrong)?,
            ingested: typed(batch, "ingested_at").map_err(wrong)?,
            clocks: typed(batch, "clock_ahead_us").ok(),
        })
    }

    /// Runs of rows of one series, as `(first, end)`.
    pub(crate) fn runs(&self) -> Vec<(usize, usize)> {
        let rows = self.times.len();
        let mut runs = Vec::new();
        let mut first = 0;
        for row in 1..=rows {
            if row == rows || !self.are_of_one_series(first, row) {
                runs.push((first, row));
                first = row;
            }
        }
        runs
    }

    /// The value of a row; NaN where none could be taken.
    pub(crate) fn value(&self, row: usize) -> f64 {
        if self.values.is_null(row) {
            f64::NAN
        } else {
            self.values.value(row)
        }
    }

    /// How much the clock was ahead that made a row.
    pub(crate) fn clock(&self, row: usize) -> Option<i64> {
        let clocks = self.clocks.filter(|clocks| !clocks.is_null(row));
        clocks.map(|clocks| clocks.value(row))
    }

    fn are_of_one_series(&self, one: usize, other: usize) -> bool {
        [self.hosts, self.names, self.labels, self.units]
            .iter()
            .all(|column| column.value(one) == column.value(other))
    }
}

/// Gives `take` the rows that can matter, some at once, in the file's order, until it says no more.
pub(crate) fn read_rows<E: From<FileError>>(
    file: &OpenFile,
    wanted: &Wanted,
    mut take: impl FnMut(&SampleRows<'_>) -> Result<(), E>,
) -> Result<(), E> {
    for group in file.groups(wanted)? {
        for batch in file.rows(group)? {
            let batch = batch.map_err(FileError::from)?;
            take(&SampleRows::of(&batch)?)?;
        }
    }
    Ok(())
}
