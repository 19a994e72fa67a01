//! SQL as the caller wrote it.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::Body;
use crate::auth::Caller;
use crate::json;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::state::Shared;

const ROWS_DEFAULT: usize = 1_000;
const ROWS_MAX: usize = 10_000;
/// As the store has it.
const QUERY_BYTES_MAX: usize = 32 * 1_024;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlRequest {
    query: String,
    /// 1 to 10000, default 1000.
    rows_max: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SqlAnswer {
    columns: Vec<SqlColumn>,
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Vec<Value>>,
    truncated: bool,
    /// Known losses in the tables and the time that were read.
    #[schema(value_type = Vec<Object>)]
    gaps: Vec<Value>,
    elapsed_ms: f64,
}

#[derive(Serialize, ToSchema)]
struct SqlColumn {
    name: String,
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    kind: String,
}

#[utoipa::path(post, path = "/sql", tag = "sql", security(("bearer" = [])), request_body = SqlRequest,
    responses((status = 200, body = SqlAnswer), (status = 400, body = ProblemBody), (status = 504, body = ProblemBody)))]
pub(crate) async fn run(
    State(state): State<Shared>,
    caller: Caller,
    Body(request): Body<SqlRequest>,
) -> Result<Json<SqlAnswer>, Problem> {
    let rows_max = parameter::limit("rows_max", request.rows_max, ROWS_DEFAULT, ROWS_MAX)?;
    let query = request.query.trim().trim_end_matches(';');
    if query.is_empty() {
        return Err(Problem::field("query", "is empty"));
    }
    if query.len() > QUERY_BYTES_MAX {
        return Err(Problem::field(
            "query",
            format!("is longer than {QUERY_BYTES_MAX} bytes"),
        ));
    }
    let began = Instant::now();
    let answer = state.answer(&caller, query, rows_max).await?;
    let elapsed_ms = began.elapsed().as_secs_f64() * 1_000.0;
    let columns = answer
        .batches
        .first()
        .map(|batch| batch.schema())
        .map_or_else(Vec::new, |schema| {
            let column = |field: &arrow::datatypes::FieldRef| SqlColumn {
                name: field.name().clone(),
                kind: json::type_name(field.data_type()),
            };
            schema.fields().iter().map(column).collect()
        });
    let rows: Vec<Vec<Value>> = answer.batches.iter().flat_map(json::arrays).collect();
    Ok(Json(SqlAnswer {
        columns,
        rows,
        truncated: answer.truncated,
        gaps: answer.gaps,
        elapsed_ms: (elapsed_ms * 1_000.0).round() / 1_000.0,
    }))
}
