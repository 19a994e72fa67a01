//! Hot frames as a stream of rows.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use super::samples::SampleFilter;
use crate::error::ReadError;
use crate::inner::Inner;
use crate::shape::{Chunks, Origin, SampleBuilder, SqlTable, with_system_columns};
use crate::view::HotFrame;

/// Some frames of one table.
pub(crate) struct HotPartition {
    pub(crate) table: &'static SqlTable,
    pub(crate) index: usize,
    pub(crate) frames: Vec<Arc<HotFrame>>,
    /// What is given: the projected columns.
    pub(crate) schema: SchemaRef,
    pub(crate) projection: Option<Vec<usize>>,
    /// Of metrics.
    pub(crate) filter: Option<Arc<SampleFilter>>,
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for HotPartition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "HotPartition({}, {} frames)",
            self.table.info.name,
            self.frames.len()
        )
    }
}

impl PartitionStream for HotPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = Reader {
            index: self.index,
            shown: Shown {
                table: self.table,
                schema: self.schema.clone(),
                projection: self.projection.clone(),
                filter: self.filter.clone(),
            },
            inner: self.inner.clone(),
        };
        let frames = self.frames.clone();
        let batches = frames
            .into_iter()
            .filter_map(move |frame| reader.read(&frame).transpose());
        Box::pin(RecordBatchStreamAdapter::new(
            self.schema.clone(),
            futures::stream::iter(batches),
        ))
    }
}

/// What a scan wants of decoded rows.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) table: &'static SqlTable,
    /// What is given: the projected columns.
    pub(crate) schema: SchemaRef,
    pub(crate) projection: Option<Vec<usize>>,
    /// Of metrics.
    pub(crate) filter: Option<Arc<SampleFilter>>,
}

struct Reader {
    index: usize,
    shown: Shown,
    inner: Arc<Inner>,
}

impl Reader {
    /// The rows of one frame; `None` when it has none that matter. A frame that cannot be read any more is a gap.
    fn read(&self, frame: &Arc<HotFrame>) -> Result<Option<RecordBatch>> {
        match frame.batch(self.shown.table) {
            Ok(batch) => self.shown.rows(&frame.origin(), &batch),
            // The disk may come back; a frame that is read whole and is no frame does not.
            Err(error @ ReadError::Io { .. }) => Err(external(error)),
            Err(error) => {
                self.inner.lose_frame(frame, self.index, &error);
                Ok(None)
            }
        }
    }
}

impl Shown {
    /// The aligned rows of one record as SQL shows them; `None` when it has none that matter.
    pub(crate) fn rows(&self, origin: &Origin, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        if self.table.is_metrics() {
            return self.samples(origin, batch);
        }
        let rows = with_system_columns(self.table, batch, origin).map_err(external)?;
        let rows = match &self.projection {
            Some(columns) => rows.project(columns)?,
            None => rows,
        };
        Ok((rows.num_rows() > 0).then_some(rows))
    }

    fn samples(&self, origin: &Origin, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let chunks = Chunks::of(batch).map_err(external)?;
        let host = origin.host.to_string();
        let mut builder = SampleBuilder::new(self.schema.clone());
        let filter = self.filter.as_deref();
        let kept = match filter {
            Some(filter) => {
                let hosts = StringArray::from_iter_values(std::iter::repeat_n(&host, chunks.len()));
                filter.keeps(chunks.texts(), hosts)?
            }
            None => None,
        };
        let wants_name = |name: &str| filter.is_none_or(|filter| filter.wanted.wants_name(name));
        let wants_time = |time: i64| filter.is_none_or(|filter| filter.wanted.touches(time, time));
        for row in 0..chunks.len() {
            if kept.as_ref().is_some_and(|kept| !kept.value(row)) || !wants_name(chunks.name(row)) {
                continue;
            }
            let sample = chunks.sample_of(row, &host);
            for (time, value) in chunks.samples(row).filter(|(time, _)| wants_time(*time)) {
                builder.push(sample, (time, value), (origin.ingested_at, origin.clock));
            }
        }
        if builder.len() == 0 {
            Ok(None)
        } else {
            Ok(Some(builder.finish()?))
        }
    }
}

fn external(error: ReadError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
