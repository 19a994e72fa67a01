//! Errors as RFC 9457 problems with codes that stay.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::backend::{BackendError, QueryError};
use crate::error::StateError;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A parameter or the body cannot be read.
    BadRequest,
    /// SQL that does not parse, plan or run.
    InvalidQuery,
    /// No token, a wrong or an expired one.
    Unauthenticated,
    /// User or password is wrong.
    WrongCredentials,
    /// A refresh token was used twice.
    RefreshReused,
    /// The role does not suffice.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// It stands against what is there.
    Conflict,
    /// The body is too long.
    TooLarge,
    /// Too many requests.
    RateLimited,
    /// Too many failed logins.
    LoginThrottled,
    /// Our fault.
    Internal,
    /// The store does not answer now.
    Unavailable,
    /// The query took too long.
    QueryTimeout,
    /// Somebody cancelled the query.
    QueryCancelled,
}

impl Code {
    /// The word that is sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::BadRequest => "bad-request",
            Code::InvalidQuery => "invalid-query",
            Code::Unauthenticated => "unauthenticated",
            Code::WrongCredentials => "wrong-credentials",
            Code::RefreshReused => "refresh-reused",
            Code::Forbidden => "forbidden",
            Code::NotFound => "not-found",
            Code::MethodNotAllowed => "method-not-allowed",
            Code::Conflict => "conflict",
            Code::TooLarge => "too-large",
            Code::RateLimited => "rate-limited",
            Code::LoginThrottled => "login-throttled",
            Code::Internal => "internal",
            Code::Unavailable => "unavailable",
            Code::QueryTimeout => "query-timeout",
            Code::QueryCancelled => "query-cancelled",
        }
    }

    /// Its HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Code::BadRequest | Code::InvalidQuery => StatusCode::BAD_REQUEST,
            Code::Unauthenticated | Code::WrongCredentials | Code::RefreshReused => StatusCode::UNAUTHORIZED,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::Conflict | Code::QueryCancelled => StatusCode::CONFLICT,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::RateLimited | Code::LoginThrottled => StatusCode::TOO_MANY_REQUESTS,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::QueryTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// An error on its way to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    detail: String,
    /// Id of the request; the middleware sets it.
    instance: String,
    faults: Vec<FieldFault>,
    retry_after_s: Option<u32>,
}

/// An error as it is sent.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    #[schema(value_type = String, example = "not-found")]
    code: Code,
    detail: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    instance: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    faults: &'a [FieldFault],
}

/// What is wrong with one parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct FieldFault {
    field: &'static str,
    reason: String,
}

impl Problem {
    /// A problem with words for a person.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            instance: String::new(),
            faults: Vec::new(),
            retry_after_s: None,
        }
    }

    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let mut problem = Self::new(Code::BadRequest, format!("{field}: {reason}"));
        problem.faults.push(FieldFault { field, reason });
        problem
    }

    /// What is said to a person.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "the access token is missing, wrong or expired; refresh it or log in again",
        )
    }

    pub(crate) fn no_host(host: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("no host has the id {host}"))
    }

    pub(crate) fn with_instance(mut self, request_id: &str) -> Self {
        request_id.clone_into(&mut self.instance);
        self
    }

    /// An error whose words are for the log, not for the caller.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push_str(": ");
            chain.push_str(&cause.to_string());
            source = cause.source();
        }
        tracing::error!(error = chain, "a request failed");
        Self::new(Code::Internal, "the collector failed at this; its log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = ProblemBody {
            kind: format!("urn:fleetmend:problem:{}", self.code.as_str()),
            title: self.code.as_str().replace('-', " "),
            status: status.as_u16(),
            code: self.code,
            detail: &self.detail,
            instance: &self.instance,
            faults: &self.faults,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"fleetmend\""),
            );
        }
        // The middleware completes it with the id of the request.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let code = match &error {
            QueryError::Invalid(_) => Code::InvalidQuery,
            QueryError::Timeout(_) => Code::QueryTimeout,
            QueryError::Unavailable(_) => Code::Unavailable,
            QueryError::Cancelled => Code::QueryCancelled,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BackendError> for Problem {
    fn from(error: BackendError) -> Self {
        match &error {
            BackendError::NotFound(_) => Self::new(Code::NotFound, error.to_string()),
            BackendError::Invalid(_) => Self::new(Code::BadRequest, error.to_string()),
            BackendError::Failed(_) => Self::internal(&error),
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::UserExists(_) | StateError::LastAdmin(_) => {
                Self::new(Code::Conflict, error.to_string())
            }
            StateError::UserName => Self::field("name", error.to_string()),
            StateError::Group(_) => Self::new(Code::BadRequest, error.to_string()),
            StateError::Password => Self::field("password", error.to_string()),
            StateError::Database { .. } | StateError::Stored { .. } | StateError::Hash(_) => {
                Self::internal(&error)
            }
        }
    }
}
