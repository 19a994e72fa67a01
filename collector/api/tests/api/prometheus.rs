//! Prometheus' API as its clients meet it: parameters, answers, faults, and who is let in.

use serde_json::{Value, json};

use crate::testbed::{ADMIN_PASSWORD, Testbed, VIEWER_PASSWORD};

async fn get(bed: &Testbed, path: &str) -> (u16, Value) {
    let request = bed
        .http
        .get(format!("{}{path}", bed.url))
        .basic_auth("viewer", Some(VIEWER_PASSWORD));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn queries_answer_in_prometheus_form() {
    let bed = Testbed::start().await;
    let wanted = json!({
        "status": "success",
        "data": {"resultType": "vector", "result": [
            {"metric": {"__name__": "a"}, "value": [1.5, "NaN"]},
            {"metric": {"__name__": "up"}, "value": [1.5, "2"]},
        ]},
        "infos": ["samples are missing: 3"],
    });
    for base in ["/prometheus/api/v1", "/api/v1"] {
        let (status, body) = get(&bed, &format!("{base}/query?query=up&time=1.5&timeout=2")).await;
        assert_eq!((status, &body), (200, &wanted), "{base}");
    }
    let (_, body) = get(&bed, "/prometheus/api/v1/query?query=up&time=1.5&limit=1").await;
    assert_eq!(body["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(body["warnings"], json!(["results truncated due to limit"]));
    let (_, body) = get(
        &bed,
        "/prometheus/api/v1/query_range?query=x&start=1970-01-01T00:00:00Z&end=2&step=1",
    )
    .await;
    assert_eq!(
        body,
        json!({"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {"q": "x"}, "values": [[0, "+Inf"], [1, "+Inf"], [2, "+Inf"]]}]},
            "warnings": ["a warning"]})
    );
}

#[tokio::test]
async fn a_form_counts_as_parameters() {
    let bed = Testbed::start().await;
    let answer = bed
        .http
        .post(format!("{}/prometheus/api/v1/query?time=3", bed.url))
        .basic_auth("viewer", Some(VIEWER_PASSWORD))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("query=a%2Bb&timeout=7")
        .send()
        .await
        .unwrap();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        body["data"]["result"][1],
        json!({"metric": {"__name__": "a+b"}, "value": [3, "7"]})
    );
}

#[tokio::test]
async fn faults_are_prometheus_own() {
    let bed = Testbed::start().await;
    for (path, status, kind, text) in [
        ("query?query=", 400, "bad_data", "invalid parameter \"query\": "),
        ("query?query=much", 422, "execution", "too many samples"),
        ("query?query=slow", 503, "timeout", "query timed out"),
        ("query?query=gone", 499, "canceled", "query was canceled"),
        ("query?query=down", 503, "unavailable", "store is closed"),
        (
            "query?query=x&time=soon",
            400,
            "bad_data",
            "invalid parameter \"time\": cannot parse \"soon\" to a valid timestamp",
        ),
        (
            "query?query=x&limit=-1",
            400,
            "bad_data",
            "invalid parameter \"limit\"",
        ),
        (
            "query_range?query=x&end=2&step=1",
            400,
            "bad_data",
            "invalid parameter \"start\": cannot parse \"\" to a valid timestamp",
        ),
        (
            "query_range?query=x&start=3&end=2&step=1",
            400,
            "bad_data",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        (
            "query_range?query=x&start=1&end=2&step=0",
            400,
            "bad_data",
            "invalid parameter \"step\": zero or negative",
        ),
        (
            "query_range?query=x&start=1&end=2&step=x",
            400,
            "bad_data",
            "invalid parameter \"step\": cannot parse \"x\" to a valid duration",
        ),
        (
            "query_range?query=x&start=0&end=100000&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11,000 points per timeseries",
        ),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        (
            "rules?type=nothing",
            400,
            "bad_data",
            "invalid parameter \"type\"",
        ),
        ("label/U__a_zz_/values", 400, "bad_data", "invalid label name"),
    ] {
        let (found, body) = get(&bed, &format!("/prometheus/api/v1/{path}")).await;
        assert_eq!(found, status, "{path}: {body}");
        assert_eq!(
            (&body["status"], &body["errorType"]),
            (&json!("error"), &json!(kind)),
            "{path}"
        );
        assert!(
            body["error"].as_str().unwrap().starts_with(text),
            "{path}: {body}"
        );
    }
}

#[tokio::test]
async fn lists_are_told() {
    let bed = Testbed::start().await;
    for (path, data) in [
        (
            "series?match[]=up&match[]=down",
            json!([{"selector": "up"}, {"selector": "down"}]),
        ),
        ("labels?match[]=up", json!(["up"])),
        ("label/U__cpu_2e_mode/values", json!(["cpu.mode"])),
        (
            "metadata",
            json!({"a": [{"type": "unknown", "help": "", "unit": "By"}, {"type": "unknown", "help": "", "unit": "s"}],
                "b": [{"type": "unknown", "help": "", "unit": "1"}]}),
        ),
        (
            "metadata?metric=b",
            json!({"b": [{"type": "unknown", "help": "", "unit": "1"}]}),
        ),
        ("query_exemplars?query=up", json!([])),
        ("format_query?query=%20up%20", json!("up")),
        (
            "parse_query?query=%20up%20",
            json!({"type": "stringLiteral", "val": "up"}),
        ),
    ] {
        let (status, body) = get(&bed, &format!("/prometheus/api/v1/{path}")).await;
        assert_eq!((status, &body["data"]), (200, &data), "{path}");
    }
    let (_, body) = get(&bed, "/prometheus/api/v1/status/buildinfo").await;
    assert!(body["data"]["version"].is_string());
}

#[tokio::test]
async fn rules_and_alerts_have_prometheus_form() {
    let bed = Testbed::start().await;
    let (_, body) = get(&bed, "/prometheus/api/v1/rules").await;
    let group = &body["data"]["groups"][0];
    assert_eq!(
        (&group["name"], &group["interval"]),
        (&json!("group"), &json!(60.0))
    );
    let rule = &group["rules"][0];
    for (key, value) in [
        ("state", json!("firing")),
        ("name", json!("HostDown")),
        ("query", json!("up == 0")),
        ("type", json!("alerting")),
        ("health", json!("ok")),
        ("labels", json!({"severity": "page"})),
        ("lastEvaluation", json!("1970-01-01T00:00:01Z")),
    ] {
        assert_eq!(rule[key], value, "{key}");
    }
    assert_eq!(group["rules"][1]["type"], "recording");
    let (_, body) = get(&bed, "/prometheus/api/v1/rules?type=record").await;
    assert_eq!(body["data"]["groups"][0]["rules"].as_array().unwrap().len(), 1);
    let (_, body) = get(&bed, "/prometheus/api/v1/alerts").await;
    assert_eq!(
        body["data"]["alerts"],
        json!([{"labels": {"alertname": "HostDown"}, "annotations": {}, "state": "firing",
            "activeAt": "1970-01-01T00:00:00Z", "value": "0"}])
    );
}

#[tokio::test]
async fn only_users_are_let_in_and_basic_only_here() {
    let bed = Testbed::start().await;
    let get = async |path: &str, user: Option<(&str, &str)>| {
        let mut request = bed.http.get(format!("{}{path}", bed.url));
        if let Some((user, password)) = user {
            request = request.basic_auth(user, Some(password));
        }
        request.send().await.unwrap()
    };
    let query = "/prometheus/api/v1/query?query=up";
    assert_eq!(get(query, None).await.status(), 401);
    assert_eq!(get(query, Some(("viewer", ADMIN_PASSWORD))).await.status(), 401);
    assert_eq!(get(query, Some(("nobody", VIEWER_PASSWORD))).await.status(), 401);
    let token = bed.viewer().await;
    assert_eq!(get(query, Some(("token", &token))).await.status(), 200);
    let bearer = bed.http.get(format!("{}{query}", bed.url)).bearer_auth(&token);
    assert_eq!(bearer.send().await.unwrap().status(), 200);
    for _ in 0..2 {
        let answer = get(query, Some(("viewer", VIEWER_PASSWORD))).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("ratelimit-remaining"));
    }
    let elsewhere = get("/api/v1/hosts", Some(("viewer", VIEWER_PASSWORD))).await;
    assert_eq!(elsewhere.status(), 401, "a browser sends Basic by itself");
    assert!(bed.accounts.remove("viewer").await.unwrap());
    assert_eq!(
        get(query, Some(("viewer", VIEWER_PASSWORD))).await.status(),
        401,
        "a removed user is not let in because it was known"
    );
}
