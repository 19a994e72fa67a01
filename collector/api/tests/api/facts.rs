//! What the store's rows look like through the API.

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::*;
use fleetmend_event::{ActionId, Fact, FindingId, Lane, MetricFrame, SeriesKey, TimeMicros};
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

fn host_info(healing: &str, time: TimeMicros) -> HostInfo {
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

fn process(pid: u32, state: &str, cpu_core_pct: f64, later_us: i64) -> ProcessSnapshot {
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

fn step(
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
