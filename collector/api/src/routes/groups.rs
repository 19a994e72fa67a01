//! Groups of hosts, and which of them a user may see.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fleetmend_event::HostId;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::admin::{From, ObjectList, order};
use super::extract::Body;
use crate::auth::Admin;
use crate::parameter;
use crate::problem::{Problem, ProblemBody};
use crate::state::Shared;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupRequest {
    /// Ids of the hosts; exactly these are in the group from now on. At most 5000.
    hosts: Vec<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserGroupsRequest {
    /// Names of groups: the user sees their hosts only. `null`: the user sees every host.
    groups: Option<Vec<String>>,
}

#[utoipa::path(get, path = "/groups", tag = "admin", security(("bearer" = [])),
    responses((status = 200, body = ObjectList), (status = 403, body = ProblemBody)))]
pub(crate) async fn list(State(state): State<Shared>, _: Admin) -> Result<Json<ObjectList>, Problem> {
    let groups = state.groups.list().await?;
    Ok(Json(ObjectList::of(groups.into_iter().map(|group| json!(group)))))
}

#[utoipa::path(put, path = "/groups/{name}", tag = "admin", security(("bearer" = [])),
    params(("name" = String, Path)), request_body = GroupRequest,
    responses((status = 204), (status = 400, body = ProblemBody), (status = 403, body = ProblemBody)))]
pub(crate) async fn set(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(name): Path<String>,
    Body(request): Body<GroupRequest>,
) -> Result<StatusCode, Problem> {
    let hosts: Vec<HostId> = request
        .hosts
        .iter()
        .map(|host| parameter::parse("hosts", host))
        .collect::<Result<_, _>>()?;
    let detail = format!("{} hosts", hosts.len());
    state
        .carry_out(order(&admin, remote, "set-group", &name, &detail), async {
            Ok(state.groups.set(&admin.0.user, &name, &hosts).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(delete, path = "/groups/{name}", tag = "admin", security(("bearer" = [])),
    params(("name" = String, Path)), responses((status = 204), (status = 404, body = ProblemBody)))]
pub(crate) async fn remove(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let order = order(&admin, remote, "remove-group", &name, "");
    state
        .carry_out_on(order, "group", Box::pin(state.groups.remove(&name)))
        .await
}

#[utoipa::path(put, path = "/users/{name}/groups", tag = "admin", security(("bearer" = [])),
    params(("name" = String, Path)), request_body = UserGroupsRequest,
    responses((status = 204), (status = 400, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(crate) async fn give(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(name): Path<String>,
    Body(request): Body<UserGroupsRequest>,
) -> Result<StatusCode, Problem> {
    let detail = shown(request.groups.as_deref());
    let order = order(&admin, remote, "give-groups", &name, &detail);
    let given = Box::pin(state.groups.give(&name, request.groups.as_deref()));
    state.carry_out_on(order, "user", given).await
}

/// Groups in the words of the audit trail.
pub(crate) fn shown(groups: Option<&[String]>) -> String {
    groups.map_or_else(
        || "every host".to_owned(),
        |groups| format!("groups: {}", groups.join(", ")),
    )
}
