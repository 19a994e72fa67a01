//! Who calls: a handler takes [`Caller`] or [`Admin`] as an argument, and is not reached without one.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use fleetmend_event::{HostScope, TimeMicros};

use crate::problem::{Code, Problem};
use crate::users::Role;

/// A user with a session that stands.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Name of the user.
    pub user: String,
    /// What the user may do.
    pub role: Role,
    /// Whose facts the user may see. Whatever reads facts for the user takes it.
    pub scope: HostScope,
    /// The session.
    pub(crate) session_id: String,
    /// When the session ends, however often it is refreshed.
    pub session_expires_at: TimeMicros,
}

/// A caller who may do everything.
#[derive(Debug, Clone)]
pub struct Admin(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Caller>()
            .cloned()
            .ok_or_else(Problem::unauthenticated)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        match caller.role {
            Role::Admin => Ok(Self(caller)),
            Role::Viewer => Err(Problem::new(
                Code::Forbidden,
                "this needs the role admin; you are a viewer",
            )),
        }
    }
}

/// The token of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
