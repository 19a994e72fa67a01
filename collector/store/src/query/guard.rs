//! The guard of a scope: an operator between what a table reads and what a query computes, which lets through rows
//! of the hosts that may be seen, and nothing else.
//!
//! It stands in the plan of every table of a query that may not see all hosts. It is an operator of its own, and not
//! a filter of the engine's, because the engine merges filters, moves them and evaluates them in an order of its
//! choice: a cast in the query that fails on a foreign row would then tell that row's text in its error. Nothing is
//! pushed through it in either direction, and it tells no statistics, so that a count is counted behind it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Statistics, project_schema};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion::prelude::{col, lit};
use fleetmend_event::table::Gap;
use fleetmend_event::{HostId, HostScope, Table};
use futures::StreamExt;

use crate::own::OWN_HOST;
use crate::shape::{HOST_ID, SqlTable};

/// Hosts whose rows a query may see in one table, as SQL writes them. `None` where it may see all.
pub(crate) type Seen = Option<Arc<HashSet<String>>>;

/// What `scope` lets through of `table`. Losses of the store itself may be of any host's rows, and are told to all.
pub(crate) fn seen(scope: &HostScope, table: &SqlTable) -> Seen {
    let hosts = scope.hosts()?;
    let mut seen: HashSet<String> = hosts.iter().map(HostId::to_string).collect();
    if table.info.id == Gap::ID {
        seen.insert(OWN_HOST.to_string());
    }
    Some(Arc::new(seen))
}

/// The filters that may be handed to whoever reads in front of the guard: comparisons of a column with a value, which
/// cannot fail on a foreign row and tell of it, and that the host is one of those seen.
pub(crate) fn harmless(filters: &[Expr], seen: &HashSet<String>) -> Vec<Expr> {
    let is_plain = |side: &Expr| matches!(side, Expr::Column(_) | Expr::Literal(..));
    let compares = |filter: &&Expr| match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let is_comparison = matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
            );
            is_comparison && is_plain(left) && is_plain(right)
        }
        _ => false,
    };
    let mut kept: Vec<Expr> = filters.iter().filter(compares).cloned().collect();
    let mut hosts: Vec<&String> = seen.iter().collect();
    hosts.sort();
    kept.push(col(HOST_ID).in_list(hosts.into_iter().map(|host| lit(host.clone())).collect(), false));
    kept
}

/// What a guarded scan reads, and how it is brought back to what was asked for.
pub(crate) struct Guarded {
    /// Columns to read: those asked for, and the host's.
    pub(crate) projection: Vec<usize>,
    /// Place of the host's column among these.
    host: usize,
    /// Whether the host's column was asked for; else it is the last one and dropped.
    wanted: bool,
}

impl Guarded {
    /// A guarded form of a scan of `table`.
    pub(crate) fn of(table: &SqlTable, projection: Option<&Vec<usize>>) -> Result<Self> {
        let column = table.schema.index_of(HOST_ID)?;
        let mut columns: Vec<usize> = match projection {
            Some(columns) => columns.clone(),
            None => (0..table.schema.fields().len()).collect(),
        };
        let place = columns.iter().position(|index| *index == column);
        let host = place.unwrap_or(columns.len());
        if place.is_none() {
            columns.push(column);
        }
        Ok(Self {
            projection: columns,
            host,
            wanted: place.is_some(),
        })
    }

    /// The plan with the guard on top.
    pub(crate) fn wrap(
        &self,
        input: Arc<dyn ExecutionPlan>,
        seen: Arc<HashSet<String>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let read = input.schema();
        let schema = if self.wanted {
            read
        } else {
            let kept: Vec<usize> = (0..self.host).collect();
            project_schema(&read, Some(&kept))?
        };
        Ok(Arc::new(GuardExec::new(input, schema, self.host, seen)))
    }
}

/// The operator.
#[derive(Debug, Clone)]
struct GuardExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    /// Place of the host's column in what is read.
    host: usize,
    seen: Arc<HashSet<String>>,
    properties: Arc<PlanProperties>,
}

impl GuardExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        host: usize,
        seen: Arc<HashSet<String>>,
    ) -> Self {
        let from = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(
                from.output_partitioning().partition_count(),
            ),
            from.emission_type,
            from.boundedness,
        );
        Self {
            input,
            schema,
            host,
            seen,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for GuardExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "GuardExec: {} hosts", self.seen.len())
    }
}

impl ExecutionPlan for GuardExec {
    fn name(&self) -> &'static str {
        "GuardExec"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(
                input,
                self.schema.clone(),
                self.host,
                self.seen.clone(),
            ))),
            _ => Err(DataFusionError::Internal("a guard has one input".to_owned())),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let guard = self.clone();
        let rows = self.input.execute(partition, context)?;
        let rows = rows.map(move |batch| guard.let_through(&batch?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows)))
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &datafusion::physical_plan::StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema)))
    }
}

impl GuardExec {
    fn let_through(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let hosts = cast(batch.column(self.host), &DataType::Utf8)?;
        let hosts = hosts
            .as_any()
            .downcast_ref::<StringArray>()
            .ok_or_else(|| DataFusionError::Internal("the column of hosts is no text".to_owned()))?;
        // Rows lie in runs of one host: each run is looked up once.
        let mut last: Option<(&str, bool)> = None;
        let seen: BooleanArray = hosts
            .iter()
            .map(|host| {
                let host = host.unwrap_or_default();
                let sees = match last {
                    Some((held, sees)) if held == host => sees,
                    _ => self.seen.contains(host),
                };
                last = Some((host, sees));
                Some(sees)
            })
            .collect();
        let rows = filter_record_batch(batch, &seen)?;
        let columns = rows.columns().iter().take(self.schema.fields().len()).cloned();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns.collect(),
            &options,
        )?)
    }
}
