//! Logging in, staying in, leaving.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::Body;
use crate::audit::AuditEntry;
use crate::auth::Caller;
use crate::problem::{Code, Problem, ProblemBody};
use crate::sessions::{Granted, Refreshed};
use crate::state::{Remote, Shared};
use crate::throttle::Try;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginRequest {
    user: String,
    password: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshRequest {
    refresh_token: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    access_token: String,
    token_type: &'static str,
    expires_at: String,
    refresh_token: String,
    refresh_expires_at: String,
    user: String,
    role: &'static str,
}

impl From<Granted> for Tokens {
    fn from(granted: Granted) -> Self {
        Self {
            access_token: granted.access_token,
            token_type: "Bearer",
            expires_at: granted.expires_at.to_string(),
            refresh_token: granted.refresh_token,
            refresh_expires_at: granted.refresh_expires_at.to_string(),
            user: granted.user,
            role: granted.role.as_str(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    user: String,
    role: &'static str,
    session_expires_at: String,
    /// Whether no host is hidden from the user.
    sees_all_hosts: bool,
}

#[utoipa::path(post, path = "/login", tag = "session", request_body = LoginRequest,
    responses((status = 200, body = Tokens), (status = 401, body = ProblemBody), (status = 429, body = ProblemBody)))]
pub(crate) async fn login(
    State(state): State<Shared>,
    remote: Option<Extension<Remote>>,
    Body(request): Body<LoginRequest>,
) -> Result<Json<Tokens>, Problem> {
    let remote = remote.map(|Extension(remote)| remote);
    let user: String = request.user.chars().take(64).collect();
    let attempt = Try::new(&user, remote.map(|remote| remote.0.ip()));
    let wait = state.throttle.wait(&attempt, Instant::now());
    if wait > Duration::ZERO {
        metrics::counter!(crate::metrics::LOGINS, "outcome" => "throttled").increment(1);
        let seconds = u32::try_from(wait.as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let detail = format!("too many failed logins; try again in {seconds} s");
        return Err(Problem::new(Code::LoginThrottled, detail).retry_after(seconds));
    }
    let delay = state.throttle.count(&attempt, Instant::now());
    tokio::time::sleep(delay).await;
    let role = state.accounts.check(&user, &request.password).await?;
    let outcome = if role.is_some() { "allowed" } else { "refused" };
    let entry = AuditEntry {
        actor: &user,
        action: "login",
        subject: &user,
        detail: "",
        remote,
    };
    match role {
        Some(_) => state.audit.allowed(entry).await?,
        None => state.audit.refused(entry).await?,
    }
    metrics::counter!(crate::metrics::LOGINS, "outcome" => outcome).increment(1);
    let Some(role) = role else {
        return Err(Problem::new(Code::WrongCredentials, "user or password is wrong"));
    };
    state.throttle.succeed(&attempt);
    state.accounts.note_login(&user).await?;
    Ok(Json(state.sessions.begin(&user, role).await?.into()))
}

#[utoipa::path(post, path = "/refresh", tag = "session", request_body = RefreshRequest,
    responses((status = 200, body = Tokens), (status = 401, body = ProblemBody)))]
pub(crate) async fn refresh(
    State(state): State<Shared>,
    remote: Option<Extension<Remote>>,
    Body(request): Body<RefreshRequest>,
) -> Result<Json<Tokens>, Problem> {
    match state.sessions.refresh(&request.refresh_token).await? {
        Refreshed::Granted(granted) => Ok(Json((*granted).into())),
        Refreshed::Unknown => Err(Problem::new(
            Code::Unauthenticated,
            "the refresh token is wrong or expired; log in again",
        )),
        Refreshed::Reused { user } => {
            let detail = "a refresh token was used twice; the session was ended";
            let remote = remote.map(|Extension(remote)| remote);
            let entry = AuditEntry {
                actor: &user,
                action: "refresh",
                subject: &user,
                detail,
                remote,
            };
            state.audit.refused(entry).await?;
            let detail =
                "this refresh token was used before, so that somebody else may have it; log in again";
            Err(Problem::new(Code::RefreshReused, detail))
        }
    }
}

#[utoipa::path(post, path = "/logout", tag = "session", security(("bearer" = [])),
    responses((status = 204), (status = 401, body = ProblemBody)))]
pub(crate) async fn logout(State(state): State<Shared>, caller: Caller) -> Result<StatusCode, Problem> {
    state.sessions.end(&caller.session_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/me", tag = "session", security(("bearer" = [])),
    responses((status = 200, body = Me), (status = 401, body = ProblemBody)))]
pub(crate) async fn me(caller: Caller) -> Json<Me> {
    let session_expires_at = caller.session_expires_at.to_string();
    Json(Me {
        sees_all_hosts: caller.scope.is_all(),
        user: caller.user,
        role: caller.role.as_str(),
        session_expires_at,
    })
}
