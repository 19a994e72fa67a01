//! Who may do what, over every route that is mounted: the description is made from the mounted routes themselves.

use reqwest::Method;
use serde_json::{Value, json};

use crate::testbed::Testbed;

/// Method, path and tag of every operation.
fn operations(description: &Value) -> Vec<(Method, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            all.push((method, path.clone(), operation.clone()));
        }
    }
    all
}

fn filled(path: &str, testbed: &Testbed) -> String {
    let id = uuid::Uuid::nil().to_string();
    // The testbed calls below `/api/v1`; what stands beside it is reached from there.
    let beside = || format!("../..{path}");
    let path = path.strip_prefix("/api/v1/").map_or_else(beside, str::to_owned);
    path.replace("{host}", &testbed.host.to_string())
        .replace("{finding}", &id)
        .replace("{action}", &id)
        .replace("{id}", "none")
        .replace("{name}", "nobody")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_described_and_guarded() {
    let testbed = Testbed::start().await;
    let (status, description) = testbed.call(Method::GET, "openapi.json", None, None).await;
    assert_eq!(status, 200);
    assert_eq!(description["openapi"], "3.1.0");
    let all = operations(&description);
    assert_eq!(all.len(), 63, "a route was added or lost");
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let public = ["/api/v1/login", "/api/v1/refresh", "/api/v1/openapi.json"];
    for (method, path, operation) in all {
        let of_admin = operation["tags"] == json!(["admin"]);
        let route = filled(&path, &testbed);
        let body = (method == Method::POST).then(|| json!({}));
        let nobody = testbed.call(method.clone(), &route, None, body.clone()).await;
        let is_public = public.contains(&path.as_str());
        assert_eq!(
            nobody.0 == 401,
            !is_public,
            "{method} {path} without a token: {nobody:?}"
        );
        assert_eq!(
            operation["security"].is_array(),
            !is_public,
            "{method} {path} says who may call"
        );
        let stranger = testbed
            .call(method.clone(), &route, Some("fma_wrong"), body.clone())
            .await;
        assert_eq!(
            stranger.0 == 401,
            !is_public,
            "{method} {path} with a wrong token: {stranger:?}"
        );
        if path.ends_with("/logout") || path.ends_with("/live") {
            continue;
        }
        let read_only = testbed
            .call(method.clone(), &route, Some(&viewer), body.clone())
            .await;
        assert_eq!(
            read_only.0 == 403,
            of_admin,
            "{method} {path} as a viewer: {read_only:?}"
        );
        let allowed = testbed.call(method.clone(), &route, Some(&admin), body).await;
        assert!(
            !matches!(allowed.0, 401 | 403 | 405 | 500..),
            "{method} {path} as admin: {allowed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_something_is_for_admins_or_for_ones_own_session() {
    let description: Value = serde_json::from_str(&collector_api::openapi()).unwrap();
    for (method, path, operation) in operations(&description) {
        let own = [
            "/api/v1/login",
            "/api/v1/refresh",
            "/api/v1/logout",
            "/api/v1/sql",
            "/api/v1/live/ticket",
            // One's own; another's is not found.
            "/api/v1/queries/{id}",
        ];
        // Prometheus' clients send long queries as forms.
        let is_read = method == Method::GET || operation["tags"] == json!(["prometheus"]);
        if !is_read && !own.contains(&path.as_str()) {
            assert_eq!(operation["tags"], json!(["admin"]), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_problems_with_a_code_and_the_id_of_the_request() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let cases = [
        (Method::GET, "nowhere", None, 404, "not-found"),
        (Method::GET, "hosts/not-an-id", None, 404, "not-found"),
        (Method::DELETE, "hosts", None, 405, "method-not-allowed"),
        (
            Method::GET,
            "findings?severity=terrible",
            None,
            400,
            "bad-request",
        ),
        (Method::GET, "findings?cursor=x", None, 400, "bad-request"),
        (Method::GET, "findings?limit=0", None, 400, "bad-request"),
        (Method::GET, "findings?colour=red", None, 400, "bad-request"),
        (
            Method::POST,
            "sql",
            Some(json!({ "query": "selec 1" })),
            400,
            "invalid-query",
        ),
        (
            Method::POST,
            "sql",
            Some(json!({ "query": "drop table findings" })),
            400,
            "invalid-query",
        ),
        (
            Method::POST,
            "sql",
            Some(json!({ "query": "select 1", "colour": 1 })),
            400,
            "bad-request",
        ),
        (
            Method::POST,
            "sql",
            Some(json!({ "query": "x".repeat(300_000) })),
            413,
            "too-large",
        ),
    ];
    for (method, path, body, status, code) in cases {
        let answer = testbed.send(method, path, Some(&token), body).await;
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{path}"
        );
        let request_id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{path}: {problem}");
        assert_eq!(problem["instance"], request_id, "{path}");
        assert_eq!(problem["type"], format!("urn:fleetmend:problem:{code}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_limits_and_security_headers() {
    let testbed = Testbed::start().await;
    for path in [
        "/",
        "/healthz",
        "/api/v1/hosts",
        "/api/v1/openapi.json",
        "/nothing.js",
    ] {
        let answer = testbed
            .http
            .get(format!("{}{path}", testbed.url))
            .send()
            .await
            .unwrap();
        let headers = answer.headers();
        for name in [
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "x-request-id",
            "cache-control",
        ] {
            assert!(headers.contains_key(name), "{path} has no {name}");
        }
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert!(
            headers["content-security-policy"]
                .to_str()
                .unwrap()
                .contains("frame-ancestors 'none'")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_refused_and_others_are_not() {
    let config = collector_api::ApiConfig {
        rate_burst: 5,
        rate_per_s: 1,
        ..collector_api::ApiConfig::default()
    };
    let testbed = Testbed::start_with(config, None).await;
    let (viewer, admin) = (testbed.viewer().await, testbed.admin().await);
    let mut last = 0;
    for _ in 0..8 {
        last = testbed.call(Method::GET, "me", Some(&viewer), None).await.0;
    }
    assert_eq!(last, 429);
    assert_eq!(testbed.call(Method::GET, "me", Some(&admin), None).await.0, 200);
}
