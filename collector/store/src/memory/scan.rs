//! Tables in memory, as queries read them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::project_schema;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use super::{Held, Kept, MemoryStore};
use crate::gaps::Gaps;
use crate::query::{Scan, Shown, Stock, TableSource};

impl MemoryStore {
    pub(super) fn stock(&self) -> Stock {
        Stock::Elsewhere(self.held.clone())
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Held").finish_non_exhaustive()
    }
}

impl TableSource for Held {
    fn scan(&self, scan: &Scan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&scan.table.schema, scan.projection)?;
        let mut rows = self.table(scan.index);
        rows.retain(|kept| scan.prune.touches(kept.from, kept.to) && scan.prune.wants_host(kept.origin.host));
        if rows.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let shown = Shown {
            table: scan.table,
            schema: schema.clone(),
            projection: scan.projection.cloned(),
            filter: scan.filter.clone(),
        };
        let share = rows.len().div_ceil(scan.partitions.max(1));
        let partition = |rows: &[Arc<Kept>]| -> Arc<dyn PartitionStream> {
            Arc::new(Part {
                rows: rows.to_vec(),
                shown: shown.clone(),
            })
        };
        let parts = rows.chunks(share).map(partition).collect();
        Ok(Arc::new(StreamingTableExec::try_new(
            schema, parts, None, None, false, None,
        )?))
    }

    fn gaps(&self) -> &Gaps {
        &self.gaps
    }
}

/// Some records of one table.
#[derive(Debug)]
struct Part {
    rows: Vec<Arc<Kept>>,
    shown: Shown,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.shown.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let shown = self.shown.clone();
        let rows = self.rows.clone().into_iter();
        let batches = rows.filter_map(move |kept| shown.rows(&kept.origin, &kept.batch).transpose());
        Box::pin(RecordBatchStreamAdapter::new(
            self.shown.schema.clone(),
            futures::stream::iter(batches),
        ))
    }
}
