//! Rows as they are inserted: Arrow streams, one per table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Field, Schema};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use fleetmend_event::table::{Gap, Table as _};
use fleetmend_event::{HostId, RecordId, SpoolEpoch, TimeMicros};
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash64;

use super::ddl::{DAY, word};
use crate::admit::LossKind;
use crate::commit::chain;
use crate::error::{CommitError, ReadError};
use crate::own::OWN_EPOCH_PREFIX;
use crate::shape::{
    CLOCK_AHEAD, Chunks, HOST_ID, INGESTED_AT, Origin, RECORD_EPOCH, RECORD_ROW, RECORD_SEQUENCE, Rows,
    SqlTable, align, sql_tables, table_index, typed, with_system_columns,
};

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;
/// A row belongs to no day further before its reception, as in the embedded store.
const LATE_DAYS_MAX: i64 = 7;

/// Rows of one record.
#[derive(Debug, Clone)]
pub(super) struct RecordRows {
    pub(super) table: usize,
    pub(super) origin: Origin,
    pub(super) rows: Rows,
}

/// Rows of one table, encoded.
#[derive(Debug)]
pub(super) struct Insert {
    pub(super) table: &'static SqlTable,
    /// Columns, in their order.
    pub(super) columns: String,
    pub(super) body: Bytes,
    /// Tells these rows from others, for servers that remember what was inserted.
    pub(super) token: String,
}

/// The rows of a loss. Its identity follows from the record's, so that told twice it is stored once.
pub(super) fn of_loss(
    host: HostId,
    id: RecordId,
    kind: LossKind,
    (gap, taken_at): (Gap, TimeMicros),
) -> Result<RecordRows, CommitError> {
    let encode = |reason: String| CommitError::Encode { reason };
    let (index, table) = table_index(Gap::ID)
        .and_then(|index| sql_tables().get(index).map(|table| (index, table)))
        .ok_or_else(|| encode("table of gaps is not known".to_owned()))?;
    let batch = Gap::to_batch(&[Gap {
        time: taken_at,
        ..gap
    }])
    .map_err(|error| encode(error.to_string()))?;
    let rows = align(table, &batch).map_err(|error| encode(chain(&error)))?;
    let record = RecordId {
        epoch: loss_epoch(id, kind),
        lane: Gap::LANE,
        sequence: id.sequence,
    };
    Ok(RecordRows {
        table: index,
        origin: Origin {
            host,
            record,
            ingested_at: taken_at,
            clock: crate::ClockAhead::NONE,
        },
        rows,
    })
}

/// The epoch of the losses of a stream, of one kind.
fn loss_epoch(id: RecordId, kind: LossKind) -> SpoolEpoch {
    let kind = match kind {
        LossKind::Told => 0,
        LossKind::Skipped => 1 << 8,
    };
    let hash = XxHash64::oneshot(kind | u64::from(id.lane.code()), id.epoch.as_bytes());
    let mut bytes = [0; 16];
    let from = OWN_EPOCH_PREFIX.iter().copied().chain(hash.to_be_bytes());
    for (byte, value) in bytes.iter_mut().zip(from) {
        *byte = value;
    }
    SpoolEpoch::from_bytes(bytes)
}

/// Encodes records, one stream per table. Blocks.
pub(super) fn encode(records: &[RecordRows]) -> Result<Vec<Insert>, CommitError> {
    let mut tables: HashMap<usize, Vec<&RecordRows>> = HashMap::new();
    for record in records {
        tables.entry(record.table).or_default().push(record);
    }
    let mut inserts = Vec::with_capacity(tables.len());
    for (index, records) in tables {
        if let Some(table) = sql_tables().get(index) {
            inserts.push(insert(table, &records)?);
        }
    }
    Ok(inserts)
}

fn insert(table: &'static SqlTable, records: &[&RecordRows]) -> Result<Insert, CommitError> {
    let failed = |reason: String| CommitError::Encode { reason };
    let batches = records.iter().map(|record| with_key(table, record));
    let batches = batches
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(chain(&error)))?;
    let schema = batches
        .first()
        .map_or_else(|| table.schema.clone(), RecordBatch::schema);
    let names: Vec<String> = schema.fields().iter().map(|field| word(field.name())).collect();
    let write = || {
        let mut body = Vec::new();
        let mut writer = StreamWriter::try_new(&mut body, &schema)?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
        writer.finish()?;
        drop(writer);
        Ok::<_, arrow::error::ArrowError>(body)
    };
    let body = write().map_err(|error| failed(error.to_string()))?;
    // Of the rows themselves: under the same token other rows would be dropped.
    let hash = Sha256::digest(&body);
    let token = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(Insert {
        table,
        columns: names.join(", "),
        body: body.into(),
        token,
    })
}

/// The rows with the columns of their key.
fn with_key(table: &SqlTable, record: &RecordRows) -> Result<RecordBatch, ReadError> {
    let shown = if table.is_metrics() {
        chunks(record)?
    } else {
        with_system_columns(table, &record.rows.batch, &record.origin)?
    };
    let day = i32::try_from(day_of(record)).unwrap_or(0);
    let day: ArrayRef = Arc::new(Date32Array::from_value(day, shown.num_rows()));
    with_columns(table.info.name, &shown, vec![(DAY, day, false)])
}

/// A batch with further columns: name, values, whether some may be null.
fn with_columns(
    table: &'static str,
    batch: &RecordBatch,
    more: Vec<(&str, ArrayRef, bool)>,
) -> Result<RecordBatch, ReadError> {
    let mut fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for (name, column, nullable) in more {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), nullable)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| ReadError::Shape {
        table,
        reason: error.to_string(),
    })
}

/// The day that a record belongs to, in days since 1970, by the store's clock.
fn day_of(record: &RecordRows) -> i64 {
    let Origin {
        ingested_at, clock, ..
    } = record.origin;
    let received = ingested_at.0.div_euclid(DAY_MICROS);
    let day = clock
        .true_time(record.rows.from, ingested_at)
        .0
        .div_euclid(DAY_MICROS);
    day.clamp(received.saturating_sub(LATE_DAYS_MAX), received)
}

/// Chunks with what is searched by beside them.
fn chunks(record: &RecordRows) -> Result<RecordBatch, ReadError> {
    let batch = &record.rows.batch;
    let of = Chunks::of(batch)?;
    let rows = of.len();
    let (mut to, mut samples) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for row in 0..rows {
        let (mut last, mut count) = (of.start(row), 0_u32);
        for (time, _) in of.samples(row) {
            last = last.max(time);
            count = count.saturating_add(1);
        }
        to.push(last);
        samples.push(count);
    }
    let origin = &record.origin;
    let text = |value: String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
            value.as_str(),
            rows,
        )))
    };
    let time = |values: Vec<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let clock = Int64Array::from_iter(std::iter::repeat_n(origin.clock.micros(), rows));
    let more: Vec<(&str, ArrayRef, bool)> = vec![
        ("to_time", time(to), false),
        ("samples", Arc::new(UInt32Array::from(samples)), false),
        (HOST_ID, text(origin.host.to_string()), false),
        (INGESTED_AT, time(vec![origin.ingested_at.0; rows]), false),
        (CLOCK_AHEAD, Arc::new(clock), true),
        (RECORD_EPOCH, text(origin.record.epoch.to_string()), false),
        (
            RECORD_SEQUENCE,
            Arc::new(UInt64Array::from_value(origin.record.sequence.0, rows)),
            false,
        ),
        (RECORD_ROW, Arc::new(places(batch)?), false),
    ];
    with_columns("metrics", batch, more)
}

/// For each chunk, how many of the same series stand before it in its record.
fn places(batch: &RecordBatch) -> Result<UInt32Array, ReadError> {
    let [name, unit, labels]: [&StringArray; 3] = [
        typed(batch, "name")?,
        typed(batch, "unit")?,
        typed(batch, "labels")?,
    ];
    let mut seen: HashMap<(&str, &str, &str), u32> = HashMap::new();
    let place = |row: usize| {
        let count = seen
            .entry((name.value(row), unit.value(row), labels.value(row)))
            .or_default();
        let place = *count;
        *count = count.saturating_add(1);
        place
    };
    Ok(UInt32Array::from_iter_values((0..batch.num_rows()).map(place)))
}
