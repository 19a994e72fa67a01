use crate::run;
use crate::server::{FINDING, Server};

fn with(server: &Server) -> [(&str, &str); 2] {
    [
        ("FLEETMEND_URL", server.url.as_str()),
        ("FLEETMEND_TOKEN", "good"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_shows_every_probe_underneath() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(home.path(), &with(&server), &["hosts"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[0].starts_with("HOST") && lines[1].starts_with("web-1"),
        "{}",
        ran.out
    );
    for part in ["connected", "25 %", "50 %", "2 (worst: high)"] {
        assert!(lines[1].contains(part), "{part}: {}", ran.out);
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("  bpf.process") && line.contains("REAL")),
        "{}",
        ran.out
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("BROKEN") && line.contains("systemd does not run")),
        "{}",
        ran.out
    );

    let json = run(home.path(), &with(&server), &["hosts", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["items"][0]["probe_status"][1]["state"], "BROKEN");
    let wide = run(home.path(), &with(&server), &["hosts", "--wide"]).await;
    assert!(wide.out.contains("16.0 GiB"), "{}", wide.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_shows_the_soonest_end_first_and_who_renews() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(home.path(), &with(&server), &["certs"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("OF"), "{}", ran.out);
    for part in [
        "web-1",
        "expired",
        "d ago",
        "2020-01-01 00:00:00 UTC",
        "by its agent",
    ] {
        assert!(lines[1].contains(part), "{part}: {}", ran.out);
    }
    assert!(
        lines[2].contains("issuing certificate") && lines[2].contains("in 35"),
        "{}",
        ran.out
    );
    let soon = run(
        home.path(),
        &with(&server),
        &["certs", "--expiring", "30", "--json"],
    )
    .await;
    let soon: serde_json::Value = serde_json::from_str(&soon.out).unwrap();
    assert_eq!(soon["items"].as_array().unwrap().len(), 1);
    let none = run(home.path(), &with(&server), &["certs", "--expiring", "7"]).await;
    assert_eq!(
        (none.code, none.out.trim()),
        (0, "no certificate ends within 7 days")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_prints_rows_and_says_that_there_are_more() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(
        home.path(),
        &with(&server),
        &["sql", "select 1", "--rows-max", "3"],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let words: Vec<Vec<&str>> = ran
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        words,
        [
            vec!["comm", "n"],
            vec!["bash", "3"],
            vec!["large", "18446744073709551615"],
            vec!["1"]
        ]
    );
    assert!(ran.err.contains("more than 3 rows"), "{}", ran.err);
    let wrong = run(home.path(), &with(&server), &["sql", "nonsense"]).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("Expected a statement"), "{}", wrong.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_prints_series_points_and_what_is_missing() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(
        home.path(),
        &with(&server),
        &["query", "up", "--time", "7", "--limit", "2"],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("up{job=\"node\"}") && ran.out.contains("0.5"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("samples are missing"), "{}", ran.err);
    let range = [
        "query",
        "up",
        "--time",
        "2026-01-02T03:04:05Z",
        "--range",
        "1h",
        "--step",
        "30m",
    ];
    let ran = run(home.path(), &with(&server), &range).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("{}") && ran.out.contains("2026-01-02T02:34:05.5Z"),
        "{}",
        ran.out
    );
    let wrong = run(home.path(), &with(&server), &["query", "sum("]).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("unclosed (bad_data)"), "{}", wrong.err);
    let wrong = run(home.path(), &with(&server), &["query", "up", "--step", "15s"]).await;
    assert_eq!(wrong.code, 2, "a step is of a range");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_come_over_all_pages_and_cannot_move_the_cursor() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(home.path(), &with(&server), &["findings"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.out.contains("first") && ran.out.contains("second") && ran.out.contains("T1059.004"),
        "{}",
        ran.out
    );
    assert!(
        !ran.out.contains('\u{1b}'),
        "control characters of a host are not printed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_is_explained_with_what_was_done() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let ran = run(
        home.path(),
        &with(&server),
        &["finding", FINDING, "--host", "web-1"],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    for part in [
        "entropy",
        "0.7500",
        "-i",
        "kill-process on pid 7 (hog): healed",
        "cpu_core_pct",
        "99",
        "applied",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let other = FINDING.replace("c22", "c33");
    let none = run(
        home.path(),
        &with(&server),
        &["finding", &other, "--host", "web-1"],
    )
    .await;
    assert_eq!(none.code, 5, "{}", none.err);
    let nobody = run(home.path(), &with(&server), &["host", "web-9"]).await;
    assert_eq!(nobody.code, 5);
    assert!(
        nobody.err.contains("`fleetmend hosts` shows all"),
        "{}",
        nobody.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_help_need_no_collector() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(home.path(), &[], &["completions", shell]).await;
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("findings"), "{shell}");
    }
    let help = run(home.path(), &[], &["--help"]).await;
    assert!(
        help.out.contains("FLEETMEND_URL") && help.out.contains("Exit codes"),
        "{}",
        help.out
    );
    assert_eq!(run(home.path(), &[], &["nonsense"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_wrong_usage_and_says_what_can() {
    let home = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["findings", "--state", "foo"], "open, resolved"),
        (&["findings", "--severity", "foo"], "critical"),
        (&["findings", "--kind", "foo"], "sigma"),
        (&["actions", "--ending", "foo"], "failed-safe"),
        (&["alerts", "--state", "foo"], "firing"),
        (&["tail", "--table", "findings,foo"], "process_events"),
        (&["findings", "--limit", "0"], "it has to be 1 or more"),
        (&["tail", "-n", "0"], "it has to be 1 or more"),
        (&["finding", ""], "a value is required for '<FINDING>'"),
        (&["action", ""], "a value is required for '<ACTION>'"),
    ];
    for (arguments, part) in cases {
        let ran = run(home.path(), &[], arguments).await;
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{arguments:?}: {}", ran.err);
    }
}
