//! What the store's rows look like through the API.

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::*;
use fleetmend_event::{ActionId, Fact, FindingId, HostId, MetricFrame, SeriesKey, TimeMicros};
use reqwest::Method;
use serde_json::{Value, json};

use crate::testbed::Testbed;

pub(crate) fn finding(title: &str) -> Finding {
    Finding {
        time: TimeMicros::now(),
        finding_id: FindingId::random(),
        kind: FindingKind::Sigma,
        rule: "rule-1".to_owned(),
        title: title.to_owned(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: TimeMicros::now(),
        count: 1,
        score: None,
        subject_kind: SubjectKind::Process,
        subject: "bash".to_owned(),
        pid: Some(7),
        start_boot_ns: Some(1 << 60),
        techniques: vec!["T1059.004".to_owned()],
        tactics: vec!["execution".to_owned()],
        factors: r#"[{"feature":"f","value":2,"expected":1,"contribution":0.5}]"#.to_owned(),
        evidence: r#"{"args":"-i"}"#.to_owned(),
    }
}

pub(crate) fn probe(name: &str) -> ProbeStatus {
    ProbeStatus {
        time: TimeMicros::now(),
        probe: name.to_owned(),
        state: ProbeState::Degraded,
        reason: "no kprobes".to_owned(),
        hint: String::new(),
        seen: 3,
        delivered: 2,
        lost: 1,
    }
}

pub(crate) fn host_info(healing: &str, time: TimeMicros) -> HostInfo {
    HostInfo {
        time,
        hostname: "web-1".to_owned(),
        os: "Debian".to_owned(),
        kernel: "6.18".to_owned(),
        arch: "x86_64".to_owned(),
        cpu_count: 2,
        memory_bytes: u64::MAX,
        boot_time: TimeMicros(0),
        agent_version: "0.1.0".to_owned(),
        healing: healing.to_owned(),
    }
}

pub(crate) fn process(pid: u32, state: &str, cpu_core_pct: f64, later_us: i64) -> ProcessSnapshot {
    ProcessSnapshot {
        time: TimeMicros::now().plus_micros(later_us),
        pid,
        start_boot_ns: 5,
        ppid: 1,
        comm: "c".to_owned(),
        exe: None,
        exe_deleted: false,
        command_line: "c -x".to_owned(),
        uid: 0,
        state: state.to_owned(),
        cgroup: None,
        unit: None,
        container_id: None,
        cpu_core_pct,
        rss_bytes: 1,
        read_bytes: 0,
        write_bytes: 0,
        fd_count: None,
        thread_count: 1,
    }
}

async fn pids(testbed: &Testbed, token: &str) -> Vec<u64> {
    let path = format!("hosts/{}/processes", testbed.host);
    let processes = testbed.get(&path, token).await;
    let items = processes["items"].as_array().unwrap().iter();
    items.map(|process| process["pid"].as_u64().unwrap()).collect()
}

pub(crate) fn step(
    finding: &Finding,
    action_id: ActionId,
    index: u64,
    stage: ActionStage,
    ending: Option<Ending>,
) -> ActionEvent {
    ActionEvent {
        time: TimeMicros::now(),
        action_id,
        finding_id: finding.finding_id,
        remedy: "kill-process".to_owned(),
        target: "pid 7 (bash)".to_owned(),
        stage,
        ending,
        reason: format!("step {index}"),
        before: r#"{"cpu_core_pct":99.0}"#.to_owned(),
        after: if index == 2 {
            r#"{"cpu_core_pct":0.0}"#.to_owned()
        } else {
            "{}".to_owned()
        },
        asserted_by_agent: false,
        ledger_index: index,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_described_by_all_who_know_of_it() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let bare = testbed.get("hosts", &token).await;
    assert_eq!(
        bare["items"][0]["hostname"],
        Value::Null,
        "it is enrolled and has said nothing yet"
    );

    let info = host_info("observe", TimeMicros::now());
    let cpu = |mode: &str| SeriesKey::new("system.cpu.utilization", "1", [("cpu.mode", mode)]);
    let memory = SeriesKey::new(
        "system.memory.utilization",
        "1",
        [("system.memory.state", "used")],
    );
    let tick = MetricFrame {
        time: TimeMicros::now(),
        series: vec![cpu("idle"), cpu("user"), cpu("iowait"), memory].into(),
        values: vec![0.5, 0.3, 0.2, 0.25],
    };
    let mut resolved = finding("gone");
    resolved.state = FindingState::Resolved;
    let facts: Vec<Fact> = vec![
        info.into(),
        tick.into(),
        probe("bpf.process").into(),
        finding("a").into(),
        resolved.into(),
    ];
    testbed.add(facts).await;

    let host = testbed.get(&format!("hosts/{}", testbed.host), &token).await;
    assert_eq!(host["hostname"], "web-1");
    assert_eq!(
        host["memory_bytes"],
        u64::MAX.to_string(),
        "beyond 2^53 a number is text"
    );
    assert_eq!(host["connected"], true);
    assert_eq!(host["probes"], json!({ "real": 0, "degraded": 1, "broken": 0 }));
    assert_eq!(
        (&host["findings_open"]["total"], &host["findings_open"]["worst"]),
        (&json!(1), &json!("high"))
    );
    assert!(
        (host["cpu_utilization"].as_f64().unwrap() - 0.3).abs() < 1e-9,
        "{host}"
    );
    assert_eq!(host["memory_utilization"], 0.25);
    let nobody = testbed
        .call(
            Method::GET,
            &format!("hosts/{}", uuid::Uuid::new_v4()),
            Some(&token),
            None,
        )
        .await;
    assert_eq!(nobody.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_with_findings_of_its_own_is_no_host() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let collector = HostId::from_bytes([0; 16]);
    let overdue = vec![finding("the newest backup is too old").into()];
    testbed.store.append_for(collector, overdue).await.unwrap();
    assert_eq!(
        testbed.get("findings", &token).await["items"][0]["host_id"],
        collector.to_string()
    );
    let hosts = testbed.get("hosts", &token).await;
    let ids: Vec<&Value> = hosts["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| &host["host_id"])
        .collect();
    assert_eq!(ids, [&json!(testbed.host.to_string())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_row_of_each_probe_and_process_counts() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let mut real = probe("bpf.process");
    real.time = real.time.plus_micros(1_000);
    real.state = ProbeState::Real;
    let rows = [
        process(1, "S", 1.0, 0),
        process(2, "R", 90.0, 0),
        process(3, "R", 5.0, 0),
        process(3, "X", 0.0, 1_000),
    ];
    let mut facts: Vec<Fact> = rows.into_iter().map(Fact::from).collect();
    facts.extend([Fact::from(probe("bpf.process")), Fact::from(real)]);
    testbed.add(facts).await;
    let probes = testbed
        .get(&format!("hosts/{}/probes", testbed.host), &token)
        .await;
    assert_eq!(probes["items"].as_array().unwrap().len(), 1);
    assert_eq!(probes["items"][0]["state"], "REAL");
    assert!(probes["items"][0].get("recency").is_none());
    assert_eq!(
        pids(&testbed, &token).await,
        [2, 1],
        "busiest first, without what has ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ended_while_no_agent_ran_is_not_listed() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let seconds_ago = |seconds: i64| TimeMicros::now().plus_millis(-seconds * 1_000);
    let facts: Vec<Fact> = vec![
        process(1, "S", 1.0, -60_000_000).into(),
        process(2, "S", 1.0, -60_000_000).into(),
        host_info("absent", seconds_ago(30)).into(),
        process(1, "S", 1.0, -29_000_000).into(),
        // The healer's state is no start: what has not changed since then runs on.
        host_info("observe", seconds_ago(20)).into(),
    ];
    testbed.add(facts).await;
    assert_eq!(pids(&testbed, &token).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_mean_nothing_are_refused_with_what_is_wanted() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let range = format!("metrics/range?host={}&name=m&points_max=", testbed.host);
    let cases = [
        (format!("{range}9"), "has to be 10 to 5000"),
        (format!("{range}5001"), "has to be 10 to 5000"),
        ("gaps?table=nope".to_owned(), "process_events"),
    ];
    for (path, part) in cases {
        let (status, problem) = testbed.call(Method::GET, &path, Some(&token), None).await;
        assert_eq!(status, 400, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
    testbed.get("gaps?table=findings", &token).await;
    let long = format!("select '{}'", "x".repeat(32 * 1_024));
    for (query, part) in [(" ;", "is empty"), (long.as_str(), "32768")] {
        let body = Some(json!({ "query": query }));
        let (status, problem) = testbed.call(Method::POST, "sql", Some(&token), body).await;
        assert_eq!(status, 400);
        assert!(problem["detail"].as_str().unwrap().contains(part), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_come_in_pages_without_losing_or_doubling_any() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let now = TimeMicros::now();
    let mut rows = Vec::new();
    for index in 0..25 {
        let mut row = finding(&format!("f{index}"));
        // Five share each time: the cursor has to tell them apart.
        row.time = now.plus_micros(-(index / 5) * 1_000);
        if index % 5 == 0 {
            let mut resolved = row.clone();
            resolved.time = row.time.plus_micros(1);
            resolved.state = FindingState::Resolved;
            rows.push(Fact::from(resolved));
        }
        rows.push(Fact::from(row));
    }
    testbed.add(rows).await;
    let mut titles = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = testbed
            .get(&format!("findings?limit=7&cursor={cursor}"), &token)
            .await;
        titles.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["title"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(titles.len(), 25);
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), 25);
    let count = async |query: &str| {
        testbed.get(&format!("findings?limit=100&{query}"), &token).await["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("state=open").await, 20);
    assert_eq!(count("state=resolved").await, 5);
    assert_eq!(count("severity=critical").await, 0);
    assert_eq!(count("severity=medium&kind=sigma").await, 25);
    assert_eq!(count("rule=o'brien").await, 0, "a quote stays in its text");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_shows_its_history_its_explanation_and_what_was_done() {
    let testbed = Testbed::start().await;
    let token = testbed.viewer().await;
    let open = finding("shell");
    let mut resolved = open.clone();
    resolved.time = open.time.plus_micros(5_000);
    resolved.state = FindingState::Resolved;
    let (healed, watched) = (ActionId::random(), ActionId::random());
    let facts: Vec<Fact> = vec![
        open.clone().into(),
        resolved.into(),
        step(&open, healed, 0, ActionStage::Proposed, None).into(),
        step(&open, healed, 1, ActionStage::Applied, None).into(),
        step(&open, healed, 2, ActionStage::Ended, Some(Ending::Healed)).into(),
        step(&open, watched, 3, ActionStage::WouldAct, None).into(),
    ];
    testbed.add(facts).await;
    let detail = testbed
        .get(&format!("findings/{}/{}", testbed.host, open.finding_id), &token)
        .await;
    assert_eq!(detail["finding"]["state"], "resolved");
    assert_eq!(detail["history"].as_array().unwrap().len(), 2);
    assert_eq!(detail["finding"]["factors"][0]["contribution"], 0.5);
    assert_eq!(detail["finding"]["evidence"]["args"], "-i");
    assert_eq!(detail["finding"]["start_boot_ns"], (1_u64 << 60).to_string());
    let outcomes: Vec<&Value> = detail["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|action| &action["outcome"])
        .collect();
    assert_eq!(outcomes, ["healed", "would_act"]);

    let action = testbed
        .get(&format!("actions/{}/{healed}", testbed.host), &token)
        .await;
    assert_eq!(action["before"]["cpu_core_pct"], 99.0);
    assert_eq!(action["after"]["cpu_core_pct"], 0.0);
    assert_eq!(action["steps"].as_array().unwrap().len(), 3);
    assert!(action["ended_at"].is_string());
    let list = testbed.get("actions?ending=healed", &token).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let list = testbed.get("actions?limit=1", &token).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(list["next_cursor"].is_string());
}
