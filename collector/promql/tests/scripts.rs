//! Prometheus' own test scripts, from the public data.

#[path = "../examples/promqltest/check.rs"]
mod check;
#[path = "../examples/promqltest/memory.rs"]
mod memory;
#[path = "../examples/promqltest/report.rs"]
mod report;
#[path = "../examples/promqltest/script.rs"]
mod script;
#[path = "../examples/promqltest/series.rs"]
mod series;
#[path = "../examples/promqltest/start.rs"]
mod start;

use std::path::PathBuf;

#[tokio::test]
async fn prometheus_own_scripts_pass() {
    let Some(data) = std::env::var_os("FLEETMEND_DATA") else {
        println!("did not run: FLEETMEND_DATA is not set, so Prometheus' own scripts were not run");
        return;
    };
    let folder = PathBuf::from(data).join("promqltest");
    let files = report::files(std::slice::from_ref(&folder)).expect("the public data has promqltest scripts");
    assert!(
        files.len() >= 6,
        "{} has only {} scripts",
        folder.display(),
        files.len()
    );
    let mut failed = 0;
    for file in &files {
        let report = report::run(file).await.expect("a script can be read");
        println!("{report}");
        assert!(!report.passed.is_empty(), "{} asks nothing", file.display());
        failed += report.failed.len();
    }
    assert_eq!(failed, 0, "evaluations failed");
}

#[tokio::test]
async fn own_scripts_pass() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/own");
    for file in report::files(&[folder]).expect("our scripts") {
        let report = report::run(&file).await.expect("a script can be read");
        assert!(
            report.failed.is_empty() && report.native.is_empty() && !report.passed.is_empty(),
            "{report}"
        );
    }
}

#[tokio::test]
async fn runner_tells_wrong_values_and_faulty_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.test");
    let text = "load 1m\n  up 1 2\n\neval instant at 1m up\n  up 2\n\neval instant at 1m up\n  up 3\n\nnonsense\n\n\
                eval instant at 1m up +\n  up 2\n\neval instant at 1m up\n  expect fail\n\n\
                eval instant at 1m down\n  expect string \"up\"\n";
    std::fs::write(&file, text).expect("a script");
    let report = report::run(&file).await.expect("a report");
    assert_eq!(report.passed, [4]);
    let failed: Vec<usize> = report.failed.iter().map(|(line, _)| *line).collect();
    assert_eq!(failed, [7, 10, 12, 15, 18], "{report}");
    assert!(report.native.is_empty());
}
