//! Answers as `docs/specs/api.md` has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fleetmend_shutdown::{TaskKind, Tasks};
use serde_json::{Value, json};

pub(crate) const HOST: &str = "018f2b6e-7c1a-4d55-9d0e-0a4d6a7f1c11";
pub(crate) const FINDING: &str = "018f2b6e-7c1a-7d55-9d0e-0a4d6a7f1c22";

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) refreshes: Arc<AtomicUsize>,
    pub(crate) logins: Arc<AtomicUsize>,
    _tasks: Tasks,
}

type Count = Arc<AtomicUsize>;

#[derive(Clone, Default)]
struct Shared {
    refreshes: Count,
    logins: Count,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let shared = Shared::default();
        let (refreshes, logins) = (shared.refreshes.clone(), shared.logins.clone());
        let v1 = Router::new()
            .route("/login", post(login))
            .route("/refresh", post(refresh))
            .route(
                "/me",
                get(|| async { Json(json!({ "user": "ada", "role": "admin" })) }),
            )
            .route("/hosts", get(|| async { Json(json!({ "items": [host()] })) }))
            .route("/hosts/{host}/probes", get(|| async { Json(probes()) }))
            .route("/certificates", get(certificates))
            .route("/findings", get(findings))
            .route("/findings/{host}/{finding}", get(finding))
            .route("/sql", post(sql))
            .route("/query", get(promql))
            .route("/query_range", get(promql_range))
            .route("/live", get(live))
            .layer(axum::middleware::from_fn(guard))
            .with_state(shared);
        let app = Router::new().nest("/api/v1", v1);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        tasks.spawn("server", TaskKind::BestEffort, async move {
            axum::serve(listener, app).await
        });
        Self {
            url,
            refreshes,
            logins,
            _tasks: tasks,
        }
    }
}

async fn certificates(Query(query): Query<std::collections::HashMap<String, String>>) -> Json<Value> {
    let own = json!({
        "holder": "collector", "host_id": null, "name": "issuing certificate", "not_after": "2999-01-01T00:00:00.000000Z",
        "expired": false, "revoked": false, "connected": null, "last_seen": null, "renewal": "by an operator",
    });
    let host = json!({
        "holder": "host", "host_id": HOST, "name": "web-1", "not_after": "2020-01-01T00:00:00.000000Z",
        "expired": true, "revoked": false, "connected": false, "last_seen": null, "renewal": "by its agent",
    });
    match query.get("expiring_days").map(String::as_str) {
        None => Json(json!({ "items": [host, own] })),
        Some("30") => Json(json!({ "items": [host] })),
        Some(_) => Json(json!({ "items": [] })),
    }
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = json!({ "status": status.as_u16(), "code": code, "detail": detail });
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
        .into_response()
}

async fn guard(
    headers: HeaderMap,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let path = request.uri().path();
    let open = path.ends_with("/login") || path.ends_with("/refresh");
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if open || token == Some("Bearer good") {
        return next.run(request).await;
    }
    problem(
        StatusCode::UNAUTHORIZED,
        "unauthenticated",
        "the access token is missing, wrong or expired",
    )
}

fn tokens(expires_at: &str) -> Json<Value> {
    Json(
        json!({ "access_token": "good", "refresh_token": "again", "expires_at": expires_at, "user": "ada", "role": "admin" }),
    )
}

async fn login(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    let before = shared.logins.fetch_add(1, Ordering::SeqCst);
    let throttled = |wait: &'static str| {
        let mut answer = problem(
            StatusCode::TOO_MANY_REQUESTS,
            "login-throttled",
            "too many failed logins",
        );
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static(wait));
        answer
    };
    match body["password"].as_str() {
        // The first try comes too early.
        Some("patient") if before == 0 => throttled("1"),
        Some("patient") => tokens("2999-01-01T00:00:00Z").into_response(),
        Some("locked") => throttled("300"),
        Some("right") => tokens("2999-01-01T00:00:00Z").into_response(),
        // A session whose access token is over at once.
        Some("short") => tokens("2000-01-01T00:00:00Z").into_response(),
        _ => problem(
            StatusCode::UNAUTHORIZED,
            "wrong-credentials",
            "user or password is wrong",
        ),
    }
}

async fn refresh(State(Shared { refreshes, .. }): State<Shared>, Json(body): Json<Value>) -> Response {
    assert_eq!(body["refresh_token"], "again");
    refreshes.fetch_add(1, Ordering::SeqCst);
    // So long that commands started together overlap here.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    tokens("2999-01-01T00:00:00Z").into_response()
}

fn host() -> Value {
    json!({
        "host_id": HOST, "hostname": "web-1", "os": "Debian GNU/Linux 13", "connected": true, "revoked": false,
        "cpu_utilization": 0.25, "memory_utilization": 0.5, "memory_bytes": 17179869184_u64, "healing": "observe",
        "agent_version": "0.1.0", "findings_open": { "total": 2, "worst": "high" }, "probes": { "real": 1, "degraded": 1 },
    })
}

fn probes() -> Value {
    json!({ "items": [
        { "probe": "bpf.process", "state": "REAL", "reason": "", "hint": "", "seen": 12, "delivered": 12, "lost": 0 },
        { "probe": "unit.systemd", "state": "BROKEN", "reason": "systemd does not run", "hint": "", "seen": 0, "delivered": 0, "lost": 0 },
    ] })
}

fn row(title: &str) -> Value {
    json!({
        "host_id": HOST, "finding_id": FINDING, "time": "2026-01-02T03:04:05Z", "first_time": "2026-01-02T03:04:05Z",
        "severity": "high", "state": "open", "kind": "sigma", "rule": "r", "title": title, "subject": "bash\u{1b}[2J",
        "techniques": ["T1059.004"], "tactics": ["execution"], "count": 1,
        "factors": [{ "feature": "entropy", "value": 2.5, "expected": 1.0, "contribution": 0.75 }], "evidence": { "args": "-i" },
    })
}

async fn findings(Query(query): Query<std::collections::BTreeMap<String, String>>) -> Response {
    match query.get("cursor").map(String::as_str) {
        None => Json(json!({ "items": [row("first")], "next_cursor": "more" })).into_response(),
        Some("more") => Json(json!({ "items": [row("second")], "next_cursor": null })).into_response(),
        Some(_) => problem(StatusCode::BAD_REQUEST, "bad-request", "cursor: is not a cursor"),
    }
}

async fn finding(Path((_, finding)): Path<(String, String)>) -> Response {
    if finding != FINDING {
        return problem(StatusCode::NOT_FOUND, "not-found", "the host has no such finding");
    }
    let action = json!({
        "remedy": "kill-process", "target": "pid 7 (hog)", "outcome": "healed", "before": { "cpu_core_pct": 99 },
        "after": { "cpu_core_pct": 0 }, "steps": [{ "time": "2026-01-02T03:04:06Z", "stage": "applied", "reason": "" }],
    });
    Json(json!({ "finding": row("first"), "history": [], "actions": [action], "alerts": [], "gaps": [] }))
        .into_response()
}

async fn sql(Json(body): Json<Value>) -> Response {
    if body["query"] == "nonsense" {
        return problem(
            StatusCode::BAD_REQUEST,
            "invalid-query",
            "Expected a statement, found: nonsense",
        );
    }
    let columns = json!([{ "name": "comm", "type": "text" }, { "name": "n", "type": "bigint" }]);
    let rows = json!([["bash", 3], ["large", "18446744073709551615"], [null, 1]]);
    Json(json!({ "columns": columns, "rows": rows, "truncated": true, "gaps": [], "elapsed_ms": 1.0 }))
        .into_response()
}

async fn promql(Query(query): Query<std::collections::BTreeMap<String, String>>) -> Response {
    if query["query"] == "sum(" {
        let fault = json!({ "status": "error", "errorType": "bad_data", "error": "parse error: unclosed" });
        return (StatusCode::BAD_REQUEST, Json(fault)).into_response();
    }
    assert_eq!((query["time"].as_str(), query["limit"].as_str()), ("7", "2"));
    let result = json!([{ "metric": { "__name__": "up", "job": "node" }, "value": [7, "0.5"] }]);
    let data = json!({ "resultType": "vector", "result": result });
    Json(json!({ "status": "success", "data": data, "infos": ["samples are missing: 3 of web-1"] }))
        .into_response()
}

async fn promql_range(Query(query): Query<std::collections::BTreeMap<String, String>>) -> Json<Value> {
    assert_eq!(query["step"], "1800");
    assert_eq!(
        (query["start"].as_str(), query["end"].as_str()),
        ("1767319445", "1767323045")
    );
    let values = json!([[1_767_319_445, "1"], [1_767_321_245.5, "NaN"]]);
    let result = json!([{ "metric": {}, "values": values }]);
    Json(json!({ "status": "success", "data": { "resultType": "matrix", "result": result } }))
}

async fn live(Query(query): Query<std::collections::BTreeMap<String, String>>) -> Response {
    assert_eq!(query["tables"], "process_events,findings");
    let exec = json!({ "table": "process_events", "host_id": HOST, "row": {
        "time": "2026-01-02T03:04:05Z", "kind": "exec", "pid": 7, "ppid": 1, "uid": 0, "comm": "ls", "args": ["ls", "-l\n"],
    } });
    let body = format!(
        ": hello\n\nevent: ready\ndata: {{}}\n\nevent: row\ndata: {exec}\n\nevent: row\ndata: {exec}\n\n"
    );
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}
