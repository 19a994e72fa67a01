//! Alerts and what became of their messages.

use axum::Json;
use axum::extract::State;
use fleetmend_event::{HostScope, TimeMicros};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use crate::auth::Caller;
use crate::backend::{AlertFilter, AlertView, BackendError, DeliveryView};
use crate::page::{Cursor, LIMIT_DEFAULT, LIMIT_MAX, cut};
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::state::{ApiState, Shared};

/// Pages of alerts that one request of a scoped user looks through.
const SCOPED_PAGES_MAX: usize = 40;
const STATES: [&str; 7] = [
    "pending", "waiting", "firing", "resolved", "healed", "late", "unknown",
];

/// An alert as the contract has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alert {
    alert_id: String,
    rule: String,
    state: String,
    severity: String,
    host_id: Option<String>,
    finding_id: Option<String>,
    action_id: Option<String>,
    subject: String,
    title: String,
    summary: String,
    value: Option<f64>,
    started_at: String,
    fired_at: Option<String>,
    resolved_at: Option<String>,
    changed_at: String,
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Delivery {
    delivery_id: String,
    receiver: String,
    event: String,
    state: String,
    attempts: u32,
    created_at: String,
    next_attempt_at: Option<String>,
    delivered_at: Option<String>,
    last_status: Option<u16>,
    last_error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AlertPage {
    items: Vec<Alert>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertParameters {
    state: Option<String>,
    host: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[utoipa::path(get, path = "/alerts", tag = "alerts", security(("bearer" = [])), params(AlertParameters),
    responses((status = 200, body = AlertPage), (status = 400, body = ProblemBody)))]
pub(crate) async fn list(
    State(state): State<Shared>,
    caller: Caller,
    Parameters(parameters): Parameters<AlertParameters>,
) -> Result<Json<AlertPage>, Problem> {
    let wanted = parameters.state.filter(|state| !state.is_empty());
    if wanted.as_deref().is_some_and(|state| !STATES.contains(&state)) {
        return Err(Problem::field(
            "state",
            format!("has to be one of {}", STATES.join(", ")),
        ));
    }
    let limit = parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = AlertFilter {
        state: wanted,
        host_id: parameter::parse_optional("host", parameters.host.as_deref())?,
        finding_id: None,
        after: Cursor::decode(parameters.cursor.as_deref())?.map(|cursor| (cursor.time, cursor.id)),
        limit: limit + 1,
    };
    let (views, looked_to) = state.alerts_within(&caller.scope, filter).await?;
    let (views, next_cursor) = cut(views, limit, |view| Some(place_of(view)));
    Ok(Json(AlertPage {
        items: views.into_iter().map(Alert::from).collect(),
        next_cursor: next_cursor.or_else(|| looked_to.map(|place| place.encode())),
    }))
}

fn place_of(view: &AlertView) -> Cursor {
    Cursor {
        time: view.changed_at,
        id: view.alert_id.clone(),
    }
}

impl ApiState {
    /// Alerts about hosts of this scope, as many as the filter says, and how far was looked where neither so many
    /// were found nor the list ended. An alert about no host may be about any.
    async fn alerts_within(
        &self,
        scope: &HostScope,
        mut filter: AlertFilter,
    ) -> Result<(Vec<AlertView>, Option<Cursor>), BackendError> {
        let wanted = filter.limit;
        let mut found = Vec::new();
        let mut looked_to = None;
        // What is hidden leaves room, which the next ones fill; the list is looked through so far at most.
        for _ in 0..SCOPED_PAGES_MAX {
            let views = self.alerts.alerts(filter.clone()).await?;
            looked_to = views.last().map(place_of);
            let is_end = views.len() < filter.limit;
            let seen = |view: &AlertView| scope.is_all() || view.host_id.is_some_and(|host| scope.sees(host));
            found.extend(views.into_iter().filter(seen));
            if is_end || found.len() >= wanted {
                looked_to = None;
                break;
            }
            filter.after = looked_to.clone().map(|place| (place.time, place.id));
        }
        found.truncate(wanted);
        Ok((found, looked_to))
    }
}

fn shown(time: Option<TimeMicros>) -> Option<String> {
    time.map(|time| time.to_string())
}

impl From<AlertView> for Alert {
    fn from(view: AlertView) -> Self {
        Self {
            alert_id: view.alert_id,
            rule: view.rule,
            state: view.state,
            severity: view.severity,
            host_id: view.host_id.map(|id| id.to_string()),
            finding_id: view.finding_id.map(|id| id.to_string()),
            action_id: view.action_id.map(|id| id.to_string()),
            subject: view.subject,
            title: view.title,
            summary: view.summary,
            value: view.value.filter(|value| value.is_finite()),
            started_at: view.started_at.to_string(),
            fired_at: shown(view.fired_at),
            resolved_at: shown(view.resolved_at),
            changed_at: view.changed_at.to_string(),
            deliveries: view.deliveries.into_iter().map(Delivery::from).collect(),
        }
    }
}

impl From<DeliveryView> for Delivery {
    fn from(view: DeliveryView) -> Self {
        Self {
            delivery_id: view.delivery_id,
            receiver: view.receiver,
            event: view.event,
            state: view.state,
            attempts: view.attempts,
            created_at: view.created_at.to_string(),
            next_attempt_at: shown(view.next_attempt_at),
            delivered_at: shown(view.delivered_at),
            last_status: view.last_status,
            last_error: view.last_error,
        }
    }
}
