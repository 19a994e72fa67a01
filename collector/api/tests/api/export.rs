//! Facts for others, over HTTP.

use reqwest::Method;
use serde_json::json;

use crate::testbed::Testbed;

async fn text(testbed: &Testbed, path: &str, token: &str) -> (u16, reqwest::header::HeaderMap, String) {
    let request = testbed.http.get(format!("{}/api/v1/{path}", testbed.url));
    let answer = request.bearer_auth(token).send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.text().await.unwrap())
}

#[tokio::test]
async fn targets_are_shown_to_all_and_tested_by_admins() {
    let testbed = Testbed::start().await;
    let (admin, viewer) = (testbed.admin().await, testbed.viewer().await);
    let targets = testbed.get("export/targets", &viewer).await;
    assert_eq!(targets["items"][0]["name"], "there");
    let test = async |name: &str, token: &str| {
        let url = format!("{}/api/v1/export/targets/{name}/test", testbed.url);
        let request = testbed.http.request(Method::POST, url).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(test("there", &admin).await, 200);
    assert_eq!(test("elsewhere", &admin).await, 404);
    assert_eq!(test("there", &viewer).await, 403);
    assert_eq!(test("there", "nobody").await, 401);
}

#[tokio::test]
async fn records_are_lines_with_a_cursor_in_the_head() {
    let testbed = Testbed::start().await;
    let viewer = testbed.viewer().await;
    let (status, headers, body) = text(&testbed, "export/records?format=ecs&table=findings", &viewer).await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (200, "application/x-ndjson")
    );
    let lines: Vec<serde_json::Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[1], json!({ "format": "ecs", "table": "findings", "n": 2 }));
    assert_eq!(headers["fleetmend-next-cursor"], "after-2");
    assert_eq!(headers["fleetmend-more"], "false");
    let next = "export/records?format=ecs&table=findings&cursor=after-2";
    assert_eq!(text(&testbed, next, &viewer).await.2, "");
    for wrong in [
        "export/records?format=xml&table=findings",
        "export/records?format=ecs&table=metrics",
        "export/records?format=ecs&table=nothing",
        "export/records?format=ecs&table=findings&cursor=x",
        "export/records?format=ecs&table=findings&limit=0",
        "export/records?table=findings",
    ] {
        assert_eq!(text(&testbed, wrong, &viewer).await.0, 400, "{wrong}");
    }
    assert_eq!(
        text(&testbed, "export/records?format=ecs&table=findings", "nobody")
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn parquet_is_a_file_or_a_problem() {
    let testbed = Testbed::start().await;
    let viewer = testbed.viewer().await;
    let (status, headers, body) = text(&testbed, "export/parquet?table=metrics&from=-1d", &viewer).await;
    assert_eq!((status, body.as_str()), (200, "PAR1PAR1"));
    assert_eq!(
        headers["content-disposition"],
        "attachment; filename=\"metrics.parquet\""
    );
    for wrong in [
        "export/parquet?table=ledger",
        "export/parquet?table=nothing",
        "export/parquet?table=metrics&from=now&to=-1h",
    ] {
        let (status, headers, _) = text(&testbed, wrong, &viewer).await;
        assert_eq!(status, 400, "{wrong}");
        assert_eq!(headers["content-type"], "application/problem+json");
    }
}
