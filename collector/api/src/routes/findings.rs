//! Findings as they stand, and one with everything that belongs to it.

use axum::Json;
use axum::extract::{Path, State};
use fleetmend_event::table::{FindingKind, FindingState, Severity};
use fleetmend_event::{FindingId, HostId, TimeMicros};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::actions::Action;
use super::alerts::Alert;
use super::extract::{Parameters, host_of};
use super::hosts::objects;
use crate::auth::Caller;
use crate::backend::AlertFilter;
use crate::page::{Cursor, LIMIT_DEFAULT, LIMIT_MAX, Page, cut};
use crate::parameter;
use crate::problem::{Code, Problem, ProblemBody};
use crate::query::{Conditions, cursor_of, latest, text, time, time_of};
use crate::state::Shared;

const HISTORY_MAX: usize = 500;
const ALERTS_MAX: usize = 50;
const FROM_DEFAULT: &str = "-30d";

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct FindingParameters {
    host: Option<String>,
    /// `open` or `resolved`.
    state: Option<String>,
    /// The least wanted.
    severity: Option<String>,
    kind: Option<String>,
    rule: Option<String>,
    /// Least time of the last change, default `-30d`.
    from: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct FindingDetail {
    #[schema(value_type = Object)]
    finding: Value,
    #[schema(value_type = Vec<Object>)]
    history: Vec<Value>,
    actions: Vec<Action>,
    alerts: Vec<Alert>,
    #[schema(value_type = Vec<Object>)]
    gaps: Vec<Value>,
}

#[utoipa::path(get, path = "/findings", tag = "findings", security(("bearer" = [])), params(FindingParameters),
    responses((status = 200, body = Page), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<FindingParameters>,
) -> Result<Json<Page>, Problem> {
    let now = TimeMicros::now();
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let wanted: Option<FindingState> = parameter::parse_optional("state", parameters.state.as_deref())?;
    let severity: Option<Severity> = parameter::parse_optional("severity", parameters.severity.as_deref())?;
    let kind: Option<FindingKind> = parameter::parse_optional("kind", parameters.kind.as_deref())?;
    let from = parameter::time("from", parameters.from.as_deref(), FROM_DEFAULT, now)?;
    let limit = parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let cursor = Cursor::decode(parameters.cursor.as_deref())?;
    let rule = parameters.rule.filter(|rule| !rule.is_empty());

    let before = Conditions::default()
        .host(host)
        .and(format!("time >= {}", time(from)));
    // What a finding is changes with its rows: the filters look at the last one only.
    let after = Conditions::default()
        .maybe(wanted.map(|word| format!("state = {}", text(word.as_str()))))
        .maybe(severity.map(at_least))
        .maybe(kind.map(|word| format!("kind = {}", text(word.as_str()))))
        .maybe(rule.map(|rule| format!("rule = {}", text(&rule))))
        .after(cursor.as_ref(), "time", "finding_id");
    let last = latest("findings", "host_id, finding_id", &before);
    let query = format!(
        "SELECT * FROM ({last}) WHERE {after} ORDER BY time DESC, finding_id DESC LIMIT {}",
        limit + 1
    );
    let (rows, gaps) = tokio::try_join!(
        state.rows(&caller, &query, limit + 1),
        state.gaps(&caller, &["findings"], host, from, now)
    )?;
    let (rows, next_cursor) = cut(rows, limit, |row| cursor_of(row, "time", "finding_id"));
    Ok(Json(Page {
        items: objects(rows),
        next_cursor,
        gaps: Some(gaps),
    }))
}

/// Severities from this one on, as a condition.
fn at_least(least: Severity) -> String {
    let words = Severity::ALL
        .iter()
        .filter(|word| **word >= least)
        .map(|word| text(word.as_str()));
    format!("severity IN ({})", words.collect::<Vec<_>>().join(", "))
}

#[utoipa::path(get, path = "/findings/{host}/{finding}", tag = "findings", security(("bearer" = [])),
    params(("host" = String, Path), ("finding" = String, Path)),
    responses((status = 200, body = FindingDetail), (status = 404, body = ProblemBody)))]
pub(crate) async fn one(
    State(state): State<Shared>,
    caller: Caller,
    Path((host, finding)): Path<(String, String)>,
) -> Result<Json<FindingDetail>, Problem> {
    let host = host_of(&host)?;
    let none = || Problem::new(Code::NotFound, format!("the host has no finding {finding}"));
    let id: FindingId = finding.parse().map_err(|_| none())?;
    let of_finding = Conditions::default()
        .host(Some(host))
        .and(format!("finding_id = {}", text(&id.to_string())));
    let query = format!(
        "SELECT * FROM (SELECT * FROM findings WHERE {of_finding} ORDER BY time DESC, ingested_at DESC LIMIT {HISTORY_MAX}) \
         ORDER BY time, ingested_at"
    );
    let history = state.rows(&caller, &query, HISTORY_MAX).await?;
    let last = history.last().cloned().ok_or_else(none)?;
    let from = time_of(&last, "first_time").unwrap_or_default();
    let to = time_of(&last, "time").unwrap_or_else(TimeMicros::now);
    let filter = AlertFilter {
        finding_id: Some(id),
        host_id: Some(host),
        limit: ALERTS_MAX,
        ..AlertFilter::default()
    };
    let (gaps, actions, alerts) = tokio::join!(
        state.gaps(&caller, &["findings", "actions"], Some(host), from, to),
        state.actions_of(&caller, host, id),
        state.alerts.alerts(filter),
    );
    let alerts = alerts?.into_iter().map(Alert::from).collect();
    Ok(Json(FindingDetail {
        finding: Value::Object(last),
        history: objects(history),
        actions: actions?,
        alerts,
        gaps: gaps?,
    }))
}
