//! Queries that can be stopped.
//!
//! The engine gives its thread back where data enters a plan. A join that makes millions of rows from a few reads
//! its inputs rarely, so that neither a timeout nor a caller who went away would end it. This rule puts a place to
//! stop on top of every operator that has several inputs or makes rows of its own.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;

/// Puts places to stop into a plan.
#[derive(Debug)]
pub(crate) struct Interruptible;

impl PhysicalOptimizerRule for Interruptible {
    fn name(&self) -> &'static str {
        "interruptible"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|node| {
            let makes_rows = matches!(
                node.cardinality_effect(),
                CardinalityEffect::Unknown | CardinalityEffect::GreaterEqual
            );
            let is_inner = !node.children().is_empty();
            Ok(if is_inner && (makes_rows || node.children().len() > 1) {
                Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(node)
            })
        });
        Ok(wrapped?.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}
