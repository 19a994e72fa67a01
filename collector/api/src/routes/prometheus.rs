//! Prometheus' HTTP API, below `/prometheus/api/v1` and, where nothing of ours stands there, below `/api/v1`.
//!
//! Answers and errors are Prometheus' own: `{"status":"error","errorType":…,"error":…}`, not problems. Only what a
//! request is refused for before its handler (no session, too many requests, a body too long) is a problem.

mod answer;
mod parameter;
mod rules;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::response::Response;
use fleetmend_event::TimeMicros;
use serde_json::{Map, Value, json};

use crate::auth::Caller;
use crate::promql::{PromBounds, PromSelection};
use crate::state::Shared;

pub(crate) use answer::Own;
use answer::{Fault, labels_json, ok, ok_list};
use parameter::Form;
pub(crate) use rules::{__path_alerts, __path_rules, alerts, rules};

/// Release of Prometheus whose API this is; clients choose by it what they ask for.
const API_OF: &str = "3.5.0";

type Answer = Result<Response, Fault>;

/// `match[]`, `start`, `end`, `limit`, or `None` where a selector is needed and missing.
fn selection(caller: &Caller, form: &Form, needs_selector: bool) -> Result<PromSelection, Fault> {
    let selectors = form.all("match[]");
    if needs_selector && selectors.is_empty() {
        return Err(Fault::bad_data("no match[] parameter provided"));
    }
    let start_ms = form.time("start")?.unwrap_or(parameter::EARLIEST_MS);
    let end_ms = form.time("end")?.unwrap_or(parameter::LATEST_MS);
    if end_ms < start_ms {
        return Err(Fault::bad_parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    Ok(PromSelection {
        hosts: caller.scope.clone(),
        selectors,
        start_ms,
        end_ms,
        limit: form.limit()?,
    })
}

fn bounds(state: &Shared, caller: &Caller, form: &Form) -> Result<PromBounds, Fault> {
    Ok(PromBounds {
        hosts: caller.scope.clone(),
        timeout: form.duration(state, "timeout")?,
        lookback: form
            .duration(state, "lookback_delta")?
            .filter(|delta| !delta.is_zero()),
    })
}

#[utoipa::path(get, path = "/query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("query" = String, Query), ("time" = Option<String>, Query), ("timeout" = Option<String>, Query),
        ("limit" = Option<usize>, Query), ("lookback_delta" = Option<String>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 503, body = Object)))]
pub(crate) async fn query(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let limit = form.limit()?;
    let time_ms = form.time("time")?.unwrap_or_else(now_ms);
    let bounds = bounds(&state, &caller, &form)?;
    let answer = state.promql.instant(form.one("query"), time_ms, bounds).await?;
    Ok(answer::query(answer, limit))
}

#[utoipa::path(post, path = "/query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn query_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    query(state, caller, form).await
}

#[utoipa::path(get, path = "/query_range", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("query" = String, Query), ("start" = String, Query), ("end" = String, Query), ("step" = String, Query),
        ("timeout" = Option<String>, Query), ("limit" = Option<usize>, Query),
        ("lookback_delta" = Option<String>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object), (status = 422, body = Object),
        (status = 503, body = Object)))]
pub(crate) async fn query_range(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let limit = form.limit()?;
    let start_ms = form.needed_time("start")?;
    let end_ms = form.needed_time("end")?;
    if end_ms < start_ms {
        return Err(Fault::bad_parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    let step_ms = form.needed_duration_ms(&state, "step")?;
    if step_ms <= 0 {
        return Err(Fault::bad_parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    if (end_ms - start_ms) / step_ms > 11_000 {
        return Err(Fault::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let bounds = bounds(&state, &caller, &form)?;
    let answer = state
        .promql
        .range(form.one("query"), start_ms, end_ms, step_ms, bounds)
        .await?;
    Ok(answer::query(answer, limit))
}

#[utoipa::path(post, path = "/query_range", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn query_range_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    query_range(state, caller, form).await
}

#[utoipa::path(get, path = "/series", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("match[]" = Vec<String>, Query), ("start" = Option<String>, Query), ("end" = Option<String>, Query),
        ("limit" = Option<usize>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn series(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let list = state.promql.series(selection(&caller, &form, true)?).await?;
    let items = list.items.iter().map(labels_json).collect();
    Ok(ok_list(items, list.warnings))
}

#[utoipa::path(post, path = "/series", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn series_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    series(state, caller, form).await
}

#[utoipa::path(get, path = "/labels", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("match[]" = Option<Vec<String>>, Query), ("start" = Option<String>, Query),
        ("end" = Option<String>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn labels(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let list = state
        .promql
        .label_names(selection(&caller, &form, false)?)
        .await?;
    Ok(ok_list(
        list.items.into_iter().map(Value::from).collect(),
        list.warnings,
    ))
}

#[utoipa::path(post, path = "/labels", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn labels_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    labels(state, caller, form).await
}

#[utoipa::path(get, path = "/label/{name}/values", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("name" = String, Path), ("match[]" = Option<Vec<String>>, Query), ("start" = Option<String>, Query),
        ("end" = Option<String>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn label_values(
    State(state): State<Shared>,
    caller: Caller,
    Path(name): Path<String>,
    form: Form,
) -> Answer {
    let name = parameter::label_name(&name)?;
    let list = state
        .promql
        .label_values(&name, selection(&caller, &form, false)?)
        .await?;
    Ok(ok_list(
        list.items.into_iter().map(Value::from).collect(),
        list.warnings,
    ))
}

#[utoipa::path(get, path = "/metadata", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("metric" = Option<String>, Query), ("limit" = Option<usize>, Query),
        ("limit_per_metric" = Option<usize>, Query)),
    responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn metadata(State(state): State<Shared>, caller: Caller, form: Form) -> Answer {
    let (wanted, limit) = (form.one("metric"), form.limit()?);
    let mut known = Map::new();
    for metric in state.promql.metadata(&caller.scope).await? {
        if !wanted.is_empty() && metric.name != wanted {
            continue;
        }
        let entry = json!({ "type": metric.kind, "help": metric.help, "unit": metric.unit });
        let full = limit > 0 && known.len() >= limit;
        match known.get_mut(&metric.name).and_then(Value::as_array_mut) {
            Some(entries) => entries.push(entry),
            None if full => {}
            None => {
                known.insert(metric.name, json!([entry]));
            }
        }
    }
    Ok(ok(Value::Object(known)))
}

#[utoipa::path(get, path = "/status/buildinfo", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    responses((status = 200, body = Object)))]
pub(crate) async fn build_info(_: Caller) -> Answer {
    Ok(ok(json!({
        "version": API_OF,
        "revision": concat!("fleetmend-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
        "application": "Fleetmend",
    })))
}

#[utoipa::path(get, path = "/query_exemplars", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("query" = String, Query), ("start" = String, Query), ("end" = String, Query)),
    responses((status = 200, body = Object)))]
pub(crate) async fn exemplars(State(state): State<Shared>, _: Caller, form: Form) -> Answer {
    form.time("start")?;
    form.time("end")?;
    // Agents send none; a query that cannot be understood is refused all the same.
    state.promql.format(form.one("query")).await?;
    Ok(ok(json!([])))
}

#[utoipa::path(post, path = "/query_exemplars", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn exemplars_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    exemplars(state, caller, form).await
}

#[utoipa::path(get, path = "/format_query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("query" = String, Query)), responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn format_query(State(state): State<Shared>, _: Caller, form: Form) -> Answer {
    Ok(ok(Value::from(state.promql.format(form.one("query")).await?)))
}

#[utoipa::path(post, path = "/format_query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn format_query_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    format_query(state, caller, form).await
}

#[utoipa::path(get, path = "/parse_query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    params(("query" = String, Query)), responses((status = 200, body = Object), (status = 400, body = Object)))]
pub(crate) async fn parse_query(State(state): State<Shared>, _: Caller, form: Form) -> Answer {
    Ok(ok(state.promql.tree(form.one("query")).await?))
}

#[utoipa::path(post, path = "/parse_query", tag = "prometheus", security(("bearer" = []), ("basic" = [])),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Object)))]
pub(crate) async fn parse_query_posted(state: State<Shared>, caller: Caller, form: Form) -> Answer {
    parse_query(state, caller, form).await
}

fn labels_of_list(pairs: &[(String, String)]) -> Value {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn now_ms() -> i64 {
    TimeMicros::now().0.div_euclid(1_000)
}

/// A JSON body that the outer layers leave as it is.
fn own(status: axum::http::StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        axum::http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response.extensions_mut().insert(Own);
    response
}
