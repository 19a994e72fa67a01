use crate::testbed::Testbed;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_dashboard_is_its_first_file_and_no_file_is_invented() {
    let testbed = Testbed::start().await;
    let get = async |path: &str| {
        testbed
            .http
            .get(format!("{}{path}", testbed.url))
            .send()
            .await
            .unwrap()
    };
    let first = get("/").await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["content-type"], "text/html; charset=utf-8");
    let first = first.text().await.unwrap();
    assert_eq!(get("/hosts/1").await.text().await.unwrap(), first);
    assert_eq!(get("/assets/none.js").await.status(), 404);
    assert_eq!(get("/../../etc/passwd.txt").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_are_beside_the_api() {
    let testbed = Testbed::start().await;
    let get = async |path: &str| {
        testbed
            .http
            .get(format!("{}{path}", testbed.url))
            .send()
            .await
            .unwrap()
    };
    assert_eq!(get("/healthz").await.status(), 200);
    let ready = get("/readyz").await;
    assert_eq!(ready.status(), 503);
    let ready: serde_json::Value = ready.json().await.unwrap();
    assert_eq!(ready["conditions"]["ingest"], "starting");
    assert!(
        get("/metrics")
            .await
            .text()
            .await
            .unwrap()
            .contains("fleetmend_build_info")
    );
}
