//! Sorted files of one table become one: their rows are read side by side and written in order.
//!
//! Memory is a batch of [`BATCH_ROWS`] rows of each file, of at most [`FILES_MAX`] of them. What these batches may take
//! is known beforehand from the files' page indexes, which say what the texts of a page decode to; files that may
//! take more than a query may are left to the engine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use super::packing::{SORTED_KEY, sorted_by};
use super::part::Part;
use crate::error::{MaintenanceError, ReadError};
use crate::select::Deadline;
use crate::shape::{HOST_ID, SqlTable, TIME, typed};
use crate::view::ParquetFile;

/// Files that are read side by side.
pub(crate) const FILES_MAX: usize = 16;
/// Rows read of a file at once.
const BATCH_ROWS: usize = 4 * 1024;
/// Rows handed to the writer at once.
const WRITE_ROWS: usize = 16 * 1024;

/// Bytes of a value that is no text, or of a text's place.
const VALUE_BYTES: u64 = 8;

/// Where a file stands: the host and the time of its next row, and its place, so that equal rows keep the order of
/// their files.
type Head = (String, i64, usize);

/// The readers of sorted files; `None` when one of them is not sorted as its table is, or when their batches may take
/// more than `bytes_max` together.
pub(crate) fn open(
    table: &SqlTable,
    files: &[Arc<ParquetFile>],
    bytes_max: usize,
) -> Result<Option<Vec<ParquetRecordBatchReader>>, MaintenanceError> {
    let wanted = sorted_by(table);
    let mut readers = Vec::with_capacity(files.len());
    let mut bytes = 0_u64;
    for file in files {
        let opened = File::open(&file.path).map_err(|source| MaintenanceError::Io {
            action: "open",
            path: file.path.clone(),
            source,
        })?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(opened, options)?;
        let of_batch = batch_bytes_max(builder.metadata()).unwrap_or(u64::MAX);
        bytes = bytes.saturating_add(of_batch);
        let pairs = builder.metadata().file_metadata().key_value_metadata();
        let sorted = pairs.into_iter().flatten().find(|pair| pair.key == SORTED_KEY);
        if sorted.and_then(|pair| pair.value.as_ref()) != Some(&wanted) || bytes > bytes_max as u64 {
            return Ok(None);
        }
        readers.push(builder.with_batch_size(BATCH_ROWS).build()?);
    }
    Ok(Some(readers))
}

/// What a batch of a file may take: twice the largest page of each text column, for a batch may lie across two, and
/// [`VALUE_BYTES`] for every value. `None` when the file does not say.
fn batch_bytes_max(file: &ParquetMetaData) -> Option<u64> {
    let mut most = 0_u64;
    for (group, indexes) in file.row_groups().iter().zip(file.offset_index()?) {
        let mut of_group = 0_u64;
        for (column, index) in group.columns().iter().zip(indexes) {
            let text = if column.column_type() == PhysicalType::BYTE_ARRAY {
                let pages = index.unencoded_byte_array_data_bytes()?;
                u64::try_from(pages.iter().copied().max().unwrap_or(0)).ok()?
            } else {
                0
            };
            let values = VALUE_BYTES.saturating_mul(BATCH_ROWS as u64);
            of_group = of_group
                .saturating_add(text.saturating_mul(2))
                .saturating_add(values);
        }
        most = most.max(of_group);
    }
    Some(most)
}

/// Writes the rows of all readers in order, until `deadline`; returns how many.
pub(crate) fn weave(
    table: &SqlTable,
    readers: Vec<ParquetRecordBatchReader>,
    part: &mut Part,
    deadline: &Deadline,
) -> Result<u64, MaintenanceError> {
    let mut strands = Vec::with_capacity(readers.len());
    let mut heads: BinaryHeap<Reverse<Head>> = BinaryHeap::new();
    for reader in readers {
        let mut strand = Strand {
            schema: table.schema.clone(),
            table: table.info.name,
            reader,
            rows: None,
        };
        strand.refill()?;
        heads.extend(strand.head(strands.len()).map(Reverse));
        strands.push(strand);
    }
    let mut out = Out {
        schema: table.schema.clone(),
        held: Vec::new(),
        rows: 0,
        written: 0,
    };
    while let Some(Reverse((.., place))) = heads.pop() {
        deadline.check()?;
        let Some(strand) = strands.get_mut(place) else {
            continue;
        };
        let until = heads.peek().map(|Reverse(head)| head);
        if let Some(run) = strand.take_until(until, place) {
            out.push(run, part)?;
        }
        strand.refill()?;
        heads.extend(strand.head(place).map(Reverse));
    }
    out.flush(part)?;
    Ok(out.written)
}

/// One file while it is read.
struct Strand {
    schema: SchemaRef,
    table: &'static str,
    reader: ParquetRecordBatchReader,
    rows: Option<Rows>,
}

/// What was read of a file and is not written yet.
struct Rows {
    batch: RecordBatch,
    hosts: StringArray,
    times: TimestampMicrosecondArray,
    at: usize,
}

impl Rows {
    fn key(&self, row: usize) -> (&str, i64) {
        (self.hosts.value(row), self.times.value(row))
    }
}

impl Strand {
    /// Reads on when there is nothing left.
    fn refill(&mut self) -> Result<(), MaintenanceError> {
        let is_empty = |rows: &Rows| rows.at >= rows.batch.num_rows();
        while self.rows.as_ref().is_none_or(is_empty) {
            let Some(batch) = self.reader.next().transpose()? else {
                self.rows = None;
                return Ok(());
            };
            let batch = self.aligned(&batch)?;
            self.rows = Some(Rows {
                hosts: typed::<StringArray>(&batch, HOST_ID)?.clone(),
                times: typed::<TimestampMicrosecondArray>(&batch, TIME)?.clone(),
                batch,
                at: 0,
            });
        }
        Ok(())
    }

    /// The rows with this build's columns; what the file lacks is null.
    fn aligned(&self, batch: &RecordBatch) -> Result<RecordBatch, MaintenanceError> {
        let column = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
            Some(column) => Ok(column.clone()),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            None => Err(ReadError::Shape {
                table: self.table,
                reason: format!("column {} is missing in a file", field.name()),
            }),
        };
        let columns = self.schema.fields().iter().map(column);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn head(&self, place: usize) -> Option<Head> {
        let rows = self.rows.as_ref()?;
        let (host, time) = rows.key(rows.at);
        Some((host.to_owned(), time, place))
    }

    /// The rows that come before every other file's next one.
    fn take_until(&mut self, until: Option<&Head>, place: usize) -> Option<RecordBatch> {
        let rows = self.rows.as_mut()?;
        let (from, length) = (rows.at, rows.batch.num_rows());
        let precedes = |row: usize| match until {
            None => true,
            Some((host, time, other)) => {
                let (of_host, of_time) = rows.key(row);
                (of_host, of_time, place) < (host.as_str(), *time, *other)
            }
        };
        // The first one is why this file has its turn.
        let to = (from.saturating_add(1)..length).find(|row| !precedes(*row));
        let to = to.unwrap_or(length);
        rows.at = to;
        Some(rows.batch.slice(from, to.saturating_sub(from)))
    }
}

/// Runs of rows that wait until they are enough to be written.
struct Out {
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    rows: usize,
    written: u64,
}

impl Out {
    fn push(&mut self, run: RecordBatch, part: &mut Part) -> Result<(), MaintenanceError> {
        self.rows = self.rows.saturating_add(run.num_rows());
        self.held.push(run);
        if self.rows >= WRITE_ROWS {
            self.flush(part)?;
        }
        Ok(())
    }

    fn flush(&mut self, part: &mut Part) -> Result<(), MaintenanceError> {
        let rows = concat_batches(&self.schema, &self.held)?;
        self.held.clear();
        self.rows = 0;
        self.written = self.written.saturating_add(rows.num_rows() as u64);
        if rows.num_rows() > 0 {
            part.write(&rows)?;
        }
        Ok(())
    }
}
