//! Tables in ClickHouse, as queries read them.
//!
//! A scan is one statement over a read-once view, with the columns and the conditions that ClickHouse can apply. Rows
//! come as Arrow batches and go on as they come; at most one batch of the server's is held ([`ROWS_PER_BATCH`],
//! [`BATCH_BYTES_MAX`]), and of metrics as many samples of it as the other stores give at once. A scan that is not read to
//! its end drops its connection and has its statement killed by its id.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;
use datafusion::common::project_schema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use fleetmend_event::{Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::client::{Client, Setting};
use super::ddl;
use super::error::EngineError;
use super::predicate::conditions;
use crate::clock::ClockAhead;
use crate::error::ReadError;
use crate::gaps::Gaps;
use crate::query::{Prune, Scan, TableSource};
use crate::shape::{CLOCK_AHEAD, Chunks, HOST_ID, INGESTED_AT, Origin, SampleBuilder, typed};

/// Rows of a batch, as the server makes it.
const ROWS_PER_BATCH: usize = 8_192;
/// Bytes of a batch: far more than so many rows of facts have.
const BATCH_BYTES_MAX: usize = 256 << 20;
/// Arrow's end mark: rows that end without it are not all.
const END_MARK: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// Columns that samples are made from.
pub(super) const CHUNK_COLUMNS: &str =
    "name, unit, labels, start_time, step_ms, offset_ms, value, host_id, ingested_at, clock_ahead_us";

/// Reads tables.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) gaps: Arc<Gaps>,
    pub(super) timeout: Duration,
    /// Ids of statements that nobody waits for any more.
    pub(super) unwanted: mpsc::Sender<String>,
}

impl TableSource for Reader {
    fn scan(&self, scan: &Scan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&scan.table.schema, scan.projection)?;
        let columns = if scan.table.is_metrics() {
            CHUNK_COLUMNS.to_owned()
        } else {
            let names: Vec<String> = schema
                .fields()
                .iter()
                .map(|field| ddl::word(field.name()))
                .collect();
            // Without a column there would be no rows to count.
            if names.is_empty() {
                HOST_ID.to_owned()
            } else {
                names.join(", ")
            }
        };
        let statement = format!(
            "SELECT {columns} FROM {}{} FORMAT ArrowStream",
            ddl::once(&self.client, scan.table),
            conditions(scan.table, &scan.prune, scan.filters)
        );
        let part: Arc<dyn PartitionStream> = Arc::new(Part {
            statement: Arc::new(statement),
            schema: schema.clone(),
            samples: scan.table.is_metrics().then(|| scan.prune.clone()),
            reading: self.reading(),
        });
        Ok(Arc::new(StreamingTableExec::try_new(
            schema,
            vec![part],
            None,
            None,
            false,
            None,
        )?))
    }

    fn gaps(&self) -> &Gaps {
        &self.gaps
    }
}

impl Reader {
    pub(super) fn reading(&self) -> Reading {
        Reading {
            client: self.client.clone(),
            timeout: self.timeout,
            unwanted: self.unwanted.clone(),
        }
    }
}

/// How statements are read.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    client: Client,
    timeout: Duration,
    unwanted: mpsc::Sender<String>,
}

impl Reading {
    /// The batches of a statement, as the server makes them.
    pub(super) async fn batches(
        self,
        statement: Arc<String>,
    ) -> Result<impl Stream<Item = Result<RecordBatch, EngineError>> + Send, EngineError> {
        let id = format!("fleetmend-{}", uuid::Uuid::new_v4());
        let mut running = Running {
            id: Some(id.clone()),
            unwanted: self.unwanted.clone(),
        };
        let settings: [Setting<'static>; 7] = [
            ("query_id", id),
            ("max_execution_time", self.timeout.as_secs().max(1).to_string()),
            ("max_block_size", ROWS_PER_BATCH.to_string()),
            ("cancel_http_readonly_queries_on_client_close", "1".to_owned()),
            ("output_format_arrow_compression_method", "none".to_owned()),
            ("do_not_merge_across_partitions_select_final", "1".to_owned()),
            ("use_skip_indexes_if_final", "1".to_owned()),
        ];
        let pieces = self.client.stream(&statement, &settings, self.timeout).await;
        if let Err(EngineError::Refused { .. }) = &pieces {
            running.id = None;
        }
        let state = Decoding {
            pieces: Box::pin(pieces?),
            decoder: StreamDecoder::new(),
            buffer: Buffer::default(),
            last: [0; END_MARK.len()],
            held: 0,
            running,
        };
        Ok(futures::stream::try_unfold(state, |mut state| async move {
            let batch = state.next().await?;
            Ok(batch.map(|batch| (batch, state)))
        }))
    }
}

/// A statement that is being read; ended by its id when it is dropped before its end.
#[derive(Debug)]
struct Running {
    id: Option<String>,
    unwanted: mpsc::Sender<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            // The server also ends what nobody reads by itself, when its connection is gone or its time is up.
            self.unwanted.try_send(id).ok();
        }
    }
}

struct Decoding {
    pieces: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, EngineError>> + Send>>,
    decoder: StreamDecoder,
    buffer: Buffer,
    /// The last bytes that came.
    last: [u8; END_MARK.len()],
    /// Bytes that came since the last batch.
    held: usize,
    running: Running,
}

impl Decoding {
    async fn next(&mut self) -> Result<Option<RecordBatch>, EngineError> {
        let cut = |reason: String| EngineError::Garbled {
            action: "read rows",
            reason,
        };
        let garbled = |error: arrow::error::ArrowError| cut(error.to_string());
        loop {
            while !self.buffer.is_empty() {
                if let Some(batch) = self.decoder.decode(&mut self.buffer).map_err(garbled)? {
                    self.held = 0;
                    return Ok(Some(batch));
                }
            }
            match self.pieces.next().await {
                Some(piece) => {
                    let piece = piece?;
                    note_last(&mut self.last, &piece);
                    self.held = self.held.saturating_add(piece.len());
                    if self.held > BATCH_BYTES_MAX {
                        return Err(EngineError::TooMuch {
                            most: BATCH_BYTES_MAX,
                        });
                    }
                    self.buffer = Buffer::from(piece);
                }
                None => {
                    self.running.id = None;
                    self.decoder.finish().map_err(garbled)?;
                    if self.last != END_MARK {
                        return Err(cut(
                            "the rows end without their end mark, so they are not all".to_owned()
                        ));
                    }
                    return Ok(None);
                }
            }
        }
    }
}

/// Keeps the last bytes of what has come.
fn note_last(last: &mut [u8; END_MARK.len()], piece: &[u8]) {
    let new = piece
        .get(piece.len().saturating_sub(last.len())..)
        .unwrap_or_default();
    last.rotate_left(new.len());
    let place = last.len().saturating_sub(new.len());
    for (held, byte) in last.iter_mut().skip(place).zip(new) {
        *held = *byte;
    }
}

/// One scan.
#[derive(Debug)]
struct Part {
    statement: Arc<String>,
    schema: SchemaRef,
    /// For metrics, which samples are wanted of the chunks.
    samples: Option<Arc<Prune>>,
    reading: Reading,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, samples) = (self.schema.clone(), self.samples.clone());
        let batches = self.reading.clone().batches(self.statement.clone());
        let batches = futures::stream::once(batches).try_flatten().map_err(external);
        let schema_of_pieces = schema.clone();
        let pieces = move |batch: RecordBatch| {
            let schema = schema_of_pieces.clone();
            let begun = match &samples {
                Some(prune) => Expanding::of(schema, prune.clone(), &batch).map(Shown::Samples),
                None => plain(&schema, &batch).map(|batch| Shown::Rows(Some(batch))),
            };
            futures::stream::once(futures::future::ready(begun))
                .map_ok(shown_of)
                .try_flatten()
        };
        let shown = batches.map_ok(pieces).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(schema, shown))
    }
}

/// What a batch of the server's becomes.
enum Shown {
    Rows(Option<RecordBatch>),
    Samples(Expanding),
}

fn shown_of(shown: Shown) -> impl Stream<Item = Result<RecordBatch>> + Send {
    futures::stream::try_unfold(shown, |mut shown| async move {
        let batch = match &mut shown {
            Shown::Rows(rows) => rows.take(),
            Shown::Samples(samples) => samples.next()?,
        };
        Ok(batch.map(|batch| (batch, shown)))
    })
}

/// The columns with the types that SQL shows.
fn plain(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let column = |field: &Arc<arrow::datatypes::Field>| -> Result<ArrayRef> {
        let column = batch.column_by_name(field.name()).ok_or_else(|| {
            DataFusionError::Execution(format!("ClickHouse sent no column {}", field.name()))
        })?;
        if column.data_type() == field.data_type() {
            return Ok(column.clone());
        }
        Ok(cast(column, field.data_type())?)
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

/// The samples of chunks, some at a time.
struct Expanding {
    schema: SchemaRef,
    prune: Arc<Prune>,
    batch: RecordBatch,
    /// The chunk that is next, and how many of its samples are given.
    row: usize,
    given: usize,
}

impl Expanding {
    fn of(schema: SchemaRef, prune: Arc<Prune>, batch: &RecordBatch) -> Result<Self> {
        Ok(Self {
            schema,
            prune,
            batch: chunk_types(batch)?,
            row: 0,
            given: 0,
        })
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let read = |error: ReadError| DataFusionError::External(Box::new(error));
        let chunks = Chunks::of(&self.batch).map_err(read)?;
        let origins = Origins::of(&self.batch).map_err(read)?;
        let mut builder = SampleBuilder::new(self.schema.clone());
        while self.row < chunks.len() && !builder.is_full() {
            let origin = origins.row(self.row);
            let sample = chunks.sample_of(self.row, origin.0);
            let mut is_whole = true;
            for (time, value) in chunks.samples(self.row).skip(self.given) {
                if builder.is_full() {
                    is_whole = false;
                    break;
                }
                self.given = self.given.saturating_add(1);
                if self.prune.touches(TimeMicros(time), TimeMicros(time)) {
                    builder.push(sample, (time, value), (origin.1, origin.2));
                }
            }
            if is_whole {
                self.row = self.row.saturating_add(1);
                self.given = 0;
            }
        }
        if builder.len() == 0 {
            return Ok(None);
        }
        Ok(Some(builder.finish()?))
    }
}

/// Columns of chunks with the types that frames have: those that ClickHouse sends differ in what may be null.
pub(super) fn chunk_types(batch: &RecordBatch) -> Result<RecordBatch> {
    let wanted = crate::shape::sql_tables()
        .iter()
        .find(|table| table.is_metrics())
        .map(|table| table.info.schema.clone());
    let wanted = wanted.ok_or_else(|| DataFusionError::Execution("metrics are not known".to_owned()))?;
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let kind = wanted
            .field_with_name(field.name())
            .map(|field| field.data_type().clone());
        let kind = kind.unwrap_or_else(|_| match field.name().as_str() {
            INGESTED_AT => crate::shape::time_type(),
            HOST_ID => arrow::datatypes::DataType::Utf8,
            _ => field.data_type().clone(),
        });
        let column = if *column.data_type() == kind {
            column.clone()
        } else {
            cast(column, &kind)?
        };
        fields.push(Arc::new(arrow::datatypes::Field::new(field.name(), kind, true)));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(
        Arc::new(arrow::datatypes::Schema::new(fields)),
        columns,
    )?)
}

/// Where the rows of a batch came from.
pub(super) struct Origins<'a> {
    hosts: &'a StringArray,
    ingested: &'a TimestampMicrosecondArray,
    clocks: &'a Int64Array,
}

impl<'a> Origins<'a> {
    pub(super) fn of(batch: &'a RecordBatch) -> Result<Self, ReadError> {
        Ok(Self {
            hosts: typed(batch, HOST_ID)?,
            ingested: typed(batch, INGESTED_AT)?,
            clocks: typed(batch, CLOCK_AHEAD)?,
        })
    }

    /// Host, reception and clock of a row.
    pub(super) fn row(&self, row: usize) -> (&'a str, TimeMicros, ClockAhead) {
        let clock = (!self.clocks.is_null(row)).then(|| self.clocks.value(row));
        (
            self.hosts.value(row),
            TimeMicros(self.ingested.value(row)),
            ClockAhead::from_micros(clock),
        )
    }

    /// The same, typed; `None` where the host is none.
    pub(super) fn origin(&self, row: usize) -> Option<Origin> {
        let (host, ingested_at, clock) = self.row(row);
        Some(Origin {
            host: host.parse().ok()?,
            // Series are told apart by their samples.
            record: RecordId {
                epoch: SpoolEpoch::from_bytes([0; 16]),
                lane: Lane::Metrics,
                sequence: Sequence(0),
            },
            ingested_at,
            clock,
        })
    }
}

fn external(error: EngineError) -> DataFusionError {
    match &error {
        EngineError::Refused {
            code: Some(super::error::MEMORY_LIMIT_EXCEEDED),
            ..
        }
        | EngineError::TooMuch { .. } => DataFusionError::ResourcesExhausted(error.to_string()),
        _ => DataFusionError::External(Box::new(error)),
    }
}
