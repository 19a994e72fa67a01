//! Operators that count nothing of what they take.
//!
//! The engine counts what its sorts, joins and groups hold against the memory of the query. Two things it does not
//! count, and this rule puts an operator of ours in front of each:
//!
//! - *Windows* over a whole partition keep all of their input until its end. [`Held`] counts it for as long as the
//!   window lives, so that the query is refused where the memory ends.
//! - *Joins and lists that become rows* repeat a row as often as it has partners, a batch of rows at once. A text
//!   that was made of a whole table, repeated for each row of another one, is more than any machine has. [`Held`]
//!   refuses rows that are wider than [`ROW_BYTES_MAX`] in front of them; [`BATCH_ROWS`] bounds what they make
//!   at once.
//!
//! An aggregate that grows, told again for each row of a window, would take the square of what is read: it is refused
//! before it is planned ([`growing_window`]). What functions make of one batch
//! of rows is `tamed.rs`'.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

/// Bytes of a row that may be repeated: far more than any row that a host sends has.
const ROW_BYTES_MAX: usize = 256 << 10;
/// Rows that a query makes at once when it repeats rows.
pub(crate) const BATCH_ROWS: usize = 512;

/// Aggregates whose value is as long as what they read.
const GROWING: [&str; 2] = ["string_agg", "array_agg"];

/// Whether a plan repeats rows.
pub(crate) fn repeats_rows(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        // A subquery may become a join.
        found |= matches!(
            node,
            LogicalPlan::Join(_) | LogicalPlan::Unnest(_) | LogicalPlan::Subquery(_)
        );
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// The name of an aggregate that grows with what it reads, where a plan tells it for each row of a window.
pub(crate) fn growing_window(plan: &LogicalPlan) -> Result<Option<String>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::WindowFunction(window) = part
                    && GROWING.contains(&window.fun.name())
                {
                    found = Some(window.fun.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// Puts the operators into a plan.
#[derive(Debug)]
pub(crate) struct Bounded;

impl PhysicalOptimizerRule for Bounded {
    fn name(&self) -> &'static str {
        "bounded"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|node| {
            let Some(bound) = bound_of(node.name()) else {
                return Ok(Transformed::no(node));
            };
            let inputs = node.children().into_iter();
            let held = inputs.map(|input| Held::over(input.clone(), bound)).collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(held, options)?))
        });
        Ok(wrapped?.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What the inputs of an operator of this name are bound by.
fn bound_of(name: &str) -> Option<Bound> {
    match name {
        "WindowAggExec" => Some(Bound::Memory),
        "UnnestExec" => Some(Bound::Width),
        name if name.ends_with("JoinExec") => Some(Bound::Width),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// All rows together, by the query's memory.
    Memory,
    /// Each row.
    Width,
}

/// Lets rows through as they are, as long as they stay within a bound.
#[derive(Debug, Clone)]
struct Held {
    input: Arc<dyn ExecutionPlan>,
    bound: Bound,
    properties: Arc<PlanProperties>,
}

impl Held {
    fn over(input: Arc<dyn ExecutionPlan>, bound: Bound) -> Arc<dyn ExecutionPlan> {
        let properties = input.properties().clone();
        Arc::new(Self {
            input,
            bound,
            properties,
        })
    }
}

impl DisplayAs for Held {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Held: {:?}", self.bound)
    }
}

impl ExecutionPlan for Held {
    fn name(&self) -> &'static str {
        "Held"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
            (Some(input), true) => Ok(Self::over(input, self.bound)),
            _ => Err(DataFusionError::Internal("a bound has one input".to_owned())),
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
        let rows = self.input.execute(partition, context.clone())?;
        let bound = self.bound;
        // Given back when the operator above drops its input.
        let memory = MemoryConsumer::new("rows of a window").register(context.memory_pool());
        let rows = rows.map(move |batch| {
            let batch = batch?;
            match bound {
                Bound::Memory => memory.try_grow(bytes_held(&batch))?,
                Bound::Width => narrow(&batch)?,
            }
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &datafusion::physical_plan::StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(Arc::new(Statistics::new_unknown(&self.schema())))
    }
}

/// Refuses rows that are too wide to be repeated.
fn narrow(batch: &RecordBatch) -> Result<()> {
    let widths = batch.columns().iter().map(widest);
    let bytes = widths.fold(0, usize::saturating_add);
    if bytes <= ROW_BYTES_MAX {
        return Ok(());
    }
    Err(DataFusionError::ResourcesExhausted(format!(
        "a row of {bytes} bytes is more than the {ROW_BYTES_MAX} of a row that a join repeats"
    )))
}

/// Bytes of the widest value of a column.
pub(super) fn widest(column: &ArrayRef) -> usize {
    match fixed_width(column.data_type()) {
        Some(width) => width,
        None => (0..column.len())
            .map(|row| bytes_of(column, row, row.saturating_add(1)))
            .max()
            .unwrap_or(0),
    }
}

/// What a value takes, where that is the same for each. Views and dictionaries are repeated without their texts.
fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::Struct(_) => None,
        other => Some(other.primitive_width().unwrap_or(size_of::<u128>())),
    }
}

/// What the values of some rows take together.
fn bytes_of(column: &ArrayRef, from: usize, to: usize) -> usize {
    match column.data_type() {
        DataType::Utf8 => length(column.as_string::<i32>().value_offsets(), from, to),
        DataType::LargeUtf8 => length(column.as_string::<i64>().value_offsets(), from, to),
        DataType::Binary => length(column.as_binary::<i32>().value_offsets(), from, to),
        DataType::LargeBinary => length(column.as_binary::<i64>().value_offsets(), from, to),
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            of_items(list.value_offsets(), list.values(), from, to)
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            of_items(list.value_offsets(), list.values(), from, to)
        }
        DataType::Struct(_) => {
            let fields = column.as_struct().columns().iter();
            fields
                .map(|field| bytes_of(field, from, to))
                .fold(0, usize::saturating_add)
        }
        other => fixed_width(other)
            .unwrap_or(0)
            .saturating_mul(to.saturating_sub(from)),
    }
}

fn of_items<O: OffsetSizeTrait>(offsets: &[O], items: &ArrayRef, from: usize, to: usize) -> usize {
    let at = |row: usize| offsets.get(row).map_or(0, |offset| offset.as_usize());
    bytes_of(items, at(from), at(to))
}

fn length<O: OffsetSizeTrait>(offsets: &[O], from: usize, to: usize) -> usize {
    let at = |row: usize| offsets.get(row).map_or(0, |offset| offset.as_usize());
    at(to).saturating_sub(at(from))
}

/// What a batch holds, without what other batches hold of the same buffers.
fn bytes_held(batch: &RecordBatch) -> usize {
    let of_column = |column: &ArrayRef| {
        let size = column.to_data().get_slice_memory_size();
        size.unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch
        .columns()
        .iter()
        .map(of_column)
        .fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, LargeStringArray, ListArray, StringArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("column", column)]).unwrap()
    }

    #[test]
    fn row_is_as_wide_as_its_longest_value() {
        let short = || "x".repeat(1_000);
        let texts = StringArray::from(vec![short(), "y".repeat(200_000), short()]);
        narrow(&batch(Arc::new(texts.clone()))).unwrap();
        assert_eq!(widest(&(Arc::new(texts) as ArrayRef)), 200_000);
        let long = LargeStringArray::from(vec![short(), "y".repeat(ROW_BYTES_MAX + 1)]);
        let error = narrow(&batch(Arc::new(long.clone()))).unwrap_err();
        assert!(matches!(error, DataFusionError::ResourcesExhausted(_)), "{error}");
        narrow(&batch(Arc::new(long.slice(0, 1)))).unwrap();
    }

    #[test]
    fn list_is_as_wide_as_its_items_together() {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let numbers = Arc::new(Int64Array::from_iter_values(0..100_000));
        let lists = |lengths: Vec<usize>| {
            let offsets = OffsetBuffer::from_lengths(lengths);
            batch(Arc::new(ListArray::new(
                item.clone(),
                offsets,
                numbers.clone(),
                None,
            )))
        };
        narrow(&lists(vec![10_000; 10])).unwrap();
        narrow(&lists(vec![10, 99_990])).unwrap_err();
    }
}
