use std::time::Duration;

use fleetmend_event::{Fact, MetricFrame, SeriesKey, TimeMicros};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::Value;

use crate::facts::{finding, probe};
use crate::testbed::Testbed;

/// Events of one stream, in whatever order they come.
pub(crate) struct Events {
    stream: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    seen: Vec<(String, Value)>,
}

impl Events {
    pub(crate) fn of(answer: reqwest::Response) -> Self {
        Self {
            stream: answer.bytes_stream().boxed(),
            text: String::new(),
            seen: Vec::new(),
        }
    }

    /// The next event of this name; others are kept.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        loop {
            if let Some(index) = self.seen.iter().position(|(seen, _)| seen == name) {
                return self.seen.remove(index).1;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.stream.next()).await;
            let chunk = chunk
                .unwrap_or_else(|_| panic!("no event {name}; seen: {:?}", self.seen))
                .unwrap()
                .unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name).map(str::to_owned))
                };
                if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                    self.seen.push((event, serde_json::from_str(&data).unwrap()));
                }
                self.text = rest.to_owned();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rows_arrive_with_a_ticket_that_holds_once() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let ticket = testbed
        .call(Method::POST, "live/ticket", Some(&token), None)
        .await
        .1;
    let path = format!(
        "live?tables=findings,metrics&names=a.b&ticket={}",
        ticket["ticket"].as_str().unwrap()
    );
    let answer = testbed
        .http
        .get(format!("{}/api/v1/{path}", testbed.url))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = Events::of(answer);
    events.next("ready").await;
    assert_eq!(
        testbed.call(Method::GET, &path, None, None).await.0,
        401,
        "a ticket holds once"
    );

    let series = ["a.b", "c.d"].map(|name| SeriesKey::new(name, "1", [("k", "v")]));
    let tick = MetricFrame {
        time: TimeMicros::now(),
        series: series.to_vec().into(),
        values: vec![1.5, 2.5],
    };
    testbed
        .add(vec![
            Fact::from(probe("bpf.process")),
            Fact::from(tick),
            Fact::from(finding("shell")),
        ])
        .await;
    let metrics = events.next("metrics").await;
    assert_eq!(metrics["series"].as_array().unwrap().len(), 1, "{metrics}");
    assert_eq!(metrics["series"][0]["points"][0][1], 1.5);
    let row = events.next("row").await;
    assert_eq!(row["table"], "findings", "{row}");
    assert_eq!(row["row"]["title"], "shell");
    assert_eq!(row["row"]["factors"][0]["feature"], "f");
    assert_eq!(row["host_id"], testbed.host.to_string());
    testbed.tasks.begin("the test is over");
    assert_eq!(events.next("end").await["reason"], "shutting down");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_table_is_named_with_those_that_are_known() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let (status, problem) = testbed
        .call(Method::GET, "live?tables=nothing", Some(&token), None)
        .await;
    assert_eq!(status, 400);
    assert!(
        problem["detail"].as_str().unwrap().contains("process_events"),
        "{problem}"
    );
}
