//! New rows as they become durable, as server-sent events.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use fleetmend_event::{HostId, TimeMicros, tables};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Parameters;
use super::live_stream::{Filter, LiveStream};
use crate::auth::Caller;
use crate::parameter;
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::Shared;

/// Live streams at once.
pub(crate) const LIVE_STREAMS_MAX: usize = 256;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LiveParameters {
    /// Tables with commas; all but `metrics` when left out.
    tables: Option<String>,
    host: Option<String>,
    /// Metric names with commas; all when left out.
    names: Option<String>,
    /// In place of the header `Authorization`.
    ticket: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Ticket {
    ticket: String,
    expires_at: String,
}

#[utoipa::path(post, path = "/live/ticket", tag = "live", security(("bearer" = [])),
    responses((status = 200, body = Ticket), (status = 401, body = ProblemBody)))]
pub(crate) async fn ticket(State(state): State<Shared>, caller: Caller) -> Result<Json<Ticket>, Problem> {
    let given = state.tickets.give(&caller.session_id, TimeMicros::now());
    let (ticket, until) = given
        .ok_or_else(|| Problem::new(Code::RateLimited, "too many tickets wait to be used").retry_after(30))?;
    Ok(Json(Ticket {
        ticket,
        expires_at: until.to_string(),
    }))
}

#[utoipa::path(get, path = "/live", tag = "live", security(("bearer" = [])), params(LiveParameters),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 401, body = ProblemBody)))]
pub(crate) async fn stream(
    State(state): State<Shared>,
    caller: Result<Caller, Problem>,
    Parameters(parameters): Parameters<LiveParameters>,
) -> Result<Response, Problem> {
    let caller = match (caller, &parameters.ticket) {
        (Ok(caller), _) => caller,
        (Err(problem), None) => return Err(problem),
        (Err(problem), Some(ticket)) => {
            let session = state.tickets.take(ticket, TimeMicros::now());
            let caller = match session {
                Some(session) => state.sessions.by_id(&session).await?,
                None => None,
            };
            caller.ok_or(problem)?
        }
    };
    let host: Option<HostId> = parameter::parse_optional("host", parameters.host.as_deref())?;
    let filter = Filter {
        tables: wanted(parameters.tables.as_deref())?,
        host,
        names: split(parameters.names.as_deref()),
    };
    let slot = state.live_slots.clone().try_acquire_owned().map_err(|_| {
        Problem::new(
            Code::RateLimited,
            format!("{LIVE_STREAMS_MAX} live streams are open already"),
        )
        .retry_after(10)
    })?;
    let events = LiveStream::new(state, caller, filter, slot).into_stream();
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

fn split(list: Option<&str>) -> BTreeSet<String> {
    let words = list
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn wanted(list: Option<&str>) -> Result<BTreeSet<&'static str>, Problem> {
    let named = split(list);
    if named.is_empty() {
        let known = tables().iter().map(|table| table.name);
        return Ok(known.filter(|name| *name != "metrics").collect());
    }
    named
        .into_iter()
        .map(|name| parameter::table("tables", &name))
        .collect()
}
