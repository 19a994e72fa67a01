//! Users who may see some hosts only, over every route, and queries that are cancelled.

use std::time::Duration;

use fleetmend_event::{Fact, HostId, MetricFrame, SeriesKey, TimeMicros};
use reqwest::Method;
use serde_json::{Value, json};

use crate::facts::{finding, probe};
use crate::testbed::{Testbed, VIEWER_PASSWORD};

pub(crate) const SECRET: &str = "kingfisher";

/// Facts of one host, with `word` in every text.
pub(crate) fn facts(word: &str) -> Vec<Fact> {
    let key = SeriesKey::new(word, "1", [("word", word)]);
    let metrics = MetricFrame {
        time: TimeMicros::now(),
        series: std::sync::Arc::from(vec![key]),
        values: vec![1.0],
    };
    vec![finding(word).into(), probe(word).into(), Fact::from(metrics)]
}

pub(crate) async fn set_group(testbed: &Testbed, admin: &str, name: &str, hosts: &[HostId]) {
    let hosts: Vec<String> = hosts.iter().map(HostId::to_string).collect();
    let body = json!({ "hosts": hosts });
    let (status, answer) = testbed
        .call(Method::PUT, &format!("groups/{name}"), Some(admin), Some(body))
        .await;
    assert_eq!(status, 204, "{answer}");
}

pub(crate) async fn give(testbed: &Testbed, admin: &str, user: &str, groups: Value) -> (u16, Value) {
    let path = format!("users/{user}/groups");
    let body = json!({ "groups": groups });
    testbed.call(Method::PUT, &path, Some(admin), Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_user_sees_no_other_host_on_any_route() {
    let testbed = Testbed::start().await;
    let foreign = HostId::random();
    testbed.add(facts("sparrow")).await;
    testbed.store.append_for(foreign, facts(SECRET)).await.unwrap();
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let all = testbed.get("findings", &viewer).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2);

    set_group(&testbed, &admin, "web", &[testbed.host]).await;
    set_group(&testbed, &admin, "hidden", &[foreign]).await;
    assert_eq!(give(&testbed, &admin, "viewer", json!(["web"])).await.0, 204);
    let id = all["items"].as_array().unwrap();
    let secret = id.iter().find(|item| item["title"] == SECRET).unwrap()["finding_id"]
        .as_str()
        .unwrap();
    let mut routes: Vec<String> = [
        "me",
        "hosts",
        "hosts?removed=true",
        "findings",
        "findings?limit=1",
        "actions",
        "alerts",
        "certificates",
        "sites",
        "gaps",
        "queries",
    ]
    .map(str::to_owned)
    .to_vec();
    routes.push(format!("findings?host={foreign}"));
    routes.push(format!("actions?host={foreign}"));
    routes.push(format!("gaps?host={foreign}"));
    routes.push(format!("sites?host={foreign}"));
    routes.push(format!("metrics/names?host={foreign}"));
    routes.push(format!("metrics/range?host={foreign}&name={SECRET}"));
    for path in &routes {
        let told = testbed.get(path, &viewer).await.to_string();
        assert!(
            !told.contains(&foreign.to_string()) && !told.contains(SECRET),
            "{path}: {told}"
        );
    }
    for path in [
        format!("hosts/{foreign}"),
        format!("hosts/{foreign}/probes"),
        format!("hosts/{foreign}/sensor"),
        format!("hosts/{foreign}/units"),
        format!("hosts/{foreign}/models"),
        format!("hosts/{foreign}/processes"),
        format!("findings/{foreign}/{secret}"),
        format!("actions/{foreign}/{secret}"),
    ] {
        let (status, told) = testbed.call(Method::GET, &path, Some(&viewer), None).await;
        assert_eq!(status, 404, "{path}: {told}");
    }
    for query in [
        "SELECT * FROM findings",
        "SELECT count(*), array_agg(host_id) FROM probe_status",
        "SELECT DISTINCT name, host_id FROM metrics",
        "SELECT CAST(title AS BIGINT) FROM findings",
    ] {
        let body = json!({ "query": query });
        let (_, told) = testbed.call(Method::POST, "sql", Some(&viewer), Some(body)).await;
        let told = told.to_string();
        assert!(
            !told.contains(&foreign.to_string()) && !told.contains(SECRET),
            "{query}: {told}"
        );
    }
    // What may be seen is there.
    assert_eq!(
        testbed.get("findings", &viewer).await["items"][0]["title"],
        "sparrow"
    );
    assert_eq!(
        testbed.get("hosts", &viewer).await["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(testbed.get("me", &viewer).await["sees_all_hosts"], false);
    assert_eq!(
        testbed.get("findings", &admin).await["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_last_group_sees_nothing_rather_than_everything() {
    let testbed = Testbed::start().await;
    testbed.add(facts("sparrow")).await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let seen = async || {
        testbed.get("findings", &viewer).await["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(seen().await, 1);
    set_group(&testbed, &admin, "web", &[testbed.host]).await;
    assert_eq!(give(&testbed, &admin, "viewer", json!(["web"])).await.0, 204);
    assert_eq!(seen().await, 1);
    let (status, _) = testbed
        .call(Method::DELETE, "groups/web", Some(&admin), None)
        .await;
    assert_eq!(status, 204);
    assert_eq!(seen().await, 0);
    assert_eq!(give(&testbed, &admin, "viewer", json!([])).await.0, 204);
    assert_eq!(seen().await, 0);
    let users = testbed.get("users", &admin).await;
    let of = |name: &str| {
        users["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|user| user["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("viewer")["groups"], json!([]));
    assert_eq!(of("admin")["groups"], Value::Null);
    assert_eq!(give(&testbed, &admin, "viewer", Value::Null).await.0, 204);
    assert_eq!(seen().await, 1);
    // Removed and made again, a user is a new one.
    assert_eq!(give(&testbed, &admin, "viewer", json!([])).await.0, 204);
    let (status, _) = testbed
        .call(Method::DELETE, "users/viewer", Some(&admin), None)
        .await;
    assert_eq!(status, 204);
    set_group(&testbed, &admin, "none", &[]).await;
    let body = json!({ "name": "viewer", "password": VIEWER_PASSWORD, "role": "viewer", "groups": ["none"] });
    let (status, answer) = testbed
        .call(Method::POST, "users", Some(&admin), Some(body))
        .await;
    assert_eq!(status, 201, "{answer}");
    let again = testbed.viewer().await;
    assert_eq!(testbed.get("findings", &again).await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_cannot_be_are_refused_with_what_to_do() {
    let testbed = Testbed::start().await;
    let admin = testbed.admin().await;
    let (status, told) = give(&testbed, &admin, "viewer", json!(["nowhere"])).await;
    assert!(
        status == 400 && told["detail"].as_str().unwrap().contains("make it first"),
        "{told}"
    );
    let (status, told) = give(&testbed, &admin, "admin", json!([])).await;
    assert!(
        status == 400 && told["detail"].as_str().unwrap().contains("admin"),
        "{told}"
    );
    assert_eq!(give(&testbed, &admin, "nobody", json!([])).await.0, 404);
    let body = json!({ "hosts": ["web-1"] });
    let (status, _) = testbed
        .call(Method::PUT, "groups/web", Some(&admin), Some(body))
        .await;
    assert_eq!(status, 400);
    let (status, _) = testbed
        .call(
            Method::PUT,
            "groups/We%20b",
            Some(&admin),
            Some(json!({ "hosts": [] })),
        )
        .await;
    assert_eq!(status, 400);
    let body =
        json!({ "name": "other", "password": VIEWER_PASSWORD, "role": "viewer", "groups": ["nowhere"] });
    let (status, _) = testbed
        .call(Method::POST, "users", Some(&admin), Some(body))
        .await;
    assert_eq!(status, 400);
    let users = testbed.get("users", &admin).await;
    assert_eq!(
        users["items"].as_array().unwrap().len(),
        2,
        "no user is left who sees more than was meant"
    );
}

const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 9";

/// The running queries that a caller is shown, once there are `wanted`.
async fn running(testbed: &Testbed, token: &str, wanted: usize) -> Vec<Value> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let list = testbed.get("queries", token).await["items"]
            .as_array()
            .unwrap()
            .clone();
        if list.len() == wanted {
            return list;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "wanted {wanted}, last seen {list:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_query_is_listed_and_cancelled() {
    let testbed = Testbed::start().await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let body = || Some(json!({ "query": ENDLESS }));
    let ask = testbed.call(Method::POST, "sql", Some(&admin), body());
    let cancel = async {
        let list = running(&testbed, &admin, 1).await;
        assert_eq!(list[0]["user"], "admin");
        assert_eq!(list[0]["query"], ENDLESS);
        assert!(
            running(&testbed, &viewer, 0).await.is_empty(),
            "a viewer sees the viewer's own only"
        );
        let path = format!("queries/{}", list[0]["id"]);
        let foreign = testbed.call(Method::DELETE, &path, Some(&viewer), None).await;
        assert_eq!(foreign.0, 404);
        let done = testbed.call(Method::DELETE, &path, Some(&admin), None).await;
        assert_eq!(done.0, 204, "{done:?}");
    };
    let ((status, told), ()) = tokio::join!(ask, cancel);
    assert_eq!(
        (status, &told["code"]),
        (409, &json!("query-cancelled")),
        "{told}"
    );
    running(&testbed, &admin, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_when_its_client_goes_away() {
    let testbed = Testbed::start().await;
    let admin = testbed.admin().await;
    let request = testbed
        .http
        .post(format!("{}/api/v1/sql", testbed.url))
        .bearer_auth(&admin)
        .json(&json!({ "query": ENDLESS }))
        .send();
    tokio::select! {
        answer = request => panic!("an endless query was answered: {answer:?}"),
        _ = running(&testbed, &admin, 1) => {}
    }
    running(&testbed, &admin, 0).await;
}
