//! The facts, as this room reads them.

use std::time::Duration;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use async_trait::async_trait;
use fleetmend_event::column::RowError;
use fleetmend_event::table::Finding;
use fleetmend_event::{HostId, Table, TimeMicros};

use crate::AlertError;

/// What one query may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryLimits {
    /// Rows wanted at most; more are cut off without an error.
    pub rows_max: usize,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query does not parse, plan or run.
    #[error("{0}")]
    Invalid(String),
    /// It took longer than allowed.
    #[error("the query took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The store does not answer now.
    #[error("{0}")]
    Unavailable(String),
}

/// Read-only SQL over all facts.
#[async_trait]
pub trait SqlQuery: Send + Sync + 'static {
    /// The result of one query; at most `limits.rows_max` rows.
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Vec<RecordBatch>, QueryError>;
}

/// A row with what the store knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub(crate) host_id: HostId,
    pub(crate) ingested_at: TimeMicros,
    /// How much the clock of its host was ahead of the collector's when it was made, where the store knows.
    pub(crate) clock_ahead_us: Option<i64>,
    pub(crate) row: T,
}

impl Stored<Finding> {
    /// Its place in the order in which a host's rows are applied: that in which they were taken in. The host's own
    /// clock decides only among those that were taken in at once, because it may be put back.
    pub(crate) fn arrival(&self) -> (TimeMicros, TimeMicros) {
        (self.ingested_at, self.row.time)
    }

    /// How long after it was made it was taken in, microseconds, by the collector's clock where its host's is known:
    /// a clock that is a year behind makes nothing late.
    pub(crate) fn late_us(&self) -> i64 {
        let ahead = self.clock_ahead_us.unwrap_or(0);
        self.ingested_at
            .micros_since(self.row.time.plus_micros(ahead.saturating_neg()))
    }
}

/// A text as an SQL literal.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A moment as an SQL literal of the type of the column `time`.
pub(crate) fn time(value: TimeMicros) -> String {
    format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", value.0)
}

/// The rows of one table that were read.
#[derive(Debug, Clone)]
pub(crate) struct Reading<T> {
    /// Those that could be read.
    pub(crate) rows: Vec<Stored<T>>,
    /// When each of the others was taken in, with what is wrong with it.
    pub(crate) unreadable: Vec<(TimeMicros, String)>,
}

/// The rows of a query that selects whole rows of one table. A row that holds what this version does not know
/// stands beside the others: a host that is newer, or that lies, does not silence the rest of the fleet.
///
/// # Errors
/// When a column is missing or has another type, which no row could mend.
pub(crate) fn stored<T: Table>(batches: &[RecordBatch]) -> Result<Reading<T>, AlertError> {
    let wrong = |reason: String| AlertError::Rows {
        table: T::NAME,
        reason,
    };
    let mut read = Reading {
        rows: Vec::new(),
        unreadable: Vec::new(),
    };
    for batch in batches {
        let hosts = texts(batch, "host_id").ok_or_else(|| wrong("host_id is missing".to_owned()))?;
        let times = times(batch, "ingested_at").ok_or_else(|| wrong("ingested_at is missing".to_owned()))?;
        let plain = as_declared::<T>(batch).map_err(|error| wrong(error.to_string()))?;
        let rows = rows_of::<T>(&plain).map_err(|error| wrong(error.to_string()))?;
        let clocks = clocks(batch);
        for (((row, host), ingested_at), clock_ahead_us) in rows.into_iter().zip(hosts).zip(times).zip(clocks)
        {
            let host_id = host.parse().map_err(|_| format!("{host:?} is no host id"));
            match (row, host_id) {
                (Ok(row), Ok(host_id)) => read.rows.push(Stored {
                    host_id,
                    ingested_at,
                    clock_ahead_us,
                    row,
                }),
                (Err(reason), _) | (_, Err(reason)) => read.unreadable.push((ingested_at, reason)),
            }
        }
    }
    Ok(read)
}

/// Every row of a batch, or what is wrong with it.
fn rows_of<T: Table>(batch: &RecordBatch) -> Result<Vec<Result<T, String>>, RowError> {
    match T::from_batch(batch) {
        Ok(rows) => return Ok(rows.into_iter().map(Ok).collect()),
        Err(error @ (RowError::Missing { .. } | RowError::Type { .. })) => return Err(error),
        Err(RowError::Null { .. } | RowError::Value { .. }) => {}
    }
    let one = |index| match T::from_batch(&batch.slice(index, 1)) {
        Ok(rows) => rows
            .into_iter()
            .next()
            .ok_or_else(|| "it is not there".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Ok((0..batch.num_rows()).map(one).collect())
}

/// The batch with the types its table declares: engines hand texts out in other encodings.
fn as_declared<T: Table>(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for field in T::schema().fields() {
        if let Some(column) = batch.column_by_name(field.name()) {
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
            columns.push(cast(column, field.data_type())?);
        }
    }
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)
}

/// The texts of a column; a null is empty.
pub(crate) fn texts(batch: &RecordBatch, name: &str) -> Option<Vec<String>> {
    let plain = cast(batch.column_by_name(name)?, &DataType::Utf8).ok()?;
    Some(
        plain
            .as_string::<i32>()
            .iter()
            .map(|text| text.unwrap_or_default().to_owned())
            .collect(),
    )
}

/// The times of a column.
pub(crate) fn times(batch: &RecordBatch, name: &str) -> Option<Vec<TimeMicros>> {
    let plain = cast(
        batch.column_by_name(name)?,
        &DataType::Timestamp(TimeUnit::Microsecond, None),
    )
    .ok()?;
    let values = plain.as_primitive::<TimestampMicrosecondType>().iter();
    Some(values.map(|time| TimeMicros(time.unwrap_or_default())).collect())
}

/// How much the clock of each row's host was ahead; of no row where the column is missing, as in a query without it.
fn clocks(batch: &RecordBatch) -> Vec<Option<i64>> {
    let column = batch.column_by_name("clock_ahead_us");
    let plain = column.and_then(|column| cast(column, &DataType::Int64).ok());
    plain.map_or_else(
        || vec![None; batch.num_rows()],
        |plain| plain.as_primitive::<Int64Type>().iter().collect(),
    )
}

/// The numbers of a column; a null is NaN.
pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Option<Vec<f64>> {
    let plain = cast(batch.column_by_name(name)?, &DataType::Float64).ok()?;
    let values = plain.as_primitive::<arrow::datatypes::Float64Type>().iter();
    Some(values.map(|value| value.unwrap_or(f64::NAN)).collect())
}
