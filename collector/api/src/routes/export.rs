//! Facts for others: where they are sent, and files to take along. `docs/specs/export.md` is the contract.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use fleetmend_event::{HostId, TimeMicros};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::auth::{Admin, Caller};
use crate::exports::{ParquetWanted, RecordsWanted};
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::state::Shared;

const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 5_000;
const NEXT_CURSOR: HeaderName = HeaderName::from_static("fleetmend-next-cursor");
const MORE: HeaderName = HeaderName::from_static("fleetmend-more");

#[derive(Serialize, ToSchema)]
pub(crate) struct Targets {
    /// Name, kind, how each signal stands, and what was left out.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
}

#[utoipa::path(get, path = "/export/targets", tag = "export", security(("bearer" = [])),
    responses((status = 200, body = Targets)))]
pub(crate) async fn targets(State(state): State<Shared>, caller: Caller) -> Result<Json<Targets>, Problem> {
    let mut items = state.exports.targets().await?;
    if !caller.scope.is_all() {
        items.iter_mut().for_each(hide_hosts);
    }
    Ok(Json(Targets { items }))
}

/// Takes away what may name hosts: what was left out, and what a target says of the series or rows that it refused.
fn hide_hosts(target: &mut Value) {
    if let Some(skips) = target.get_mut("skips") {
        *skips = Value::Array(Vec::new());
    }
    let signals = target.get_mut("signals").and_then(Value::as_array_mut);
    for signal in signals.into_iter().flatten() {
        for name in ["last_error", "last_refusal"] {
            if let Some(said) = signal.get_mut(name) {
                *said = Value::Null;
            }
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Tested {
    /// Whether the target took it.
    accepted: bool,
    /// What it answered, otherwise.
    reason: String,
}

#[utoipa::path(post, path = "/export/targets/{name}/test", tag = "admin", security(("bearer" = [])),
    params(("name" = String, Path)),
    responses((status = 200, body = Tested), (status = 404, body = ProblemBody)))]
pub(crate) async fn test(
    State(state): State<Shared>,
    _: Admin,
    Path(name): Path<String>,
) -> Result<Json<Tested>, Problem> {
    let outcome = state.exports.test(&name).await?;
    Ok(Json(Tested {
        accepted: outcome.get("accepted").and_then(Value::as_bool).unwrap_or(false),
        reason: outcome
            .get("reason")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecordParameters {
    /// `ecs` or `ocsf`.
    format: String,
    table: String,
    host: Option<String>,
    /// Stored since then; an hour ago when left out.
    from: Option<String>,
    /// Stored until then.
    to: Option<String>,
    /// `fleetmend-next-cursor` of an answer before.
    cursor: Option<String>,
    /// 1 to 5000, default 1000.
    limit: Option<usize>,
}

#[utoipa::path(get, path = "/export/records", tag = "export", security(("bearer" = [])), params(RecordParameters),
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 400, body = ProblemBody)))]
pub(crate) async fn records(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<RecordParameters>,
) -> Result<Response, Problem> {
    let now = TimeMicros::now();
    let table = parameter::table("table", &parameters.table)?;
    if table == "metrics" {
        return Err(Problem::field(
            "table",
            "is metrics, whose samples are no records",
        ));
    }
    if !["ecs", "ocsf"].contains(&parameters.format.as_str()) {
        return Err(Problem::field("format", "is neither ecs nor ocsf"));
    }
    let answer = state
        .exports
        .records(RecordsWanted {
            format: parameters.format,
            table,
            host: parameter::parse_optional("host", parameters.host.as_deref())?,
            hosts: caller.scope.clone(),
            from: parameter::time("from", parameters.from.as_deref(), "-1h", now)?,
            to: parameter::time("to", parameters.to.as_deref(), "now", now)?,
            cursor: parameters.cursor,
            limit: parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?,
        })
        .await?;
    let mut lines = String::new();
    for record in &answer.records {
        lines.push_str(&record.to_string());
        lines.push('\n');
    }
    let mut response = lines.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(
        MORE,
        HeaderValue::from_static(if answer.more { "true" } else { "false" }),
    );
    if let Ok(cursor) = HeaderValue::from_str(&answer.next_cursor) {
        headers.insert(NEXT_CURSOR, cursor);
    }
    Ok(response)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParquetParameters {
    table: String,
    host: Option<String>,
    /// From then, by the hosts' clocks; an hour ago when left out.
    from: Option<String>,
    /// Until then, itself left out.
    to: Option<String>,
}

#[utoipa::path(get, path = "/export/parquet", tag = "export", security(("bearer" = [])), params(ParquetParameters),
    responses((status = 200, content_type = "application/vnd.apache.parquet", body = Vec<u8>),
        (status = 400, body = ProblemBody)))]
pub(crate) async fn parquet(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<ParquetParameters>,
) -> Result<Response, Problem> {
    let now = TimeMicros::now();
    let table = parameter::table("table", &parameters.table)?;
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let from = parameter::time("from", parameters.from.as_deref(), "-1h", now)?;
    let to = parameter::time("to", parameters.to.as_deref(), "now", now)?;
    if from >= to {
        return Err(Problem::field("from", "has to be before to"));
    }
    let wanted = ParquetWanted {
        table,
        host,
        hosts: caller.scope.clone(),
        from,
        to,
    };
    let mut pieces = ReceiverStream::new(state.exports.parquet(wanted));
    // What fails before the first piece is a problem as everywhere; later the file breaks off, and has no footer.
    let first = match pieces.next().await {
        Some(first) => first?,
        None => axum::body::Bytes::new(),
    };
    let rest = futures::stream::iter([Ok(first)]).chain(pieces);
    let file = format!("attachment; filename=\"{table}.parquet\"");
    let mut response = Response::new(Body::from_stream(rest));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/vnd.apache.parquet");
    headers.insert(CONTENT_TYPE, kind);
    if let Ok(file) = HeaderValue::from_str(&file) {
        headers.insert(CONTENT_DISPOSITION, file);
    }
    Ok(response)
}
