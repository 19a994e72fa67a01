//! `metrics` in SQL: chunks and rows of files, expanded to the samples that a query can want.
//!
//! A file is read row group by row group. What the filters say of names, units, labels and hosts is asked of each
//! chunk once, not of each sample, and only the bytes of chunks that pass are read; a query that wants neither times nor
//! values, and whole chunks, reads none. Filters of that kind, and bounds of the time, are met exactly, so that
//! the engine need not look again. What is read at once counts against the query's memory.

mod filter;
mod scan;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;

use crate::inner::Inner;
use crate::view::ParquetFile;
pub(crate) use filter::{SampleFilter, is_exact};
use scan::{Scan, Step};

/// A row group of a file.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) file: Arc<ParquetFile>,
    pub(crate) group: usize,
}

/// Some row groups of files of metrics.
pub(crate) struct SamplePartition {
    pub(crate) groups: Vec<Group>,
    /// What is given: the projected columns.
    pub(crate) schema: SchemaRef,
    pub(crate) filter: Arc<SampleFilter>,
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for SamplePartition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SamplePartition({} row groups)", self.groups.len())
    }
}

impl PartitionStream for SamplePartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let memory = MemoryConsumer::new("metrics").register(context.memory_pool());
        let scan = Scan::new(self, memory);
        let stream = futures::stream::try_unfold(scan, |mut scan| async move {
            loop {
                match scan.step()? {
                    Step::Rows(batch) => return Ok::<_, DataFusionError>(Some((batch, scan))),
                    // Whoever reads much and finds nothing can be stopped too.
                    Step::Nothing => tokio::task::yield_now().await,
                    Step::End => return Ok(None),
                }
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

/// The row groups of `files` that can matter to `filter`. Reads the footers that are not at hand.
pub(crate) fn groups(inner: &Inner, files: &[Arc<ParquetFile>], filter: &SampleFilter) -> Result<Vec<Group>> {
    let external = |error: crate::chunk::FileError| DataFusionError::External(Box::new(error));
    let mut found = Vec::new();
    for file in files {
        let open = inner.footers.open(file).map_err(external)?;
        let groups = open.groups(&filter.wanted).map_err(external)?;
        found.extend(groups.into_iter().map(|group| Group {
            file: file.clone(),
            group,
        }));
    }
    Ok(found)
}
