//! Ours and Prometheus' answers to the same queries.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetmend_testkit::prometheus::program;
use serde_json::Value;

use crate::collector::Collector;
use crate::data::{self, END_S};
use crate::queries::{FAULTY, INSTANT, QUERIES};
use crate::server::Prometheus;

/// Values differ at most by this part of themselves.
const WITHIN: f64 = 1e-9;

struct Both {
    client: reqwest::Client,
    ours: Collector,
    theirs: Prometheus,
}

pub(crate) fn client() -> reqwest::Client {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(60))
        .no_proxy()
        .build()
        .unwrap()
}

impl Both {
    async fn start() -> Option<Self> {
        let program = program("prometheus")?;
        let (client, series) = (client(), data::all());
        let (ours, theirs) = tokio::join!(
            Collector::start(&series, &client),
            Prometheus::start(&program, &series, &client)
        );
        Some(Self { client, ours, theirs })
    }

    /// Status and body of both.
    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> [(u16, Value); 2] {
        let ask = async |base: &str| {
            let answer = self
                .client
                .get(format!("{base}/api/v1/{path}"))
                .query(parameters)
                .send()
                .await
                .unwrap();
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap_or(Value::Null))
        };
        [ask(&self.ours.url).await, ask(&self.theirs.url).await]
    }
}

#[tokio::test]
async fn answers_are_those_of_a_prometheus_server_with_the_same_samples() {
    let Some(both) = Both::start().await else { return };
    assert!(QUERIES.len() >= 100);
    let mut differences = Vec::new();
    let (end, earlier) = (END_S.to_string(), (END_S - 2_700).to_string());
    for query in QUERIES.iter().chain(INSTANT) {
        for time in [&end, &earlier] {
            let answers = both.ask("query", &[("query", query), ("time", time)]).await;
            compare(query, &format!("at {time}"), &answers, &mut differences);
        }
    }
    let start = (END_S - 5_400).to_string();
    for query in QUERIES {
        for step in ["60", "7m"] {
            let range = [
                ("query", *query),
                ("start", &start),
                ("end", &end),
                ("step", step),
            ];
            let answers = both.ask("query_range", &range).await;
            compare(query, &format!("by {step}"), &answers, &mut differences);
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[tokio::test]
async fn faulty_queries_are_refused_as_prometheus_refuses_them() {
    let Some(both) = Both::start().await else { return };
    let end = END_S.to_string();
    for query in FAULTY {
        let [(ours, our_body), (theirs, their_body)] =
            both.ask("query", &[("query", query), ("time", &end)]).await;
        assert_eq!(
            (ours, &our_body["status"], &our_body["errorType"]),
            (theirs, &their_body["status"], &their_body["errorType"]),
            "{query}: ours {our_body}, theirs {their_body}"
        );
    }
    for parameters in [
        &[("start", "1"), ("end", "2"), ("step", "1")][..],
        &[("query", "level"), ("end", "2"), ("step", "1")],
        &[("query", "level"), ("start", "2"), ("end", "1"), ("step", "1")],
        &[("query", "level"), ("start", "1"), ("end", "2"), ("step", "0")],
        &[("query", "level"), ("start", "1"), ("end", "2")],
        &[
            ("query", "level"),
            ("start", "0"),
            ("end", "100000"),
            ("step", "1"),
        ],
        &[
            ("query", "level[5m]"),
            ("start", "1"),
            ("end", "2"),
            ("step", "1"),
        ],
        &[("query", "level"), ("start", "x"), ("end", "2"), ("step", "1")],
    ] {
        let [(ours, our_body), (theirs, their_body)] = both.ask("query_range", parameters).await;
        assert_eq!(
            (ours, &our_body["errorType"]),
            (theirs, &their_body["errorType"]),
            "{parameters:?}: ours {our_body}, theirs {their_body}"
        );
    }
}

#[tokio::test]
async fn series_and_labels_are_listed_as_prometheus_lists_them() {
    let Some(both) = Both::start().await else { return };
    let (start, end) = (data::BEGIN_MS / 1_000 - 60, END_S);
    let (start, end) = (start.to_string(), end.to_string());
    let span = [("start", start.as_str()), ("end", end.as_str())];
    for (path, selectors) in [
        ("series", &["level", "line"][..]),
        ("series", &["{instance=\"web-1\"}"]),
        ("series", &["{__name__=~\"http_.*\",method!=\"get\"}"]),
        ("series", &["nothing"]),
        ("labels", &[]),
        ("labels", &["level"]),
        ("labels", &["level", "system_memory_usage"]),
        ("label/__name__/values", &[]),
        ("label/instance/values", &[]),
        ("label/cpu_mode/values", &["{instance=\"web-2\"}"]),
        ("label/job/values", &["level"]),
        ("label/nothing/values", &[]),
    ] {
        let mut parameters = span.to_vec();
        parameters.extend(selectors.iter().map(|selector| ("match[]", *selector)));
        let [ours, theirs] = both.ask(path, &parameters).await;
        let sorted = |(status, body): &(u16, Value)| {
            assert_eq!(*status, 200, "{path}: {body}");
            let mut items: Vec<String> = body["data"].as_array().unwrap().iter().map(canonical).collect();
            items.sort();
            items
        };
        assert_eq!(sorted(&ours), sorted(&theirs), "{path} {selectors:?}");
    }
    for path in [
        "series",
        "labels?match[]=level[5m]",
        "label/1x%20/values",
        "series?match[]={}",
    ] {
        let [(ours, our_body), (theirs, their_body)] = both.ask(path, &[]).await;
        if path.contains('%') {
            // Newer releases take any UTF-8 here, and so do we.
            assert_eq!(ours, 200, "{our_body}");
            continue;
        }
        assert_eq!(
            (ours, &our_body["errorType"]),
            (theirs, &their_body["errorType"]),
            "{path}: ours {our_body}, theirs {their_body}"
        );
    }
}

/// Text of an object with sorted keys.
fn canonical(value: &Value) -> String {
    match value.as_object() {
        Some(object) => format!("{:?}", object.iter().collect::<BTreeMap<_, _>>()),
        None => value.to_string(),
    }
}

fn compare(query: &str, when: &str, [ours, theirs]: &[(u16, Value); 2], differences: &mut Vec<String>) {
    let mut differ = |what: String| differences.push(format!("{query} {when}: {what}"));
    if ours.0 != theirs.0 {
        return differ(format!(
            "ours {} {}, theirs {} {}",
            ours.0, ours.1, theirs.0, theirs.1
        ));
    }
    let (ours, theirs) = (&ours.1["data"], &theirs.1["data"]);
    if ours["resultType"] != theirs["resultType"] {
        return differ(format!("{} is not {}", ours["resultType"], theirs["resultType"]));
    }
    match ours["resultType"].as_str() {
        Some("scalar") => {
            if !same_points(&[ours["result"].clone()], &[theirs["result"].clone()]) {
                differ(format!("{} is not {}", ours["result"], theirs["result"]));
            }
        }
        Some("vector" | "matrix") => {
            let (our_series, their_series) = (series(ours), series(theirs));
            let (our_names, their_names): (Vec<_>, Vec<_>) =
                (our_series.keys().collect(), their_series.keys().collect());
            if our_names != their_names {
                return differ(format!("series {our_names:?} are not {their_names:?}"));
            }
            if query.starts_with("sort") && order(ours) != order(theirs) && ours["resultType"] == "vector" {
                differ("another order".to_owned());
            }
            let wrong = our_series
                .iter()
                .find(|(name, points)| !same_points(points, &their_series[*name]));
            if let Some((name, points)) = wrong {
                let (ours, theirs) = first_difference(points, &their_series[name]);
                differ(format!("{name}: {ours} is not {theirs}"));
            }
        }
        _ => {
            if ours != theirs {
                differ(format!("{ours} is not {theirs}"));
            }
        }
    }
}

fn series(data: &Value) -> BTreeMap<String, Vec<Value>> {
    let result = data["result"].as_array().unwrap().iter();
    result
        .map(|one| {
            let points = match one["values"].as_array() {
                Some(points) => points.clone(),
                None => vec![one["value"].clone()],
            };
            (canonical(&one["metric"]), points)
        })
        .collect()
}

fn order(data: &Value) -> Vec<String> {
    let result = data["result"].as_array().unwrap().iter();
    result.map(|one| canonical(&one["metric"])).collect()
}

fn same_points(ours: &[Value], theirs: &[Value]) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| same_point(ours, theirs))
}

fn same_point(ours: &Value, theirs: &Value) -> bool {
    let value = |point: &Value| -> f64 { point[1].as_str().unwrap().parse().unwrap() };
    let (our_value, their_value) = (value(ours), value(theirs));
    let same = our_value == their_value
        || (our_value.is_nan() && their_value.is_nan())
        || (our_value - their_value).abs() <= WITHIN * our_value.abs().max(their_value.abs());
    same && ours[0].as_f64() == theirs[0].as_f64()
}

fn first_difference(ours: &[Value], theirs: &[Value]) -> (String, String) {
    if ours.len() != theirs.len() {
        return (
            format!("{} points", ours.len()),
            format!("{} points", theirs.len()),
        );
    }
    let wrong = ours
        .iter()
        .zip(theirs)
        .find(|(ours, theirs)| !same_point(ours, theirs));
    wrong.map_or_else(Default::default, |(ours, theirs)| {
        (ours.to_string(), theirs.to_string())
    })
}
