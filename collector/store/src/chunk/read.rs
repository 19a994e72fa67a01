//! Files of chunks are read: first the heads of a row group, then the bytes of those chunks that are wanted.

use std::sync::Arc;

use arrow::array::{
    Array, BinaryArray, BooleanArray, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::concat_batches;
use fleetmend_event::HostId;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection};

use super::codec::CHUNK_SAMPLES_MAX;
use super::footer::{FileError, OpenFile};
use super::join::Span;
use super::prune::Wanted;
use super::row::{ClockSpan, decode};
use super::rows;
use super::write::{LAYOUT, LAYOUT_KEY, schema};
use crate::select::SeriesKey;

/// Columns that tell of a chunk without its samples.
const HEADS: [&str; 10] = [
    "name",
    "unit",
    "labels",
    "host_id",
    "from_time",
    "to_time",
    "count",
    "ingested_at",
    "clock_ahead_us",
    "clock_range_us",
];
/// Columns of samples.
const BYTES: [&str; 2] = ["times", "values"];
/// Chunks whose bytes are read at once.
const BATCH_CHUNKS: usize = 64;
/// Rows of a row group; a footer that claims more is no footer of ours.
const GROUP_ROWS_MAX: i64 = 64 * 1024;

/// What a chunk says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) labels: &'a str,
    pub(crate) host: HostId,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) count: usize,
    pub(crate) ingested_at: i64,
    pub(crate) clock: ClockSpan,
}

impl Head<'_> {
    /// The series.
    pub(crate) fn key(&self) -> SeriesKey {
        SeriesKey {
            name: self.name.to_owned(),
            labels: self.labels.to_owned(),
            host: self.host,
            unit: self.unit.to_owned(),
        }
    }

    /// Whether it is of this series.
    pub(crate) fn is_of(&self, key: &SeriesKey) -> bool {
        self.host == key.host && self.name == key.name && self.labels == key.labels && self.unit == key.unit
    }

    /// The samples in these bytes.
    pub(crate) fn decode(&self, bytes: (&[u8], &[u8])) -> Result<(Vec<i64>, Vec<f64>), FileError> {
        Ok(decode(bytes, (self.from, self.to), self.count)?)
    }
}

/// Heads of chunks.
#[derive(Debug)]
pub(crate) struct Heads {
    /// As they stand in the file.
    pub(crate) batch: RecordBatch,
    name: StringArray,
    unit: StringArray,
    labels: StringArray,
    host: FixedSizeBinaryArray,
    from: Int64Array,
    to: Int64Array,
    count: Int32Array,
    ingested_at: Int64Array,
    clock: Int64Array,
    clock_range: Int32Array,
}

impl Heads {
    fn of(batch: RecordBatch) -> Result<Self, FileError> {
        Ok(Self {
            name: column(&batch, "name")?,
            unit: column(&batch, "unit")?,
            labels: column(&batch, "labels")?,
            host: column(&batch, "host_id")?,
            from: column(&batch, "from_time")?,
            to: column(&batch, "to_time")?,
            count: column(&batch, "count")?,
            ingested_at: column(&batch, "ingested_at")?,
            clock: column(&batch, "clock_ahead_us")?,
            clock_range: column(&batch, "clock_range_us")?,
            batch,
        })
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.name.len()
    }

    /// Names, units and labels.
    pub(crate) fn texts(&self) -> [&StringArray; 3] {
        [&self.name, &self.unit, &self.labels]
    }

    /// Hosts as SQL shows them.
    pub(crate) fn host_texts(&self) -> Result<StringArray, FileError> {
        let mut texts: Vec<Arc<str>> = Vec::with_capacity(self.len());
        let mut last: Option<(HostId, Arc<str>)> = None;
        for row in 0..self.len() {
            let host = self.get(row)?.host;
            let text = match last.take() {
                Some((held, text)) if held == host => text,
                _ => host.to_string().into(),
            };
            last = Some((host, text.clone()));
            texts.push(text);
        }
        Ok(StringArray::from_iter_values(texts))
    }

    /// The head of a chunk. Counts and spans that cannot be are damage.
    pub(crate) fn get(&self, row: usize) -> Result<Head<'_>, FileError> {
        let host: Result<[u8; 16], _> = self.host.value(row).try_into();
        let host = host.map_err(|_| FileError::shape("a host that is none"))?;
        let count = usize::try_from(self.count.value(row)).unwrap_or(0);
        let head = Head {
            name: self.name.value(row),
            unit: self.unit.value(row),
            labels: self.labels.value(row),
            host: HostId::from_bytes(host),
            from: self.from.value(row),
            to: self.to.value(row),
            count,
            ingested_at: self.ingested_at.value(row),
            clock: ClockSpan::from_file(
                (!self.clock.is_null(row)).then(|| self.clock.value(row)),
                self.clock_range.value(row),
            ),
        };
        if count == 0 || count > CHUNK_SAMPLES_MAX || head.from > head.to {
            return Err(FileError::shape("a chunk of an impossible count or span"));
        }
        Ok(head)
    }
}

impl OpenFile {
    /// Whether it holds chunks. A layout that a newer build wrote is an error.
    pub(crate) fn holds_chunks(&self) -> Result<bool, FileError> {
        let pairs = self.metadata().file_metadata().key_value_metadata();
        let layout = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == LAYOUT_KEY));
        match layout.map(|pair| pair.value.as_deref().unwrap_or_default()) {
            None => Ok(false),
            Some(LAYOUT) => Ok(true),
            Some(other) => Err(FileError::shape(format!(
                "chunks of layout {other}, which this build does not read; a newer one does"
            ))),
        }
    }

    /// Row groups that can matter.
    pub(crate) fn groups(&self, wanted: &Wanted) -> Result<Vec<usize>, FileError> {
        let spans = if self.holds_chunks()? {
            ("from_time", "to_time")
        } else {
            rows::SPANS
        };
        Ok(wanted.groups(self.metadata(), spans))
    }

    /// The rows of a row group of the former layout, some at once.
    pub(crate) fn rows(&self, group: usize) -> Result<ParquetRecordBatchReader, FileError> {
        self.read(group, &rows::COLUMNS, None, rows::BATCH_ROWS)
    }

    /// The heads of a row group.
    pub(crate) fn heads(&self, group: usize) -> Result<Heads, FileError> {
        let rows = self
            .metadata()
            .row_groups()
            .get(group)
            .map_or(0, |group| group.num_rows());
        if !(0..=GROUP_ROWS_MAX).contains(&rows) {
            return Err(FileError::shape(format!("a row group of {rows} chunks")));
        }
        let batches = self.read_all(group, &HEADS, None)?;
        match <[RecordBatch; 1]>::try_from(batches) {
            Ok([batch]) => Heads::of(batch),
            Err(batches) => {
                let schema = match batches.first() {
                    Some(batch) => batch.schema(),
                    None => Arc::new(schema().project(&(0..HEADS.len()).collect::<Vec<_>>())?),
                };
                Heads::of(concat_batches(&schema, &batches)?)
            }
        }
    }

    /// The bytes of those chunks of a row group that are `wanted`.
    pub(crate) fn bytes(&self, group: usize, wanted: &BooleanArray) -> Result<BytesCursor, FileError> {
        let selection = RowSelection::from_filters(std::slice::from_ref(wanted));
        Ok(BytesCursor {
            reader: self.read(group, &BYTES, Some(selection), BATCH_CHUNKS)?,
            batch: None,
        })
    }
}

/// Bytes of chunks, one after the other.
pub(crate) struct BytesCursor {
    reader: ParquetRecordBatchReader,
    batch: Option<(BinaryArray, BinaryArray, usize)>,
}

impl BytesCursor {
    /// Gives the times and values of the next chunk to `take`.
    pub(crate) fn next<T>(
        &mut self,
        take: impl FnOnce(&[u8], &[u8]) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        loop {
            if let Some((times, values, row)) = &mut self.batch
                && *row < times.len()
            {
                let at = *row;
                *row = at.saturating_add(1);
                return take(times.value(at), values.value(at));
            }
            let batch = self.reader.next();
            let batch = batch.ok_or_else(|| FileError::shape("fewer chunks than it says"))??;
            self.batch = Some((column(&batch, "times")?, column(&batch, "values")?, 0));
        }
    }
}

/// Every chunk of a file in its order, decoded one at a time.
pub(crate) struct ChunkCursor {
    file: OpenFile,
    /// Row group that is read next.
    group: usize,
    now: Option<(Heads, BytesCursor, usize)>,
    key: Option<Arc<SeriesKey>>,
}

impl ChunkCursor {
    /// From the first chunk on.
    pub(crate) fn new(file: OpenFile) -> Self {
        Self {
            file,
            group: 0,
            now: None,
            key: None,
        }
    }

    /// The next chunk, none after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Span>, FileError> {
        loop {
            if let Some((heads, bytes, row)) = &mut self.now
                && *row < heads.len()
            {
                let head = heads.get(*row)?;
                *row = row.saturating_add(1);
                let (times, values) = bytes.next(|times, values| head.decode((times, values)))?;
                let key = match self.key.take().filter(|key| head.is_of(key)) {
                    Some(key) => key,
                    None => Arc::new(head.key()),
                };
                self.key = Some(key.clone());
                return Ok(Some(Span {
                    key,
                    ingested_at: head.ingested_at,
                    clock: head.clock,
                    times,
                    values,
                }));
            }
            if self.group >= self.file.metadata().num_row_groups() {
                return Ok(None);
            }
            let heads = self.file.heads(self.group)?;
            let all = BooleanArray::from(vec![true; heads.len()]);
            let bytes = self.file.bytes(self.group, &all)?;
            self.group = self.group.saturating_add(1);
            self.now = Some((heads, bytes, 0));
        }
    }
}

/// A column of a known type without surprising nulls.
fn column<A: Array + Clone + 'static>(batch: &RecordBatch, name: &str) -> Result<A, FileError> {
    let column = batch
        .column_by_name(name)
        .and_then(|column| column.as_any().downcast_ref::<A>());
    let column = column.ok_or_else(|| FileError::shape(format!("no proper column {name}")))?;
    if column.null_count() > 0 && name != "clock_ahead_us" {
        return Err(FileError::shape(format!("nulls in column {name}")));
    }
    Ok(column.clone())
}
