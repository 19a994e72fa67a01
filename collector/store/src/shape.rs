//! The shape of rows: what a frame holds, and what SQL shows of it.
//!
//! A frame's rows are first aligned to this build's schema of their table: columns by name, unknown columns left
//! out and told of (`strangers.rs`), missing nullable ones null. SQL shows the aligned columns and, after them, `host_id` (text), `ingested_at`
//! (when the store took them), `clock_ahead_us` (how much the host's clock was ahead of the store's when it made
//! them, null where nobody knows) and a row's identity within its host: `record_epoch` (text), `record_sequence` and
//! `record_row`, its place in that record from 0 on; null in files of before. The lane follows from the table. Only `metrics` looks different: a frame holds one row per series and
//! batch, SQL one row per sample, `time, host_id, name, unit, labels, value, ingested_at, clock_ahead_us`, where a sample that
//! could not be taken has a null value. Of a compacted sample `ingested_at` is that of the latest of its chunk, some
//! 3,600 samples, and `clock_ahead_us` is true within half a second.

mod expand;

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
    UInt64Array, new_null_array,
};
use arrow::compute::{max, min};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use fleetmend_event::table::{MetricChunk, TableInfo, tables};
use fleetmend_event::{HostId, RecordId, Table, TimeMicros};

use crate::clock::ClockAhead;
use crate::error::ReadError;
use crate::tier::{self, tier_by_name};
pub(crate) use expand::{Chunks, Sample, SampleBuilder};

/// Column that names the host in every table.
pub(crate) const HOST_ID: &str = "host_id";
/// Column that says when the store took the row.
pub(crate) const INGESTED_AT: &str = "ingested_at";
/// Column that says how much the host's clock was ahead, in microseconds.
pub(crate) const CLOCK_AHEAD: &str = "clock_ahead_us";
/// Column that names the life of the spool that numbered the row's record.
pub(crate) const RECORD_EPOCH: &str = "record_epoch";
/// Column that names the row's record within that.
pub(crate) const RECORD_SEQUENCE: &str = "record_sequence";
/// Column that names the row within its record.
pub(crate) const RECORD_ROW: &str = "record_row";
/// Column that every query is pruned by.
pub(crate) const TIME: &str = "time";

/// Rows of one frame. An agent puts at most some thousands into one; a column that a frame lacks is filled with
/// nulls, so that rows are what a small body could grow by.
const FRAME_ROWS_MAX: usize = 128 * 1024;
/// Unknown columns of a batch that are told by name.
const STRANGERS_MAX: usize = 32;
/// Bytes that the samples of one frame may take as SQL shows them, where each repeats its series' name and labels.
/// A full frame of honest series takes half of it.
const SAMPLES_BYTES_MAX: u64 = 128 << 20;
/// Bytes of the name or the labels of a series: each of its samples carries them, and queries read thousands at once.
const SERIES_TEXT_BYTES_MAX: usize = 64 << 10;
/// What the samples of a frame count of what they take as SQL shows them; an eighth, for they are shown bit by bit.
const SAMPLES_SHARE: u64 = 8;

/// A table as SQL shows it.
#[derive(Debug)]
pub(crate) struct SqlTable {
    /// What the wire knows of it.
    pub(crate) info: &'static TableInfo,
    /// Columns in SQL.
    pub(crate) schema: SchemaRef,
    /// Columns by which its Parquet files are sorted.
    pub(crate) sort: &'static [&'static str],
    /// Days it is kept where the configuration says nothing of it; that of a tier of metrics, and of no other table.
    pub(crate) kept_days: Option<u32>,
}

impl SqlTable {
    /// Whether its frames hold chunks of samples.
    pub(crate) fn is_metrics(&self) -> bool {
        self.info.id == MetricChunk::ID
    }
}

/// Every table, in the order of [`tables`], and after these the tiers of metrics.
pub(crate) fn sql_tables() -> &'static [SqlTable] {
    static TABLES: LazyLock<Vec<SqlTable>> = LazyLock::new(|| {
        let of_the_wire = tables().iter().map(sql_table);
        of_the_wire.chain(tier::tables().iter().map(tier_table)).collect()
    });
    &TABLES
}

/// Place of the table with this number among [`sql_tables`]; only of those that frames may bring.
pub(crate) fn table_index(id: u16) -> Option<usize> {
    tables().iter().position(|table| table.id == id)
}

/// Place of the table with this name among [`sql_tables`].
pub(crate) fn table_index_by_name(name: &str) -> Option<usize> {
    sql_tables().iter().position(|table| table.info.name == name)
}

/// The type of every time column.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Null in files that were written before it was kept.
fn clock_ahead() -> Field {
    Field::new(CLOCK_AHEAD, DataType::Int64, true)
}

fn sql_table(info: &'static TableInfo) -> SqlTable {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let time = |name: &str| Field::new(name, time_type(), false);
    if info.id == MetricChunk::ID {
        let fields = vec![
            time(TIME),
            text(HOST_ID),
            text("name"),
            text("unit"),
            text("labels"),
            Field::new("value", DataType::Float64, true),
            time(INGESTED_AT),
            clock_ahead(),
        ];
        return SqlTable {
            info,
            schema: Arc::new(Schema::new(fields)),
            sort: BY_SERIES,
            kept_days: None,
        };
    }
    let system = vec![
        text(HOST_ID),
        time(INGESTED_AT),
        clock_ahead(),
        // Null in files that were written before they were kept.
        Field::new(RECORD_EPOCH, DataType::Utf8, true),
        Field::new(RECORD_SEQUENCE, DataType::UInt64, true),
        Field::new(RECORD_ROW, DataType::UInt32, true),
    ];
    with_fields(info, system)
}

fn with_fields(info: &'static TableInfo, more: Vec<Field>) -> SqlTable {
    let own = info.schema.fields().iter().map(|field| field.as_ref().clone());
    let fields: Vec<Field> = own.chain(more).collect();
    SqlTable {
        info,
        schema: Arc::new(Schema::new(fields)),
        sort: &[HOST_ID, TIME],
        kept_days: None,
    }
}

/// A tier's table: its columns, then whose they are and when the latest sample was taken.
fn tier_table(info: &'static TableInfo) -> SqlTable {
    let host = Field::new(HOST_ID, DataType::Utf8, false);
    let ingested_at = Field::new(INGESTED_AT, time_type(), false);
    SqlTable {
        sort: BY_SERIES,
        kept_days: tier_by_name(info.name).map(|tier| tier.age_days),
        ..with_fields(info, vec![host, ingested_at, clock_ahead()])
    }
}

/// How samples are sorted, and what is made of them.
const BY_SERIES: &[&str] = &["name", "labels", HOST_ID, TIME];

/// What the rows of one record have in common, and SQL shows beside each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whose they are.
    pub(crate) host: HostId,
    /// The record's identity within the host.
    pub(crate) record: RecordId,
    /// When the store took them.
    pub(crate) ingested_at: TimeMicros,
    /// How their host's clock stood to the store's.
    pub(crate) clock: ClockAhead,
}

/// Decoded rows of one frame, aligned to this build's schema.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The rows, with the columns of [`TableInfo::schema`].
    pub(crate) batch: RecordBatch,
    /// Earliest time in them, by the rows themselves.
    pub(crate) from: TimeMicros,
    /// Latest time in them.
    pub(crate) to: TimeMicros,
    /// How many rows SQL shows.
    pub(crate) count: u64,
    /// Columns that came with them and are unknown here; at most [`STRANGERS_MAX`].
    pub(crate) strangers: Vec<String>,
    /// Memory they take, or a share of what they become as samples, whichever is more.
    pub(crate) bytes: u64,
}

/// Aligns `batch` to the schema of `table` and measures it.
pub(crate) fn align(table: &SqlTable, batch: &RecordBatch) -> Result<Rows, ReadError> {
    let shape = |reason: String| ReadError::Shape {
        table: table.info.name,
        reason,
    };
    if batch.num_rows() > FRAME_ROWS_MAX {
        return Err(shape(format!("a frame of more than {FRAME_ROWS_MAX} rows")));
    }
    let column = |field: &Arc<Field>| -> Result<ArrayRef, ReadError> {
        match batch.column_by_name(field.name()) {
            Some(array) if array.data_type() == field.data_type() => Ok(array.clone()),
            Some(array) => Err(shape(format!(
                "column {} has type {} instead of {}",
                field.name(),
                array.data_type(),
                field.data_type()
            ))),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            None => Err(shape(format!("column {} is missing", field.name()))),
        }
    };
    let is_strange = |field: &&Arc<Field>| table.info.schema.index_of(field.name()).is_err();
    let strangers = batch.schema_ref().fields().iter().filter(is_strange);
    let strangers: Vec<String> = strangers
        .take(STRANGERS_MAX)
        .map(|field| field.name().clone())
        .collect();
    let columns = table
        .info
        .schema
        .fields()
        .iter()
        .map(column)
        .collect::<Result<Vec<_>, _>>()?;
    let batch =
        RecordBatch::try_new(table.info.schema.clone(), columns).map_err(|error| shape(error.to_string()))?;
    let mut bytes = memory_of(&batch);
    let (from, to, count) = if table.is_metrics() {
        let chunks = Chunks::of(&batch)?;
        if chunks.text_bytes_max() > SERIES_TEXT_BYTES_MAX {
            return Err(shape(format!(
                "a series with a text of more than {SERIES_TEXT_BYTES_MAX} bytes"
            )));
        }
        let samples = chunks.samples_bytes();
        if samples > SAMPLES_BYTES_MAX {
            return Err(shape(format!(
                "its samples take more than {SAMPLES_BYTES_MAX} bytes"
            )));
        }
        bytes = bytes.max(samples / SAMPLES_SHARE);
        chunks.extent()
    } else {
        let times = typed::<TimestampMicrosecondArray>(&batch, TIME)?;
        let now = TimeMicros::default().0;
        let rows = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
        (
            TimeMicros(min(times).unwrap_or(now)),
            TimeMicros(max(times).unwrap_or(now)),
            rows,
        )
    };
    Ok(Rows {
        batch,
        strangers,
        from,
        to,
        count,
        bytes,
    })
}

/// Bytes of the values of a batch. Arrow's own measure counts a buffer that columns share once for each of them.
fn memory_of(batch: &RecordBatch) -> u64 {
    let of_column = |column: &ArrayRef| {
        let bytes = column.to_data().get_slice_memory_size();
        bytes.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(of_column).fold(0, u64::saturating_add)
}

/// The rows as SQL shows them, all columns. Not for metrics, which [`Chunks`] expands.
pub(crate) fn with_system_columns(
    table: &SqlTable,
    batch: &RecordBatch,
    origin: &Origin,
) -> Result<RecordBatch, ReadError> {
    let rows = batch.num_rows();
    let host = origin.host.to_string();
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
        host.as_str(),
        rows,
    ))));
    columns.push(Arc::new(
        TimestampMicrosecondArray::from_value(origin.ingested_at.0, rows).with_timezone("UTC"),
    ));
    columns.push(Arc::new(Int64Array::from_iter(std::iter::repeat_n(
        origin.clock.micros(),
        rows,
    ))));
    columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
        origin.record.epoch.to_string(),
        rows,
    ))));
    columns.push(Arc::new(UInt64Array::from_value(origin.record.sequence.0, rows)));
    columns.push(Arc::new(UInt32Array::from_iter_values((0..).take(rows))));
    RecordBatch::try_new(table.schema.clone(), columns).map_err(|error| ReadError::Shape {
        table: table.info.name,
        reason: error.to_string(),
    })
}

/// A column of a known type.
pub(crate) fn typed<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a A, ReadError> {
    batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref::<A>())
        .ok_or_else(|| ReadError::Shape {
            table: "",
            reason: format!("column {name} is missing or has another type"),
        })
}
