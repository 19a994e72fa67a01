//! Records in others' words, held against lists of what those words are (`tests/schema`).

use collector_export::{Record, RecordFormat, render};
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::*;
use fleetmend_event::{ActionId, Fact, FindingId, HostId, Lane, TimeMicros, table};
use serde_json::{Value, json};

use crate::acts::acts;

const ECS: &str = include_str!("../schema/ecs.json");
const OCSF: &str = include_str!("../schema/ocsf.json");
const NOW: TimeMicros = TimeMicros(1_700_000_000_123_456);

fn process(kind: ProcessEventKind, known: bool) -> ProcessEvent {
    let text = |text: &str| known.then(|| text.to_owned());
    ProcessEvent {
        time: NOW,
        boot_ns: 1,
        kind,
        pid: 7,
        start_boot_ns: 1 << 60,
        ppid: 1,
        parent_comm: text("init"),
        parent_exe: text("/sbin/init"),
        parent_command_line: text("init"),
        comm: "ls".to_owned(),
        exe: text("/usr/bin/ls"),
        args: if known {
            vec!["ls".to_owned(), "-l".to_owned()]
        } else {
            Vec::new()
        },
        args_truncated: false,
        uid: 0,
        gid: 0,
        cgroup: text("/a"),
        unit: text("a.service"),
        container_id: text("c"),
        exit_code: known.then_some(1),
        exit_signal: None,
        duration_us: known.then_some(5),
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Ebpf,
        euid: None,
        login_uid: None,
        working_directory: None,
        fileless: None,
    }
}

fn network(kind: NetworkEventKind, known: bool) -> NetworkEvent {
    let listens = kind == NetworkEventKind::Listen;
    NetworkEvent {
        time: NOW,
        boot_ns: 1,
        kind,
        owner: ConnectionOwner::Caller,
        pid: if known { 7 } else { 0 },
        start_boot_ns: 0,
        comm: "curl".to_owned(),
        uid: 33,
        protocol: "tcp".to_owned(),
        local_address: "10.0.0.1".to_owned(),
        local_port: 4_000,
        remote_address: if listens {
            String::new()
        } else {
            "2001:db8::1".to_owned()
        },
        remote_port: if listens { 0 } else { 443 },
        bytes_sent: known.then_some(1),
        bytes_received: known.then_some(2),
        duration_us: known.then_some(3),
        error: (!known && kind == NetworkEventKind::Connect).then_some(111),
        source: Source::Proc,
        exe: None,
        cgroup: None,
        unit: None,
        container_id: None,
        retransmits: None,
        round_trip_us: None,
        network_namespace: None,
    }
}

fn finding(kind: FindingKind, state: FindingState, severity: Severity, known: bool) -> Finding {
    Finding {
        time: NOW,
        finding_id: FindingId::random(),
        kind,
        rule: "rule-1".to_owned(),
        title: "a title".to_owned(),
        severity,
        state,
        first_time: if known { NOW } else { TimeMicros(1) },
        count: 2,
        score: known.then_some(0.93),
        subject_kind: SubjectKind::Process,
        subject: "bash".to_owned(),
        pid: known.then_some(7),
        start_boot_ns: None,
        techniques: if known {
            vec!["T1059.004".to_owned()]
        } else {
            Vec::new()
        },
        tactics: if known {
            vec!["execution".to_owned()]
        } else {
            Vec::new()
        },
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

fn action(ending: Option<Ending>) -> ActionEvent {
    ActionEvent {
        time: NOW,
        action_id: ActionId::random(),
        finding_id: FindingId::random(),
        remedy: "kill-process".to_owned(),
        target: "pid 7".to_owned(),
        stage: ActionStage::Ended,
        ending,
        reason: "done".to_owned(),
        before: "{}".to_owned(),
        after: "{}".to_owned(),
        asserted_by_agent: false,
        ledger_index: 3,
    }
}

fn site(verdict: SiteVerdict, known: bool) -> SiteProbe {
    SiteProbe {
        time: NOW,
        site: "shop".to_owned(),
        url: "https://shop.example/".to_owned(),
        verdict,
        reason: "200".to_owned(),
        remote_address: known.then(|| "192.0.2.1".to_owned()),
        http_status: known.then_some(200),
        redirect_count: 0,
        dns_ms: None,
        connect_ms: None,
        tls_ms: None,
        first_byte_ms: None,
        total_ms: known.then_some(12.5),
        body_bytes: None,
        tls_version: None,
        certificate_not_after: None,
        certificate_issuer: None,
        certificate_fault: None,
    }
}

/// Rows of tables that say how something stands.
fn states() -> Vec<Fact> {
    let text = str::to_owned;
    vec![
        Fact::from(Gap {
            time: NOW,
            table: text("*"),
            lane: Lane::Events,
            from_time: TimeMicros(1),
            to_time: NOW,
            count: 5,
            exactness: Exactness::Exact,
            stage: GapStage::Kernel,
            reason: text("ring_full"),
        }),
        Fact::from(ProcessSnapshot {
            time: NOW,
            pid: 7,
            start_boot_ns: 1,
            ppid: 1,
            comm: text("a"),
            exe: None,
            exe_deleted: false,
            command_line: text("a -b"),
            uid: 0,
            state: text("R"),
            cgroup: None,
            unit: None,
            container_id: Some(text("c")),
            cpu_core_pct: 1.0,
            rss_bytes: 1,
            read_bytes: 0,
            write_bytes: 0,
            fd_count: None,
            thread_count: 1,
        }),
        Fact::from(UnitState {
            time: NOW,
            unit: text("a.service"),
            description: text("a"),
            load_state: text("loaded"),
            active_state: text("failed"),
            sub_state: text("failed"),
            main_pid: 0,
            restart_count: 1,
            result: text("exit-code"),
        }),
        Fact::from(ProbeStatus {
            time: NOW,
            probe: text("bpf"),
            state: ProbeState::Broken,
            reason: text("no"),
            hint: text(""),
            seen: 0,
            delivered: 0,
            lost: 0,
        }),
        Fact::from(HostInfo {
            time: NOW,
            hostname: text("web-1"),
            os: text("Debian"),
            kernel: text("6.1"),
            arch: text("x86_64"),
            cpu_count: 2,
            memory_bytes: u64::MAX,
            boot_time: TimeMicros(0),
            agent_version: text("0.1.0"),
            healing: text("absent"),
        }),
        Fact::from(ModelStatus {
            time: NOW,
            model: text("m"),
            version: text("1"),
            digest: text("d"),
            state: ModelState::Active,
            reason: text(""),
            windows: 1,
            fitted_at: None,
            inference_p99_us: None,
            score: None,
        }),
        Fact::from(LedgerEntry {
            time: NOW,
            index: 1,
            previous_hash: text("0"),
            hash: text("1"),
            body: text("{}"),
        }),
    ]
}

fn facts() -> Vec<Fact> {
    let mut facts = states();
    for known in [true, false] {
        facts.extend(acts(known, NOW));
        for kind in ProcessEventKind::ALL {
            facts.push(process(*kind, known).into());
        }
        for kind in NetworkEventKind::ALL {
            facts.push(network(*kind, known).into());
        }
        for kind in FindingKind::ALL {
            for state in FindingState::ALL {
                for severity in Severity::ALL {
                    facts.push(finding(*kind, *state, *severity, known).into());
                }
            }
        }
        for verdict in SiteVerdict::ALL {
            facts.push(site(*verdict, known).into());
        }
    }
    let endings = Ending::ALL.iter().map(|ending| Some(*ending));
    facts.extend(endings.chain([None]).map(|ending| action(ending).into()));
    facts
}

fn document(format: RecordFormat, fact: Fact, name: Option<&str>) -> Value {
    let record = Record {
        table: table::table_by_id(fact.table_id()).unwrap(),
        host: HostId::from_bytes([5; 16]),
        ingested_at: NOW.plus_micros(1),
        time: NOW,
        hash: 9,
        fact,
    };
    render(format, &record, name)
}

fn rendered(format: RecordFormat) -> Vec<Value> {
    let named = facts()
        .into_iter()
        .map(|fact| document(format, fact, Some("web-1")));
    let unnamed = facts().into_iter().map(|fact| document(format, fact, None));
    named.chain(unnamed).collect()
}

fn act(wanted: impl Fn(&Fact) -> bool) -> Fact {
    acts(true, NOW).into_iter().find(|fact| wanted(fact)).unwrap()
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

fn leaves(value: &Value, path: String, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                leaves(value, path, found);
            }
        }
        other => found.push((path, other.clone())),
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "text" => value.is_string(),
        "texts" => value
            .as_array()
            .is_some_and(|all| all.iter().all(Value::is_string)),
        "long" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        "float" => value.is_number(),
        "date" => value
            .as_str()
            .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        "ip" => value
            .as_str()
            .is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        _ => false,
    }
}

#[test]
fn documents_hold_only_fields_and_values_of_ecs() {
    let schema: Value = serde_json::from_str(ECS).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for document in rendered(RecordFormat::Ecs) {
        for required in schema["required"].as_array().unwrap() {
            assert!(
                at(&document, required.as_str().unwrap()).is_some(),
                "{required}: {document}"
            );
        }
        assert_eq!(at(&document, "ecs.version").unwrap(), &schema["version"]);
        let mut all = Vec::new();
        leaves(&document, String::new(), &mut all);
        for (path, value) in all
            .into_iter()
            .filter(|(path, _)| !path.starts_with("fleetmend."))
        {
            let kind = schema["fields"][&path].as_str();
            let kind = kind.unwrap_or_else(|| panic!("{path} is no field of ECS"));
            assert!(is_of_type(&value, kind), "{path} is no {kind}: {value}");
            if let Some(values) = schema["values"][&path].as_array() {
                assert!(values.contains(&value), "{path} must not be {value}");
            }
            seen.insert(path);
        }
        let categories = at(&document, "event.category").and_then(Value::as_array);
        for category in categories.into_iter().flatten() {
            let allowed = schema["types_of_category"][category.as_str().unwrap()]
                .as_array()
                .unwrap();
            let types = at(&document, "event.type").and_then(Value::as_array).unwrap();
            assert!(
                types.iter().all(|kind| allowed.contains(kind)),
                "{category}: {types:?}"
            );
        }
    }
    let listed: std::collections::BTreeSet<String> =
        schema["fields"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(seen, listed, "the list holds what is written, no more");
}

#[test]
fn events_hold_what_their_class_of_ocsf_requires() {
    let schema: Value = serde_json::from_str(OCSF).unwrap();
    let mut classes = std::collections::BTreeSet::new();
    for event in rendered(RecordFormat::Ocsf) {
        let uid = event["class_uid"].as_u64().unwrap();
        let class = &schema["classes"][uid.to_string()];
        classes.insert(uid.to_string());
        let required = [&schema["required"], &class["required"]];
        for path in required.iter().flat_map(|list| list.as_array().unwrap()) {
            assert!(at(&event, path.as_str().unwrap()).is_some(), "{path}: {event}");
        }
        if let Some(attacks) = event["finding_info"].get("attacks") {
            let sub = json!({ "technique": { "uid": "T1059" }, "sub_technique": { "uid": "T1059.004" } });
            assert_eq!(attacks, &json!([sub, { "tactic": { "name": "execution" } }]));
        }
        let contained = event["process"].get("container").is_some();
        let profiles = event["metadata"]["profiles"].as_array().unwrap();
        assert_eq!(profiles.contains(&json!("container")), contained, "{event}");
        let number = |name: &str| event[name].as_u64().unwrap();
        assert_eq!(number("category_uid"), uid / 1_000);
        assert_eq!(number("type_uid"), uid * 100 + number("activity_id"));
        assert_eq!(number("time"), 1_700_000_000_123);
        assert_eq!(event["metadata"]["version"], schema["version"]);
        let one_of = |name: &str, list: &Value| {
            let value = event.get(name);
            value.is_none_or(|value| list.as_array().unwrap().contains(value))
        };
        assert!(one_of("activity_id", &class["activity_id"]), "{event}");
        assert!(one_of("status_id", &class["status_id"]), "{event}");
        assert!(one_of("severity_id", &schema["severity_id"]), "{event}");
        let attributes = schema["attributes"].as_array().unwrap();
        for name in event.as_object().unwrap().keys() {
            assert!(
                attributes.contains(&Value::String(name.clone())),
                "{name} is not of the class"
            );
        }
    }
    let listed: std::collections::BTreeSet<String> =
        schema["classes"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(classes, listed);
}

#[test]
fn a_record_keeps_its_id() {
    for format in [RecordFormat::Ecs, RecordFormat::Ocsf] {
        let id = |value: &Value| match format {
            RecordFormat::Ecs => value["event"]["id"].clone(),
            RecordFormat::Ocsf => value["metadata"]["uid"].clone(),
        };
        let first = rendered(format);
        assert!(id(&first[0]).as_str().unwrap().starts_with("050505050505-"));
        assert_eq!(id(&first[0]), id(&rendered(format)[0]));
    }
}

#[test]
fn links_and_renames_are_told_by_the_name_that_they_leave() {
    for (kind, path, says) in [
        (FileEventKind::Symlink, "/etc/hosts~", Some("/etc/hosts")),
        (FileEventKind::Link, "/etc/hosts~", None),
        (FileEventKind::Rename, "/etc/hosts~", None),
        (FileEventKind::Unlink, "/etc/hosts", None),
    ] {
        let fact = act(|fact| matches!(fact, Fact::FileEvent(row) if row.kind == kind));
        let document = document(RecordFormat::Ecs, fact, None);
        assert_eq!(at(&document, "file.path"), Some(&json!(path)), "{kind}");
        let target = at(&document, "file.target_path").and_then(Value::as_str);
        assert_eq!(target, says, "{kind}");
    }
}

#[test]
fn login_from_a_host_by_name_has_no_address() {
    let mut fact = act(|fact| matches!(fact, Fact::AuthEvent(_)));
    let event = document(RecordFormat::Ocsf, fact.clone(), None);
    assert_eq!(event["src_endpoint"]["ip"], "192.0.2.7");
    if let Fact::AuthEvent(row) = &mut fact {
        row.remote_address = Some("client.example".to_owned());
    }
    let event = document(RecordFormat::Ocsf, fact, None);
    assert_eq!(event["src_endpoint"]["hostname"], "client.example");
    assert_eq!(event["src_endpoint"].get("ip"), None);
}
