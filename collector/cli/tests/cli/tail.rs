use crate::run;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_rows_as_they_come_and_ends_after_so_many() {
    let (server, home) = (Server::start().await, tempfile::tempdir().unwrap());
    let environment = [
        ("FLEETMEND_URL", server.url.as_str()),
        ("FLEETMEND_TOKEN", "good"),
    ];
    let arguments = ["tail", "--table", "process_events,findings", "-n", "2"];
    let ran = run(home.path(), &environment, &arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    assert!(
        ran.out.contains("exec pid=7 ppid=1 uid=0 ls ls -l"),
        "{}",
        ran.out
    );
    let json = run(
        home.path(),
        &environment,
        &["tail", "--json", "--table", "process_events,findings", "-n", "1"],
    )
    .await;
    let row: serde_json::Value = serde_json::from_str(json.out.trim()).unwrap();
    assert_eq!(row["row"]["comm"], "ls");
}
