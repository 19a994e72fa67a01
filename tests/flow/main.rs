//! The whole way with the real programs: a kernel event on this host becomes a row that SQL shows, whichever side
//! is killed on the way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of a test fail loudly, as the test does"
)]

#[path = "../../collector/store/tests/conformance/server.rs"]
#[expect(dead_code, reason = "the conformance suite asks more of it")]
mod clickhouse;
mod export;
mod instance;
mod leave;
mod scale;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use fleetmend_testkit::ConnectProxy;
use fleetmend_testkit::connect::Manner;
use instance::{Instance, Way};

/// Longest wait for a fact to arrive.
const ARRIVE: Duration = Duration::from_secs(60);

/// Runs `true` with arguments that nobody else uses; it lives about a millisecond.
fn run_marked(marker: &str, count: usize) {
    for number in 0..count {
        let status = Command::new("/bin/true")
            .arg(format!("{marker}-{number}"))
            .status()
            .unwrap();
        assert!(status.success());
    }
}

/// How often each marked exec is stored.
async fn stored(instance: &Instance, marker: &str) -> BTreeMap<String, u64> {
    let query = format!(
        "select args[2] as marker, count(*) as n from process_events where kind = 'exec' and args[2] like '{marker}-%' group by 1"
    );
    let rows = instance.sql(&query).await;
    let pair = |row: &serde_json::Value| {
        let count = row["n"]
            .as_u64()
            .or_else(|| row["n"].as_str()?.parse().ok())
            .unwrap();
        (row["marker"].as_str().unwrap().to_owned(), count)
    };
    rows.iter().map(pair).collect()
}

async fn wait_until_each_once(instance: &Instance, marker: &str, count: usize) {
    let wanted: BTreeMap<String, u64> = (0..count)
        .map(|number| (format!("{marker}-{number}"), 1))
        .collect();
    let mut seen = BTreeMap::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < ARRIVE {
        seen = stored(instance, marker).await;
        assert!(
            seen.values().all(|times| *times == 1),
            "a row is doubled: {seen:?}"
        );
        if seen == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let missing: Vec<_> = wanted.keys().filter(|key| !seen.contains_key(*key)).collect();
    panic!("missing after {ARRIVE:?}: {missing:?}");
}

#[tokio::test]
async fn what_happens_here_is_shown_by_sql() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    run_marked("flow-short", 3);
    wait_until_each_once(&instance, "flow-short", 3).await;
    let rows = instance
        .sql("select ppid, parent_comm, source, comm from process_events where args[2] = 'flow-short-1' and kind = 'exec'")
        .await;
    assert_eq!(
        rows[0]["ppid"].as_u64(),
        Some(u64::from(std::process::id())),
        "{rows:?}"
    );
    assert_eq!(
        (rows[0]["comm"].as_str(), rows[0]["source"].as_str()),
        (Some("true"), Some("ebpf")),
        "{rows:?}"
    );
    let metrics = instance
        .wait_for_rows(
            "select count(distinct name || labels) as n from metrics having count(*) > 0",
            ARRIVE,
        )
        .await;
    let series = metrics[0]["n"]
        .as_u64()
        .or_else(|| metrics[0]["n"].as_str()?.parse().ok())
        .unwrap();
    assert!(series >= 150, "only {series} series");
    let probes = instance
        .wait_for_rows(
            "select distinct probe from probe_status where probe = 'bpf.process'",
            ARRIVE,
        )
        .await;
    assert_eq!(probes.len(), 1);
}

#[tokio::test]
async fn seconds_of_metrics_travel_relative_to_each_other_and_are_stored_once() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    let seconds = "select count(distinct time) as n from metrics having count(distinct time) >= 6";
    instance.wait_for_rows(seconds, ARRIVE).await;
    // Which batch is the first that one before it can shorten is for the agent to say.
    let begun = Instant::now();
    loop {
        let sent = instance.ask_agent("/metrics").unwrap_or_default();
        let relative = sent.lines().any(|line| {
            line.starts_with("fleetmend_agent_stream_relative_frames_total{lane=\"metrics\"}")
                && !line.ends_with(" 0")
        });
        if relative {
            break;
        }
        assert!(
            begun.elapsed() < ARRIVE,
            "no batch of metrics was relative: {sent}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let doubled = "select name, labels, time from metrics group by 1, 2, 3 having count(*) > 1";
    assert_eq!(instance.sql(doubled).await, Vec::<serde_json::Value>::new());
    let lost = "select reason from gaps where stage in ('ingest', 'store')";
    assert_eq!(instance.sql(lost).await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn collector_killed_on_the_way_loses_and_doubles_nothing() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    run_marked("flow-before", 40);
    wait_until_each_once(&instance, "flow-before", 40).await;
    run_marked("flow-during", 40);
    instance.kill_collector();
    run_marked("flow-while-gone", 40);
    instance.start_collector().await;
    run_marked("flow-after", 40);
    for marker in ["flow-before", "flow-during", "flow-while-gone", "flow-after"] {
        wait_until_each_once(&instance, marker, 40).await;
    }
}

#[tokio::test]
async fn agent_killed_after_spooling_loses_and_doubles_nothing() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    run_marked("flow-first", 20);
    wait_until_each_once(&instance, "flow-first", 20).await;
    // With the collector gone what happens now can only be in the spool when the agent is killed.
    instance.kill_collector();
    run_marked("flow-spooled", 40);
    instance.wait_until_spooled().await;
    instance.kill_agent();
    instance.start_collector().await;
    instance.start_agent().await;
    for (marker, count) in [("flow-first", 20), ("flow-spooled", 40)] {
        wait_until_each_once(&instance, marker, count).await;
    }
}

// The proxy runs here while programs are waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_behind_a_proxy_joins_a_collector_on_ipv6() {
    let proxy = ConnectProxy::start_at("[::1]:0", &[]).await.unwrap();
    // agent:open sesame
    proxy.set(Manner::For("Basic YWdlbnQ6b3BlbiBzZXNhbWU=".to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut instance = Instance::start_by(Way {
        listen: "[::1]",
        name: "[::1]",
        stream: format!(
            "proxy = \"http://agent@{}\"\nproxy_password_file = \"{}\"\n",
            proxy.address(),
            password.display()
        ),
        ..Way::default()
    })
    .await;
    instance.start_agent().await;
    run_marked("flow-behind", 3);
    wait_until_each_once(&instance, "flow-behind", 3).await;
    let tunnels = proxy.tunnels();
    assert!(
        tunnels.len() >= 2 && tunnels.iter().all(|asked| asked.starts_with("[::1]:")),
        "{tunnels:?}"
    );
    let doctor = instance.doctor();
    assert!(doctor.contains("a tunnel through the proxy [::1]:"), "{doctor}");
    assert!(!doctor.contains("sesame"), "{doctor}");
}
