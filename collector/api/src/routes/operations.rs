//! Health, readiness, metrics, and the description of the API.

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::problem::{Code, Problem};
use crate::state::{Remote, Shared};

#[utoipa::path(get, path = "/openapi.json", tag = "description", responses((status = 200, body = Object)))]
pub(crate) async fn openapi(State(state): State<Shared>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        state.openapi.clone(),
    )
        .into_response()
}

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(state): State<Shared>) -> Response {
    let conditions = state.operations.readiness();
    let ready = conditions.iter().all(|(_, reason)| reason.is_none());
    let shown: Map<String, Value> = conditions
        .into_iter()
        .map(|(name, reason)| {
            (
                name.to_owned(),
                Value::from(reason.unwrap_or_else(|| "ready".to_owned())),
            )
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": ready, "conditions": shown }))).into_response()
}

/// Only for this machine: what runs where is nobody else's business.
pub(crate) async fn metrics(State(state): State<Shared>, remote: Option<Extension<Remote>>) -> Response {
    if remote.is_some_and(|Extension(Remote(address))| !address.ip().is_loopback()) {
        return Problem::new(Code::Forbidden, "metrics are shown on loopback only").into_response();
    }
    let text = state.operations.metrics_text();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
