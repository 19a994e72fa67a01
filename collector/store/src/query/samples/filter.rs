//! What a query wants of `metrics`.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_plan::PhysicalExpr;

use crate::chunk::Wanted;
use crate::query::prune::Prune;
use crate::shape::HOST_ID;

/// The columns that all samples of a series share.
fn series_schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        Arc::new(Schema::new(vec![
            text("name"),
            text("unit"),
            text("labels"),
            text(HOST_ID),
        ]))
    });
    &SCHEMA
}

/// Whether [`SampleFilter`] meets this filter exactly.
pub(crate) fn is_exact(filter: &Expr) -> bool {
    is_of_series(filter) || Prune::is_exact_time(filter)
}

/// Whether a filter is the same for all samples of a series.
fn is_of_series(filter: &Expr) -> bool {
    let columns = filter.column_refs();
    let is_of_series = |name: &str| series_schema().field_with_name(name).is_ok();
    !columns.is_empty() && columns.iter().all(|column| is_of_series(column.name())) && !filter.is_volatile()
}

/// What the filters of a query say.
#[derive(Debug)]
pub(crate) struct SampleFilter {
    /// Names, hosts and times.
    pub(crate) wanted: Wanted,
    /// What else is asked of a series.
    series: Option<Arc<dyn PhysicalExpr>>,
}

impl SampleFilter {
    /// Of all filters of a scan.
    pub(crate) fn of(state: &dyn Session, prune: &Prune, filters: &[Expr]) -> Result<Self> {
        let of_series: Vec<Expr> = filters
            .iter()
            .filter(|filter| is_of_series(filter))
            .cloned()
            .collect();
        let series = match conjunction(of_series) {
            Some(filter) => {
                let schema = DFSchema::try_from(series_schema().as_ref().clone())?;
                Some(state.create_physical_expr(filter, &schema)?)
            }
            None => None,
        };
        Ok(Self {
            wanted: prune.wanted(),
            series,
        })
    }

    /// Which of these series may stay.
    pub(crate) fn keeps(
        &self,
        [name, unit, labels]: [&StringArray; 3],
        host: StringArray,
    ) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.series else {
            return Ok(None);
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(name.clone()),
            Arc::new(unit.clone()),
            Arc::new(labels.clone()),
            Arc::new(host),
        ];
        let batch = RecordBatch::try_new(series_schema().clone(), columns)?;
        let kept = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let kept = kept.as_any().downcast_ref::<BooleanArray>();
        let kept = kept
            .ok_or_else(|| DataFusionError::Internal("a filter that says neither yes nor no".to_owned()))?;
        Ok(Some(if kept.null_count() > 0 {
            prep_null_mask_filter(kept)
        } else {
            kept.clone()
        }))
    }
}
