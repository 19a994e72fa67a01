//! Which logs are read, and for whom.

use super::*;

#[test]
fn journal_that_was_left_behind_does_not_keep_the_files_from_being_read() {
    let host = Host::new();
    let mut journal = Writer::create(&host.journal(), 1, true);
    journal.line(1, "app", "of old");
    add(&host.at("auth.log"), "old\n");
    let two_days_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 3_600);
    let file = File::options().write(true).open(host.journal()).unwrap();
    file.set_modified(two_days_ago).unwrap();
    let mut running = host.start();
    let facts = running.turn();
    let probe = facts.probe("logs.journal");
    assert!(
        probe.state == ProbeState::Degraded && probe.reason.contains("for a day"),
        "{}",
        probe.reason
    );
    add(&host.at("auth.log"), "Jan  7 13:05:01 web1 app: from the file\n");
    assert_eq!(running.turn().messages(), ["from the file"]);
}

#[test]
fn requests_of_access_logs_go_to_rules_and_are_no_rows() {
    let host = Host::new();
    add(&host.at("access.log"), "old\n");
    let (rules, mut requests) = mpsc::channel(100);
    let mut running = host.start();
    running.reader = running.reader.telling(rules);
    running.turn();
    let line = "192.0.2.1 - - [07/Jan/2026:13:05:01 +0000] \"GET /x?password=hunter2 HTTP/1.1\" 200 5\n";
    add(&host.at("access.log"), line);
    running.turn();
    fs::rename(host.at("access.log"), host.at("access.log.1")).unwrap();
    add(&host.at("access.log"), "of no known form\n");
    let facts = running.end();
    assert!(
        facts.records.is_empty() && facts.gaps.is_empty(),
        "{:?}",
        facts.messages()
    );
    let request = requests.try_recv().unwrap();
    assert_eq!(request.fields.get("c-ip").map(String::as_str), Some("192.0.2.1"));
    assert!(
        request.fields.values().all(|value| !value.contains("hunter2")),
        "{request:?}"
    );
    let other = requests.try_recv().unwrap();
    assert_eq!(
        other.fields.get("message").map(String::as_str),
        Some("of no known form")
    );
    assert!(requests.try_recv().is_err());
    // Read on after a restart, and not again.
    assert!(host.start().end().records.is_empty());
}
