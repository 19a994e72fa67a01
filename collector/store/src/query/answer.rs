//! What a query gives back.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use serde_json::{Map, Value};

use crate::error::QueryError;
use crate::gaps::HostGap;

/// The answer to a query.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its columns. Text is always `Utf8`, also where the engine computes with views or dictionaries.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// Whether there were more rows than allowed.
    pub truncated: bool,
    /// Losses that touch what was read, the newest first; at most 100.
    pub gaps: Vec<HostGap>,
    /// How long it took.
    pub took: Duration,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            schema: Arc::new(Schema::empty()),
            batches: Vec::new(),
            truncated: false,
            gaps: Vec::new(),
            took: Duration::ZERO,
        }
    }
}

impl Answer {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Rows as JSON objects, in the order of the columns; nulls are there as `null`. Times are RFC 3339 text.
///
/// # Errors
/// When Arrow cannot write a column as JSON.
pub fn to_json_rows(batches: &[RecordBatch]) -> Result<Vec<Map<String, Value>>, QueryError> {
    let failed = |reason: String| QueryError::Failed { reason };
    let mut rows = Vec::new();
    for batch in batches {
        let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, arrow::json::writer::JsonArray>(Vec::new());
        writer.write(batch).map_err(|error| failed(error.to_string()))?;
        writer.finish().map_err(|error| failed(error.to_string()))?;
        let bytes = writer.into_inner();
        if !bytes.is_empty() {
            let of_batch: Vec<Map<String, Value>> =
                serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
            rows.extend(of_batch);
        }
    }
    Ok(rows)
}

/// The engine's schema with plain text columns.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let plain =
        |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), field.is_nullable());
    Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()))
}

/// The engine's batch with plain text columns.
pub(crate) fn plain(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let column = |(array, field): (&arrow::array::ArrayRef, &Arc<Field>)| {
        if array.data_type() == field.data_type() {
            Ok(array.clone())
        } else {
            cast(array, field.data_type())
        }
    };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(column)
        .collect::<Result<Vec<_>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => plain_type(value),
        other => other.clone(),
    }
}

/// The engine's error as ours.
pub(crate) fn failure(error: &DataFusionError, bytes_max: usize) -> QueryError {
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => QueryError::Memory { bytes_max },
        DataFusionError::SQL(..) => QueryError::Invalid {
            reason: format!(
                "{}; one SELECT is answered, in the dialect of docs/specs/sql.md: check the text near what is named",
                text(error)
            ),
        },
        DataFusionError::Plan(_) if text(error).contains("not found") => QueryError::Invalid {
            reason: format!("{}; SHOW TABLES lists tables and views", text(error)),
        },
        DataFusionError::SchemaError(..) => QueryError::Invalid {
            reason: format!("{}; DESCRIBE and the table's name list its columns", text(error)),
        },
        DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) | DataFusionError::Configuration(_) => {
            QueryError::Invalid { reason: text(error) }
        }
        DataFusionError::ArrowError(inner, _) if is_of_the_query(inner) => {
            QueryError::Invalid { reason: text(error) }
        }
        _ => QueryError::Failed { reason: text(error) },
    }
}

/// Errors that the query's own arithmetic or casts make.
fn is_of_the_query(error: &arrow::error::ArrowError) -> bool {
    use arrow::error::ArrowError;
    matches!(
        error,
        ArrowError::DivideByZero
            | ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::ArithmeticOverflow(_)
    )
}

fn text(error: &DataFusionError) -> String {
    error.strip_backtrace()
}
