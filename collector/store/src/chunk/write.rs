//! Files of chunks are written.

use std::io::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    BinaryBuilder, FixedSizeBinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::row::{Chunk, Extent};

/// Key of the file's metadata under which the layout's number stands.
pub(crate) const LAYOUT_KEY: &str = "fleetmend.chunks";
/// This layout.
pub(crate) const LAYOUT: &str = "1";
/// Chunks of a row group. Whoever looks for a series reads the heads of whole groups.
const GROUP_CHUNKS: usize = 4_096;
/// Bytes of a page of values; a reader of one chunk reads so much.
const VALUES_PAGE_BYTES: usize = 64 << 10;
/// Bytes of a page of times. Most are empty.
const TIMES_PAGE_BYTES: usize = 256 << 10;
/// Rows after which the writer looks whether a page is full.
const LOOK_ROWS: usize = 8;
/// Chunks handed to the writer at once, by number and by bytes.
const BATCH_CHUNKS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// zstd level of what is compressed at all.
const ZSTD_LEVEL: i32 = 3;

/// The columns.
pub(crate) fn schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let field = |name: &str, kind: DataType| Field::new(name, kind, false);
        Arc::new(Schema::new(vec![
            field("name", DataType::Utf8),
            field("unit", DataType::Utf8),
            field("labels", DataType::Utf8),
            field("host_id", DataType::FixedSizeBinary(16)),
            field("from_time", DataType::Int64),
            field("to_time", DataType::Int64),
            field("count", DataType::Int32),
            field("ingested_at", DataType::Int64),
            Field::new("clock_ahead_us", DataType::Int64, true),
            field("clock_range_us", DataType::Int32),
            field("times", DataType::Binary),
            field("values", DataType::Binary),
        ]))
    });
    &SCHEMA
}

/// Writes chunks, which come sorted.
pub(crate) struct ChunkWriter<W: Write + Send> {
    writer: ArrowWriter<W>,
    columns: Columns,
    extent: Extent,
}

impl<W: Write + Send> ChunkWriter<W> {
    /// Begins a file.
    pub(crate) fn begin(out: W) -> Result<Self, ParquetError> {
        let options = ArrowWriterOptions::new()
            .with_properties(properties()?)
            .with_skip_arrow_metadata(true);
        Ok(Self {
            writer: ArrowWriter::try_new_with_options(out, schema().clone(), options)?,
            columns: Columns::default(),
            extent: Extent::default(),
        })
    }

    /// Adds a chunk.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Result<(), ParquetError> {
        self.extent.add(chunk);
        self.columns.push(chunk)?;
        if self.columns.rows >= BATCH_CHUNKS || self.columns.bytes >= BATCH_BYTES {
            self.writer.write(&self.columns.finish()?)?;
        }
        Ok(())
    }

    /// What was added.
    pub(crate) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Writes all chunks; only the footer and the indexes are missing then.
    pub(crate) fn end_body(&mut self) -> Result<(), ParquetError> {
        if self.columns.rows > 0 {
            self.writer.write(&self.columns.finish()?)?;
        }
        self.writer.flush()?;
        Ok(self.writer.sync()?)
    }

    /// Where it is written to.
    pub(crate) fn out(&self) -> &W {
        self.writer.inner()
    }

    /// Ends the file, which says `label` of itself.
    pub(crate) fn finish(mut self, label: KeyValue) -> Result<(W, Extent), ParquetError> {
        self.end_body()?;
        self.writer.append_key_value_metadata(label);
        Ok((self.writer.into_inner()?, self.extent))
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let (times, values) = (ColumnPath::from("times"), ColumnPath::from("values"));
    let mut builder = WriterProperties::builder()
        .set_created_by("fleetmend".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(
            LAYOUT_KEY.to_owned(),
            Some(LAYOUT.to_owned()),
        )]))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(GROUP_CHUNKS))
        .set_write_batch_size(LOOK_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_dictionary_enabled(times.clone(), false)
        .set_column_data_page_size_limit(times, TIMES_PAGE_BYTES)
        .set_column_dictionary_enabled(values.clone(), false)
        .set_column_compression(values.clone(), Compression::UNCOMPRESSED)
        .set_column_data_page_size_limit(values, VALUES_PAGE_BYTES);
    for column in ["name", "host_id", "from_time", "to_time"] {
        builder = builder.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::Chunk);
    }
    Ok(builder.build())
}

/// Chunks as columns.
struct Columns {
    name: StringBuilder,
    unit: StringBuilder,
    labels: StringBuilder,
    host: FixedSizeBinaryBuilder,
    from: Int64Builder,
    to: Int64Builder,
    count: Int32Builder,
    ingested_at: Int64Builder,
    clock: Int64Builder,
    clock_range: Int32Builder,
    times: BinaryBuilder,
    values: BinaryBuilder,
    rows: usize,
    bytes: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            name: StringBuilder::new(),
            unit: StringBuilder::new(),
            labels: StringBuilder::new(),
            host: FixedSizeBinaryBuilder::new(16),
            from: Int64Builder::new(),
            to: Int64Builder::new(),
            count: Int32Builder::new(),
            ingested_at: Int64Builder::new(),
            clock: Int64Builder::new(),
            clock_range: Int32Builder::new(),
            times: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            rows: 0,
            bytes: 0,
        }
    }
}

impl Columns {
    fn push(&mut self, chunk: &Chunk) -> Result<(), ParquetError> {
        self.name.append_value(&chunk.key.name);
        self.unit.append_value(&chunk.key.unit);
        self.labels.append_value(&chunk.key.labels);
        self.host.append_value(chunk.key.host.as_bytes())?;
        self.from.append_value(chunk.from);
        self.to.append_value(chunk.to);
        self.count
            .append_value(i32::try_from(chunk.count).unwrap_or(i32::MAX));
        self.ingested_at.append_value(chunk.ingested_at);
        self.clock.append_option(chunk.clock.least());
        self.clock_range.append_value(chunk.clock.range());
        self.times.append_value(&chunk.times);
        self.values.append_value(&chunk.values);
        self.rows = self.rows.saturating_add(1);
        let text = [&chunk.key.name, &chunk.key.unit, &chunk.key.labels].map(String::len);
        let bytes = text.into_iter().chain([chunk.times.len(), chunk.values.len()]);
        self.bytes = bytes.fold(self.bytes, usize::saturating_add);
        Ok(())
    }

    fn finish(&mut self) -> Result<RecordBatch, ParquetError> {
        (self.rows, self.bytes) = (0, 0);
        let batch = RecordBatch::try_new(
            schema().clone(),
            vec![
                Arc::new(self.name.finish()),
                Arc::new(self.unit.finish()),
                Arc::new(self.labels.finish()),
                Arc::new(self.host.finish()),
                Arc::new(self.from.finish()),
                Arc::new(self.to.finish()),
                Arc::new(self.count.finish()),
                Arc::new(self.ingested_at.finish()),
                Arc::new(self.clock.finish()),
                Arc::new(self.clock_range.finish()),
                Arc::new(self.times.finish()),
                Arc::new(self.values.finish()),
            ],
        );
        Ok(batch?)
    }
}
