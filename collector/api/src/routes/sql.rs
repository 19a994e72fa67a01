//! SQL as the caller wrote it.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use fleetmend_event::{TimeMicros, tables};
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
const QUERY_BYTES_MAX: usize = 64 * 1_024;
const GAPS_AGE_MAX_MS: i64 = 24 * 3_600_000;

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
    _: Caller,
    Body(request): Body<SqlRequest>,
) -> Result<Json<SqlAnswer>, Problem> {
    let rows_max = parameter::limit("rows_max", request.rows_max, ROWS_DEFAULT, ROWS_MAX)?;
    let query = request.query.trim().trim_end_matches(';');
    if query.is_empty() || query.len() > QUERY_BYTES_MAX {
        return Err(Problem::field(
            "query",
            format!("has to be one query of at most {QUERY_BYTES_MAX} bytes"),
        ));
    }
    let began = Instant::now();
    let batches = state.batches(query, rows_max + 1).await?;
    let elapsed_ms = began.elapsed().as_secs_f64() * 1_000.0;
    let columns = batches
        .first()
        .map(|batch| batch.schema())
        .map_or_else(Vec::new, |schema| {
            let column = |field: &arrow::datatypes::FieldRef| SqlColumn {
                name: field.name().clone(),
                kind: json::type_name(field.data_type()),
            };
            schema.fields().iter().map(column).collect()
        });
    let mut rows: Vec<Vec<Value>> = batches.iter().flat_map(json::arrays).collect();
    let truncated = rows.len() > rows_max;
    rows.truncate(rows_max);
    let named = tables_named(query);
    let gaps = if named.is_empty() {
        Vec::new()
    } else {
        let now = TimeMicros::now();
        state
            .gaps(&named, None, now.plus_millis(-GAPS_AGE_MAX_MS), now)
            .await?
    };
    Ok(Json(SqlAnswer {
        columns,
        rows,
        truncated,
        gaps,
        elapsed_ms: (elapsed_ms * 1_000.0).round() / 1_000.0,
    }))
}

/// Tables whose name stands in the query as a word. A word in a text counts too: a gap too many does no harm.
fn tables_named(query: &str) -> Vec<&'static str> {
    let lower = query.to_lowercase();
    let words: Vec<&str> = lower
        .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
        .collect();
    tables()
        .iter()
        .map(|table| table.name)
        .filter(|name| words.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_a_query_are_found_as_words() {
        assert_eq!(
            tables_named("SELECT * FROM Findings f JOIN actions USING (finding_id)"),
            ["findings", "actions"]
        );
        assert_eq!(tables_named("select 1 as my_findings"), Vec::<&str>::new());
    }
}
