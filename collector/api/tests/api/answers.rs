//! Answers that gather rows: ranges of metrics, SQL, sites.

use fleetmend_event::table::*;
use fleetmend_event::{Fact, Lane, MetricFrame, SeriesKey, TimeMicros};
use reqwest::Method;
use serde_json::{Value, json};

use crate::facts::finding;
use crate::testbed::Testbed;

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_gathered_into_points_and_breaks_where_samples_are_missing() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let start = TimeMicros::now().plus_millis(-100_000);
    let series =
        [("user", 1.0), ("idle", 2.0)].map(|(mode, _)| SeriesKey::new("m", "1", [("cpu.mode", mode)]));
    let series: fleetmend_event::SeriesSet = series.to_vec().into();
    let tick = |second: i64, value: f64| {
        let frame = MetricFrame {
            time: start.plus_millis(second * 1_000),
            series: series.clone(),
            values: vec![value, 2.0],
        };
        Fact::from(frame)
    };
    let mut facts: Vec<Fact> = (0..30).map(|second| tick(second, 1.0)).collect();
    facts.push(tick(30, f64::NAN));
    facts.extend((60..90).map(|second| tick(second, 3.0)));
    testbed.add(facts).await;
    let labels = "%7B%22cpu.mode%22%3A%22user%22%7D";
    let from = start.0 / 1_000;
    let path = format!(
        "metrics/range?host={}&name=m&labels={labels}&from={from}&to=now&points_max=1000",
        testbed.host
    );
    let answer = testbed.get(&path, &token).await;
    assert_eq!(answer["series"].as_array().unwrap().len(), 1, "{answer}");
    let points = answer["series"][0]["points"].as_array().unwrap();
    assert_eq!(
        points.iter().filter(|point| point[1].is_null()).count(),
        1,
        "{points:?}"
    );
    assert_eq!(points.len(), 61);
    let path = format!(
        "metrics/range?host={}&name=m&from={from}&to=now&points_max=10&agg=max",
        testbed.host
    );
    let answer = testbed.get(&path, &token).await;
    assert_eq!(answer["series"].as_array().unwrap().len(), 2);
    assert!(
        answer["series"][1]["points"].as_array().unwrap().len() <= 11,
        "{answer}"
    );
    let names = testbed
        .get(&format!("metrics/names?host={}", testbed.host), &token)
        .await;
    assert_eq!(
        names["items"],
        json!([{ "name": "m", "unit": "1", "series": 2, "label_names": ["cpu.mode"] }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_answers_with_columns_types_rows_and_known_losses() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let now = TimeMicros::now();
    let gap = Gap {
        time: now,
        table: "findings".to_owned(),
        lane: Lane::Critical,
        from_time: now.plus_millis(-1_000),
        to_time: now,
        count: 3,
        exactness: Exactness::AtLeast,
        stage: GapStage::Spool,
        reason: "spool_quota".to_owned(),
    };
    testbed
        .add(vec![gap.into(), finding("a").into(), finding("b").into()])
        .await;
    let query = |query: &str, rows_max: u32| Some(json!({ "query": query, "rows_max": rows_max }));
    let body = query(
        "select title, count, techniques, time, score from findings order by title;",
        1,
    );
    let (status, answer) = testbed.call(Method::POST, "sql", Some(&token), body).await;
    assert_eq!(status, 200, "{answer}");
    let names: Vec<&Value> = answer["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| &column["name"])
        .collect();
    assert_eq!(names, ["title", "count", "techniques", "time", "score"]);
    assert_eq!(answer["columns"][3]["type"], "timestamp");
    assert_eq!(answer["rows"][0][0], "a");
    assert_eq!(answer["rows"][0][2], json!(["T1059.004"]));
    assert!(answer["rows"][0][3].as_str().unwrap().ends_with('Z'), "{answer}");
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["gaps"][0]["count"], 3);
    let (_, empty) = testbed
        .call(
            Method::POST,
            "sql",
            Some(&token),
            query("select title from findings where false", 5),
        )
        .await;
    assert_eq!(
        (&empty["rows"], &empty["columns"][0]["name"]),
        (&json!([]), &json!("title"))
    );
    assert_eq!(
        testbed.get("gaps", &token).await["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let list = testbed.get("findings", &token).await;
    assert_eq!(list["gaps"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_has_its_last_probe_and_its_verdicts() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let now = TimeMicros::now();
    let probe = |index: i64, verdict| SiteProbe {
        time: now.plus_millis(index * 1_000 - 80_000),
        site: "shop".to_owned(),
        url: "https://shop.example/".to_owned(),
        verdict,
        reason: String::new(),
        remote_address: None,
        http_status: Some(200),
        redirect_count: 0,
        dns_ms: None,
        connect_ms: None,
        tls_ms: None,
        first_byte_ms: None,
        total_ms: Some(5.0),
        body_bytes: None,
        tls_version: None,
        certificate_not_after: None,
        certificate_issuer: None,
        certificate_fault: None,
    };
    let mut facts: Vec<Fact> = (0..70)
        .map(|index| Fact::from(probe(index, SiteVerdict::Up)))
        .collect();
    facts.push(Fact::from(probe(70, SiteVerdict::Unknown)));
    testbed.add(facts).await;
    let sites = testbed.get("sites", &token).await;
    let site = &sites["items"][0];
    assert_eq!(site["verdicts"].as_array().unwrap().len(), 60);
    assert_eq!(site["verdicts"][59]["verdict"], "unknown");
    assert_eq!(site["last"]["verdict"], "unknown");
}
