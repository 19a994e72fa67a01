//! What every request passes and every answer carries: an id, the caller, the rate limit, the security headers.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::{Caller, bearer};
use crate::basic;
use crate::limit::Allowance;
use crate::problem::{Code, Problem};
use crate::routes::prometheus::Own;
use crate::state::{Remote, Shared};

const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'; \
    connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const FIXED: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=()",
    ),
];

/// Outermost of the handlers' layers.
pub(crate) async fn around(State(state): State<Shared>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let request_id = uuid::Uuid::now_v7().simple().to_string();
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let caller = match bearer(request.headers()) {
        Some(token) => state.sessions.caller(token).await.map_err(Problem::from),
        None => {
            let remote = request.extensions().get::<Remote>().copied();
            basic::caller(&state, path.as_deref(), request.headers().clone(), remote).await
        }
    };
    let (mut response, allowance) = match caller {
        Err(problem) => (problem.into_response(), None),
        Ok(caller) => {
            let allowance = state.limits.take(&bucket(caller.as_ref(), &request), began);
            let response = if allowance.allowed {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                next.run(request).await
            } else {
                metrics::counter!(crate::metrics::REFUSED, "reason" => "rate_limited").increment(1);
                let detail = format!(
                    "too many requests; the next is allowed in {} s",
                    allowance.retry_s
                );
                Problem::new(Code::RateLimited, detail)
                    .retry_after(allowance.retry_s)
                    .into_response()
            };
            (response, Some(allowance))
        }
    };
    response = complete(response, &request_id);
    decorate(&mut response, &request_id, allowance);
    let route = path.unwrap_or_else(|| "dashboard".to_owned());
    let status = response.status().as_str().to_owned();
    metrics::counter!(crate::metrics::REQUESTS, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!(crate::metrics::DURATION, "route" => route).record(began.elapsed().as_secs_f64());
    response
}

/// Callers share a bucket by user; who is nobody, by address.
fn bucket(caller: Option<&Caller>, request: &Request) -> String {
    match (caller, request.extensions().get::<Remote>()) {
        (Some(caller), _) => format!("user:{}", caller.user),
        (None, Some(Remote(address))) => format!("address:{}", address.ip()),
        (None, None) => "address:unknown".to_owned(),
    }
}

/// Puts the id of the request into a problem, and makes problems of the framework's own refusals.
fn complete(mut response: Response, request_id: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let retry = response.headers_mut().remove(header::RETRY_AFTER);
        let mut complete = problem.with_instance(request_id).into_response();
        complete.extensions_mut().remove::<Problem>();
        if let Some(retry) = retry {
            complete.headers_mut().insert(header::RETRY_AFTER, retry);
        }
        return complete;
    }
    if response.extensions().get::<Own>().is_some() {
        return response;
    }
    let code = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Code::BadRequest
        }
        _ => return response,
    };
    let detail = match code {
        Code::MethodNotAllowed => "this route has no such method",
        Code::TooLarge => "the body is longer than 256 KiB",
        _ => "the request cannot be read: see the contract of this route in /api/v1/openapi.json",
    };
    let allow = response.headers_mut().remove(header::ALLOW);
    let mut problem = Problem::new(code, detail)
        .with_instance(request_id)
        .into_response();
    problem.extensions_mut().remove::<Problem>();
    if let Some(allow) = allow {
        problem.headers_mut().insert(header::ALLOW, allow);
    }
    problem
}

fn decorate(response: &mut Response<Body>, request_id: &str, allowance: Option<Allowance>) {
    let api = response.headers().get(header::CACHE_CONTROL).is_none();
    let headers = response.headers_mut();
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if api {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", value);
    }
    if let Some(allowance) = allowance {
        headers.insert("ratelimit-limit", HeaderValue::from(allowance.limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(allowance.remaining));
        headers.insert("ratelimit-reset", HeaderValue::from(allowance.reset_s));
    }
}
