//! SQL that runs, and its end before its time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use crate::audit::AuditEntry;
use crate::auth::Caller;
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::{Remote, Shared};
use crate::users::Role;

/// What the audit trail keeps of a query's text.
const AUDIT_CHARS_MAX: usize = 200;

#[derive(Serialize, ToSchema)]
pub(crate) struct QueryList {
    items: Vec<RunningQuery>,
}

#[derive(Serialize, ToSchema)]
struct RunningQuery {
    id: u64,
    user: String,
    /// The first 500 characters.
    query: String,
    since: String,
    /// `running`, or `waiting` for a turn.
    state: &'static str,
}

/// Viewers have to do with their own queries only: a text may name what they must not see.
fn may_see(caller: &Caller, asker: &str) -> bool {
    caller.role == Role::Admin || caller.user == asker
}

#[utoipa::path(get, path = "/queries", tag = "sql", security(("bearer" = [])),
    responses((status = 200, body = QueryList), (status = 401, body = ProblemBody)))]
pub(crate) async fn list(State(state): State<Shared>, caller: Caller) -> Json<QueryList> {
    let queries = state.sql.queries().into_iter();
    let items = queries
        .filter(|query| may_see(&caller, &query.asker))
        .map(|query| RunningQuery {
            id: query.id,
            user: query.asker.as_ref().to_owned(),
            query: query.text,
            since: query.since.to_string(),
            state: if query.is_waiting { "waiting" } else { "running" },
        });
    Json(QueryList {
        items: items.collect(),
    })
}

#[utoipa::path(delete, path = "/queries/{id}", tag = "sql", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = ProblemBody)))]
pub(crate) async fn cancel(
    State(state): State<Shared>,
    caller: Caller,
    remote: Option<Extension<Remote>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let none = || Problem::new(Code::NotFound, format!("no query {id} runs; it may have ended"));
    let number: u64 = id.parse().map_err(|_| none())?;
    let queries = state.sql.queries();
    let found = queries.iter().find(|query| query.id == number);
    let found = found
        .filter(|query| may_see(&caller, &query.asker))
        .ok_or_else(none)?;
    let text: String = found.text.chars().take(AUDIT_CHARS_MAX).collect();
    let entry = AuditEntry {
        actor: &caller.user,
        action: "cancel-query",
        subject: &found.asker,
        detail: &text,
        remote: remote.map(|Extension(remote)| remote),
    };
    state.audit.allowed(entry).await?;
    if state.sql.cancel(number) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}
