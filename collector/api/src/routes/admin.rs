//! What only an admin may do. Every order is written to the audit trail before it is carried out,
//! and once more when it fails.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use fleetmend_event::TimeMicros;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Body, Parameters, host_of};
use super::groups;
use crate::audit::AuditEntry;
use crate::auth::Admin;
use crate::backend::AuditRow;
use crate::error::StateError;
use crate::page::{Cursor, LIMIT_DEFAULT, LIMIT_MAX, Page, cut};
use crate::parameter;
use crate::problem::{Code, Problem, ProblemBody};
use crate::state::{ApiState, Remote, Shared};
use crate::users::Role;

const TOKEN_LIFETIME_DEFAULT_S: u64 = 3_600;
const TOKEN_LIFETIME_MAX_S: u64 = 30 * 24 * 3_600;
const TOKEN_USES_MAX: u32 = 1_000;
const REASON_CHARS_MAX: usize = 500;
/// Entries that may share the microsecond of a cursor.
const AUDIT_TIES: usize = 32;

#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenRequest {
    /// Default 3600, at most 30 days.
    lifetime_s: Option<u64>,
    /// Default 1, at most 1000.
    uses: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct NewToken {
    id: String,
    token: String,
    expires_at: String,
    uses: u32,
}

/// A list of objects.
#[derive(Serialize, ToSchema)]
pub(crate) struct ObjectList {
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
}

impl ObjectList {
    pub(crate) fn of(items: impl Iterator<Item = Value>) -> Self {
        Self {
            items: items.collect(),
        }
    }
}

#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RevokeRequest {
    reason: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserRequest {
    name: String,
    password: String,
    /// `admin` or `viewer`.
    role: String,
    /// Names of groups a viewer sees; every host when left out.
    groups: Option<Vec<String>>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditParameters {
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(crate) type From = Option<Extension<Remote>>;

impl ApiState {
    pub(crate) async fn carry_out<T>(
        &self,
        order: AuditEntry<'_>,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.audit.allowed(order).await?;
        let done = work.await;
        if let Err(problem) = &done {
            let failed = AuditEntry {
                detail: problem.detail(),
                ..order
            };
            // The caller is told of the failure itself.
            if let Err(error) = self.audit.failed(failed).await {
                tracing::error!(%error, action = order.action, "a failed order is not in the audit trail");
            }
        }
        done
    }

    /// Carries out what is about one `what` that may not be there: the order's subject is its name.
    pub(crate) async fn carry_out_on(
        &self,
        order: AuditEntry<'_>,
        what: &str,
        work: impl Future<Output = Result<bool, StateError>>,
    ) -> Result<StatusCode, Problem> {
        let found = async {
            match work.await? {
                true => Ok(StatusCode::NO_CONTENT),
                false => {
                    let detail = format!("there is no {what} {}", order.subject);
                    Err(Problem::new(Code::NotFound, detail))
                }
            }
        };
        self.carry_out(order, found).await
    }
}

pub(crate) fn order<'a>(
    admin: &'a Admin,
    remote: From,
    action: &'a str,
    subject: &'a str,
    detail: &'a str,
) -> AuditEntry<'a> {
    AuditEntry {
        actor: &admin.0.user,
        action,
        subject,
        detail,
        remote: remote.map(|Extension(remote)| remote),
    }
}

#[utoipa::path(post, path = "/enrolment-tokens", tag = "admin", security(("bearer" = [])), request_body = TokenRequest,
    responses((status = 201, body = NewToken), (status = 403, body = ProblemBody)))]
pub(crate) async fn create_token(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<NewToken>), Problem> {
    let lifetime_s = request.lifetime_s.unwrap_or(TOKEN_LIFETIME_DEFAULT_S);
    if !(1..=TOKEN_LIFETIME_MAX_S).contains(&lifetime_s) {
        return Err(Problem::field(
            "lifetime_s",
            format!("has to be 1 to {TOKEN_LIFETIME_MAX_S}"),
        ));
    }
    let uses = request.uses.unwrap_or(1);
    if !(1..=TOKEN_USES_MAX).contains(&uses) {
        return Err(Problem::field("uses", format!("has to be 1 to {TOKEN_USES_MAX}")));
    }
    let detail = format!("for {lifetime_s} s and {uses} hosts");
    let made = state
        .carry_out(
            order(&admin, remote, "create-token", "enrolment", &detail),
            async {
                let lifetime = Duration::from_secs(lifetime_s);
                let made = state.enrolments.create_token(&admin.0.user, lifetime, uses);
                Ok(made.await?)
            },
        )
        .await?;
    let expires_at = made.expires_at.to_string();
    Ok((
        StatusCode::CREATED,
        Json(NewToken {
            id: made.id,
            token: made.token,
            expires_at,
            uses: made.uses,
        }),
    ))
}

#[utoipa::path(get, path = "/enrolment-tokens", tag = "admin", security(("bearer" = [])),
    responses((status = 200, body = ObjectList), (status = 403, body = ProblemBody)))]
pub(crate) async fn tokens(State(state): State<Shared>, _: Admin) -> Result<Json<ObjectList>, Problem> {
    let items = state.enrolments.tokens().await?.into_iter().map(|token| {
        json!({
            "id": token.id, "created_at": token.created_at, "created_by": token.created_by,
            "expires_at": token.expires_at, "uses": token.uses, "uses_left": token.uses_left,
            "revoked": token.revoked,
        })
    });
    Ok(Json(ObjectList {
        items: items.collect(),
    }))
}

#[utoipa::path(delete, path = "/enrolment-tokens/{id}", tag = "admin", security(("bearer" = [])),
    params(("id" = String, Path)), responses((status = 204), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(crate) async fn revoke_token(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    state
        .carry_out(order(&admin, remote, "revoke-token", &id, ""), async {
            Ok(state.enrolments.revoke_token(&admin.0.user, &id).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/hosts/{host}/revoke", tag = "admin", security(("bearer" = [])),
    params(("host" = String, Path)), request_body = RevokeRequest,
    responses((status = 204), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(crate) async fn revoke_host(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(host): Path<String>,
    Body(request): Body<RevokeRequest>,
) -> Result<StatusCode, Problem> {
    let id = host_of(&host)?;
    let (subject, reason) = (id.to_string(), reason_of(request));
    state
        .carry_out(order(&admin, remote, "revoke-host", &subject, &reason), async {
            Ok(state.enrolments.revoke_host(&admin.0.user, id, &reason).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/hosts/{host}/remove", tag = "admin", security(("bearer" = [])),
    params(("host" = String, Path)), request_body = RevokeRequest,
    responses((status = 204), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(crate) async fn remove_host(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(host): Path<String>,
    Body(request): Body<RevokeRequest>,
) -> Result<StatusCode, Problem> {
    let id = host_of(&host)?;
    let (subject, reason) = (id.to_string(), reason_of(request));
    state
        .carry_out(order(&admin, remote, "remove-host", &subject, &reason), async {
            Ok(state.enrolments.remove_host(&admin.0.user, id, &reason).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn reason_of(request: RevokeRequest) -> String {
    let reason = request.reason.unwrap_or_default();
    reason.chars().take(REASON_CHARS_MAX).collect()
}

#[utoipa::path(get, path = "/audit", tag = "admin", security(("bearer" = [])), params(AuditParameters),
    responses((status = 200, body = Page), (status = 403, body = ProblemBody)))]
pub(crate) async fn audit(
    State(state): State<Shared>,
    _: Admin,
    Parameters(parameters): Parameters<AuditParameters>,
) -> Result<Json<Page>, Problem> {
    let limit = parameter::limit("limit", parameters.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let cursor = Cursor::decode(parameters.cursor.as_deref())?;
    let before = cursor
        .as_ref()
        .map_or(TimeMicros(i64::MAX), |cursor| cursor.time.plus_micros(1));
    let wanted = limit + 1 + AUDIT_TIES;
    let mut rows = state.audit.rows(before, wanted).await?;
    rows.extend(state.enrolments.audit(before, wanted).await?);
    rows.sort_by(|a, b| (b.time, &b.id).cmp(&(a.time, &a.id)));
    if let Some(cursor) = &cursor {
        rows.retain(|row| (row.time, &row.id) < (cursor.time, &cursor.id));
    }
    let place = |row: &AuditRow| {
        Some(Cursor {
            time: row.time,
            id: row.id.clone(),
        })
    };
    let (rows, next_cursor) = cut(rows, limit, place);
    let items = rows.into_iter().map(|row| {
        json!({
            "id": row.id, "time": row.time, "actor": row.actor, "action": row.action, "subject": row.subject,
            "outcome": row.outcome, "detail": row.detail, "remote_address": row.remote_address,
        })
    });
    Ok(Json(Page {
        items: items.collect(),
        next_cursor,
        gaps: None,
    }))
}

#[utoipa::path(get, path = "/users", tag = "admin", security(("bearer" = [])),
    responses((status = 200, body = ObjectList), (status = 403, body = ProblemBody)))]
pub(crate) async fn users(State(state): State<Shared>, _: Admin) -> Result<Json<ObjectList>, Problem> {
    let mut items = Vec::new();
    for user in state.accounts.list().await? {
        let groups = state.groups.of_user(&user.name).await?;
        let mut item = json!(user);
        if let Some(object) = item.as_object_mut() {
            object.insert("groups".to_owned(), json!(groups));
        }
        items.push(item);
    }
    Ok(Json(ObjectList { items }))
}

#[utoipa::path(post, path = "/users", tag = "admin", security(("bearer" = [])), request_body = UserRequest,
    responses((status = 201, body = Object), (status = 400, body = ProblemBody), (status = 409, body = ProblemBody)))]
pub(crate) async fn create_user(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Body(request): Body<UserRequest>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let role: Role = parameter::parse("role", &request.role)?;
    let name: String = request.name.chars().take(64).collect();
    let detail = format!("{}, {}", role.as_str(), groups::shown(request.groups.as_deref()));
    let user = state
        .carry_out(order(&admin, remote, "create-user", &name, &detail), async {
            let groups = request.groups.as_deref();
            let made = state
                .accounts
                .create_within(&request.name, &request.password, role, groups);
            Ok(made.await?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(json!(user))))
}

#[utoipa::path(delete, path = "/users/{name}", tag = "admin", security(("bearer" = [])),
    params(("name" = String, Path)), responses((status = 204), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
pub(crate) async fn remove_user(
    State(state): State<Shared>,
    admin: Admin,
    remote: From,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let order = order(&admin, remote, "remove-user", &name, "");
    state
        .carry_out_on(order, "user", Box::pin(state.accounts.remove(&name)))
        .await
}
