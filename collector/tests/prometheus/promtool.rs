//! The real promtool against the real API.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use fleetmend_testkit::prometheus::program;

use crate::collector::Collector;
use crate::data::{self, BEGIN_MS, END_S};
use crate::values::client;

/// What it prints; it has to succeed.
fn promtool(program: &Path, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(
        out.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_queries_the_api() {
    let Some(program) = program("promtool") else {
        return;
    };
    let series = data::all();
    let collector = Collector::start(&series, &client()).await;
    let url = collector.url.as_str();
    let end = END_S.to_string();

    let time = format!("--time={end}");
    let shown = promtool(
        &program,
        &["query", "instant", &time, url, "count(system_memory_usage)"],
    );
    assert_eq!(shown.trim(), format!("{{}} => 3 @[{end}]"));
    let shown = promtool(
        &program,
        &[
            "query",
            "instant",
            "--format=json",
            &time,
            url,
            "version_info{instance=\"web-1\"}",
        ],
    );
    let answer: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(answer[0]["metric"]["version"], "1.2.3");
    assert_eq!(answer[0]["value"][1], "4");

    let (start, end) = (format!("--start={}", END_S - 120), format!("--end={end}"));
    let shown = promtool(
        &program,
        &[
            "query",
            "range",
            &start,
            &end,
            "--step=60s",
            url,
            "sum(version_info)",
        ],
    );
    let values: Vec<&str> = shown.lines().filter(|line| line.starts_with("12 @[")).collect();
    assert_eq!(values.len(), 3, "{shown}");

    let (start, end) = (
        format!("--start={}", BEGIN_MS / 1_000 - 60),
        format!("--end={END_S}"),
    );
    let shown = promtool(
        &program,
        &[
            "query",
            "series",
            &start,
            &end,
            "--match=level",
            "--match=line",
            url,
        ],
    );
    assert_eq!(shown.lines().count(), 6, "{shown}");
    assert!(shown.contains("zone=\"eu-2\""), "{shown}");
    let shown = promtool(&program, &["query", "labels", &start, &end, url, "instance"]);
    let found: BTreeSet<&str> = shown.lines().collect();
    assert_eq!(found, BTreeSet::from(data::HOSTS));

    let refused = Command::new(&program)
        .args(["query", "instant", url, "sum("])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("bad_data") && said.contains("parse error"),
        "{said}"
    );
}
