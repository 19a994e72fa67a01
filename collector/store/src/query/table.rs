//! A table in SQL: hot frames and Parquet files, pruned by what the query asks for.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, project_schema};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::object_store::path::Path as ObjectPath;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;

use super::guard::{self, Guarded};
use super::hot::HotPartition;
use super::prune::Prune;
use super::samples::{Group, SampleFilter, SamplePartition, groups, is_exact};
use super::session::Scope;
use super::stock::{Scan, Stock};
use crate::inner::Inner;
use crate::shape::{SqlTable, sql_tables};
use crate::view::{HotFrame, ParquetFile};

/// Hot frames below this number are read by one task.
const FRAMES_PER_PARTITION_MIN: usize = 32;

/// One table as a query sees it.
#[derive(Debug)]
pub(crate) struct FactTable {
    table: &'static SqlTable,
    index: usize,
    scope: Arc<Scope>,
}

impl FactTable {
    /// The table at this place.
    pub(crate) fn new(index: usize, scope: &Arc<Scope>) -> Option<Self> {
        sql_tables().get(index).map(|table| Self {
            table,
            index,
            scope: scope.clone(),
        })
    }

    /// What a filter leaves, of every host that `prune` wants or that cannot be told apart before reading.
    fn unguarded(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        prune: Prune,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let prune = Arc::new(prune);
        self.scope.note(self.table.info.name, &prune);
        let partitions = state.config().target_partitions();
        let filter = self
            .table
            .is_metrics()
            .then(|| SampleFilter::of(state, &prune, filters));
        let filter = filter.transpose()?.map(Arc::new);
        let inner = match &self.scope.stock {
            Stock::Folder(inner) => inner,
            // Tiers are made of files; whoever has none keeps raw samples for as long as is wanted.
            Stock::Elsewhere(_) if self.table.kept_days.is_some() => return self.nothing(projection),
            Stock::Elsewhere(source) => {
                return source.scan(&Scan {
                    index: self.index,
                    table: self.table,
                    projection,
                    filters,
                    prune,
                    filter,
                    partitions,
                });
            }
        };
        let hot = self.hot(inner, &prune, filter.as_ref(), projection, partitions)?;
        let parquet = match &filter {
            Some(filter) => self.samples(inner, filter, projection, partitions)?,
            None => self.parquet(inner, state, &prune, projection, filters)?,
        };
        let plans: Vec<Arc<dyn ExecutionPlan>> = hot.into_iter().chain(parquet).collect();
        if plans.is_empty() {
            return self.nothing(projection);
        }
        UnionExec::try_new(plans)
    }

    /// No rows.
    fn nothing(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.table.schema, projection)?;
        Ok(Arc::new(EmptyExec::new(schema)))
    }

    fn hot(
        &self,
        inner: &Arc<Inner>,
        prune: &Prune,
        filter: Option<&Arc<SampleFilter>>,
        projection: Option<&Vec<usize>>,
        partitions: usize,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let wanted = |frame: &&Arc<HotFrame>| {
            prune.touches(frame.from, frame.to) && prune.wants_host(frame.host) && !frame.is_lost()
        };
        let view = self.scope.view(self.index);
        let frames: Vec<Arc<HotFrame>> = view.hot.iter().filter(wanted).cloned().collect();
        if frames.is_empty() {
            return Ok(None);
        }
        let schema = project_schema(&self.table.schema, projection)?;
        let share = frames
            .len()
            .div_ceil(partitions.max(1))
            .max(FRAMES_PER_PARTITION_MIN);
        let partition = |frames: &[Arc<HotFrame>]| -> Arc<dyn PartitionStream> {
            Arc::new(HotPartition {
                table: self.table,
                index: self.index,
                frames: frames.to_vec(),
                schema: schema.clone(),
                projection: projection.cloned(),
                filter: filter.cloned(),
                inner: inner.clone(),
            })
        };
        let partitions = frames.chunks(share).map(partition).collect();
        Ok(Some(Arc::new(StreamingTableExec::try_new(
            schema.clone(),
            partitions,
            None,
            no_order(),
            false,
            None,
        )?)))
    }

    /// Files of metrics, of either layout.
    fn samples(
        &self,
        inner: &Arc<Inner>,
        filter: &Arc<SampleFilter>,
        projection: Option<&Vec<usize>>,
        partitions: usize,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let view = self.scope.view(self.index);
        let mut files = Vec::new();
        for file in &view.files {
            if filter.wanted.touches(file.from.0, file.to.0) && is_usable(inner, file)? {
                files.push(file.clone());
            }
        }
        let mut shares = vec![Vec::new(); partitions.max(1)];
        let groups = groups(inner, &files, filter)?;
        for (group, share) in groups.into_iter().zip((0..shares.len()).cycle()) {
            if let Some(share) = shares.get_mut(share) {
                share.push(group);
            }
        }
        shares.retain(|share| !share.is_empty());
        if shares.is_empty() {
            return Ok(None);
        }
        let schema = project_schema(&self.table.schema, projection)?;
        let partition = |groups: Vec<Group>| -> Arc<dyn PartitionStream> {
            Arc::new(SamplePartition {
                groups,
                schema: schema.clone(),
                filter: filter.clone(),
                inner: inner.clone(),
            })
        };
        let partitions = shares.into_iter().map(partition).collect();
        Ok(Some(Arc::new(StreamingTableExec::try_new(
            schema.clone(),
            partitions,
            None,
            no_order(),
            false,
            None,
        )?)))
    }

    fn parquet(
        &self,
        inner: &Inner,
        state: &dyn Session,
        prune: &Prune,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let view = self.scope.view(self.index);
        let mut files = Vec::new();
        for file in &view.files {
            if prune.touches(file.from, file.to) && is_usable(inner, file)? {
                files.push(partitioned_file(file)?);
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        let mut source = ParquetSource::new(self.table.schema.clone());
        if let Some(predicate) = conjunction(filters.to_vec()) {
            let schema = DFSchema::try_from(self.table.schema.as_ref().clone())?;
            source = source.with_predicate(state.create_physical_expr(predicate, &schema)?);
            // One event of millions: the columns that are asked for are read of the rows that are it.
            source = source.with_pushdown_filters(true).with_reorder_filters(true);
        }
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(Some(DataSourceExec::from_data_source(config)))
    }
}

/// Whether a file can be read; one that is damaged at first sight is set aside. One that cannot be looked at fails the
/// query.
fn is_usable(inner: &Inner, file: &Arc<ParquetFile>) -> Result<bool> {
    match file.fault() {
        Ok(None) => Ok(true),
        Ok(Some(reason)) => {
            inner.set_aside(file, &reason);
            Ok(false)
        }
        Err(error) => Err(DataFusionError::IoError(error)),
    }
}

/// The file for the engine. Its footer may be cached by path and size: a file never changes under its name.
fn partitioned_file(file: &ParquetFile) -> Result<PartitionedFile> {
    let mut partitioned = PartitionedFile::new("", file.bytes);
    partitioned.object_meta.location = ObjectPath::from_absolute_path(&file.path)
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    Ok(partitioned)
}

/// Frames are in no order that the planner could use.
fn no_order() -> Option<LexOrdering> {
    None
}

#[async_trait]
impl TableProvider for FactTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(seen) = guard::seen(self.scope.hosts(), self.table) else {
            return self.unguarded(state, projection, filters, Prune::of(filters));
        };
        let guarded = Guarded::of(self.table, projection)?;
        let prune = Prune::of(filters).within(&seen);
        let filters = guard::harmless(filters, &seen);
        let read = self.unguarded(state, Some(&guarded.projection), &filters, prune)?;
        guarded.wrap(read, seen)
    }

    /// The filters narrow what is read; the engine applies them to the rows all the same, but for those that are met
    /// exactly. In front of a guard none is, for not all are handed there.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let is_open = guard::seen(self.scope.hosts(), self.table).is_none();
        let is_ours = is_open && self.table.is_metrics() && matches!(self.scope.stock, Stock::Folder(_));
        let support = |filter: &&Expr| match is_ours && is_exact(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }
}
