//! Bodies and parameters whose refusals are problems with the reason in them.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use fleetmend_event::HostId;
use serde::de::DeserializeOwned;

use crate::problem::{Code, Problem};

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let refused = |rejection: JsonRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::TooLarge, "the body is longer than 256 KiB"),
            _ => Problem::new(Code::BadRequest, rejection.body_text()),
        };
        axum::Json::from_request(request, state)
            .await
            .map(|axum::Json(value)| Self(value))
            .map_err(refused)
    }
}

/// The query parameters.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refused = |rejection: QueryRejection| Problem::new(Code::BadRequest, rejection.body_text());
        let parsed = axum::extract::Query::from_request_parts(parts, state).await;
        parsed
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(refused)
    }
}

/// The host of a path. What is no id is no host either.
pub(crate) fn host_of(text: &str) -> Result<HostId, Problem> {
    text.parse().map_err(|_| Problem::no_host(text))
}
