//! Rows in the Open Cybersecurity Schema Framework, version [`VERSION`]. `docs/specs/export.md` is the table of the
//! mapping.
//!
//! | row | class |
//! |---|---|
//! | `process_events` | Process Activity 1007: exec and fork launch, exit terminates |
//! | `network_events` | Network Activity 4001 |
//! | `file_events`, `integrity_events` | File System Activity 1001 |
//! | `credential_events`, `signal_events` | Process Activity 1007 |
//! | `memory_events` | Memory Activity 1004 |
//! | `kernel_events` | modules: Kernel Extension Activity 1002; others: Base Event 0 |
//! | `auth_events` | Authentication 3002; accounts and secrets: Account Change 3001 |
//! | `findings` | Detection Finding 2004 |
//! | `actions` | Remediation Activity 7001: what was found is restored |
//! | all others | Base Event 0, activity 99 |
//!
//! What a class has no attribute for stays under `unmapped`, with all columns of the row.

mod act;

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{
    ActionEvent, Finding, FindingState, NetworkEvent, NetworkEventKind, ProcessEvent, ProcessEventKind,
    Severity,
};
use fleetmend_event::{Fact, TimeMicros};
use serde_json::{Map, Value, json};

use crate::record::Record;
use crate::summary::summary;

/// Version of OCSF that is written.
pub const VERSION: &str = "1.3.0";

const ACTIVITY_OTHER: u32 = 99;
/// `device.type_id` of a server: what runs an agent.
const SERVER: u32 = 1;
/// `file.type_id` of a regular file.
const REGULAR_FILE: u32 = 1;

/// Class, activity, severity and the attributes of the class.
struct Event {
    class: u32,
    activity: u32,
    activity_name: String,
    severity: u32,
    attributes: Value,
}

/// A row as one OCSF event.
pub fn event(record: &Record, host_name: Option<&str>) -> Value {
    let event = of_fact(&record.fact);
    let device = json!({
        "type_id": SERVER, "uid": record.host.to_string(), "hostname": host_name.map(str::to_owned)
            .unwrap_or_else(|| record.host.to_string()),
    });
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            all.insert(name.to_owned(), value);
        }
    };
    put("class_uid", json!(event.class));
    put("category_uid", json!(event.class / 1_000));
    put("activity_id", json!(event.activity));
    put("activity_name", json!(event.activity_name));
    put("type_uid", json!(event.class * 100 + event.activity));
    put("severity_id", json!(event.severity));
    put("time", millis(record.time));
    put("message", json!(summary(&record.fact)));
    put("device", device);
    put(
        "metadata",
        json!({
            "version": VERSION, "uid": record.id(), "logged_time": millis(record.ingested_at),
            "log_name": record.table.name, "profiles": profiles(&record.fact),
            "product": { "name": "Fleetmend", "vendor_name": "Fleetmend", "version": env!("CARGO_PKG_VERSION") },
        }),
    );
    if let Value::Object(attributes) = without_nulls(event.attributes) {
        for (name, value) in attributes {
            put(&name, value);
        }
    }
    put("unmapped", Value::Object(record.columns()));
    Value::Object(all)
}

/// `device` and `actor` are of the profile of hosts, a process' `container` of that of containers.
fn profiles(fact: &Fact) -> &'static [&'static str] {
    match fact {
        Fact::ProcessEvent(row) if row.container_id.is_some() => &["host", "container"],
        _ => &["host"],
    }
}

fn millis(time: TimeMicros) -> Value {
    json!(time.0.div_euclid(1_000))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}

fn of_fact(fact: &Fact) -> Event {
    match fact {
        Fact::ProcessEvent(row) => process(row),
        Fact::NetworkEvent(row) => network(row),
        Fact::Finding(row) => finding(row),
        Fact::Action(row) => action(row),
        Fact::Gap(_) => other("Loss", 3),
        Fact::Metrics(_)
        | Fact::ProcessSnapshot(_)
        | Fact::UnitState(_)
        | Fact::SiteProbe(_)
        | Fact::ProbeStatus(_)
        | Fact::Ledger(_)
        | Fact::HostInfo(_)
        | Fact::ModelStatus(_)
        | Fact::SensorAccount(_)
        | Fact::SyscallProfile(_)
        | Fact::LogRecord(_) => other("State", 1),
        Fact::FileEvent(row) => act::file_act(row),
        Fact::CredentialEvent(row) => act::credential(row),
        Fact::MemoryEvent(row) => act::memory(row),
        Fact::KernelEvent(row) => act::kernel(row).unwrap_or_else(|| other("State", 1)),
        Fact::SignalEvent(row) => act::signal(row),
        Fact::IntegrityEvent(row) => act::integrity(row),
        Fact::AuthEvent(row) => act::auth(row),
    }
}

fn other(activity_name: &str, severity: u32) -> Event {
    Event {
        class: 0,
        activity: ACTIVITY_OTHER,
        activity_name: activity_name.to_owned(),
        severity,
        attributes: json!({}),
    }
}

fn file(path: Option<&str>) -> Value {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Value::Null;
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    json!({ "path": path, "name": name, "type_id": REGULAR_FILE })
}

fn process(row: &ProcessEvent) -> Event {
    let (activity, activity_name) = match row.kind {
        ProcessEventKind::Exec | ProcessEventKind::Fork => (1, "Launch"),
        ProcessEventKind::Exit => (2, "Terminate"),
    };
    let command_line = (!row.args.is_empty()).then(|| row.args.join(" "));
    let user = json!({ "uid": row.uid.to_string() });
    let itself = json!({
        "pid": row.pid, "name": row.comm, "cmd_line": command_line, "file": file(row.exe.as_deref()),
        "user": user, "container": row.container_id.as_ref().map(|id| json!({ "uid": id })),
        "uid": format!("{}-{}", row.pid, row.start_boot_ns),
    });
    let parent = json!({
        "pid": row.ppid, "name": row.parent_comm, "cmd_line": row.parent_command_line,
        "file": file(row.parent_exe.as_deref()),
    });
    // Who ended a process is not known; the schema then has it be its own actor.
    let actor = match row.kind {
        ProcessEventKind::Exec | ProcessEventKind::Fork => parent,
        ProcessEventKind::Exit => itself.clone(),
    };
    Event {
        class: 1_007,
        activity,
        activity_name: activity_name.to_owned(),
        severity: 1,
        attributes: json!({
            "process": itself, "actor": { "process": actor }, "exit_code": row.exit_code,
            "duration": row.duration_us.map(|micros| micros / 1_000),
        }),
    }
}

fn network(row: &NetworkEvent) -> Event {
    let (activity, activity_name) = match (row.kind, row.error) {
        (NetworkEventKind::Connect, Some(_)) => (4, "Fail"),
        (NetworkEventKind::Connect | NetworkEventKind::Accept, _) => (1, "Open"),
        (NetworkEventKind::Close, _) => (2, "Close"),
        (NetworkEventKind::Listen, _) => (7, "Listen"),
    };
    let (direction, inbound) = match row.kind {
        NetworkEventKind::Connect => (2, false),
        NetworkEventKind::Accept => (1, true),
        NetworkEventKind::Listen => (0, true),
        NetworkEventKind::Close => (0, false),
    };
    let endpoint =
        |address: &str, port: u32| (!address.is_empty()).then(|| json!({ "ip": address, "port": port }));
    let local = endpoint(&row.local_address, row.local_port);
    let remote = endpoint(&row.remote_address, row.remote_port);
    let (source, destination) = if inbound { (remote, local) } else { (local, remote) };
    let (sent, received) = (row.bytes_sent, row.bytes_received);
    let traffic =
        (sent.is_some() || received.is_some()).then(|| json!({ "bytes_out": sent, "bytes_in": received }));
    let process = (row.pid > 0)
        .then(|| json!({ "pid": row.pid, "name": row.comm, "user": { "uid": row.uid.to_string() } }));
    Event {
        class: 4_001,
        activity,
        activity_name: activity_name.to_owned(),
        severity: 1,
        attributes: json!({
            "src_endpoint": source, "dst_endpoint": destination, "traffic": traffic,
            "connection_info": {
                "direction_id": direction, "protocol_name": row.protocol,
                "protocol_num": (row.protocol == "tcp").then_some(6),
            },
            "actor": process.map(|process| json!({ "process": process })),
            "duration": row.duration_us.map(|micros| micros / 1_000),
            "status_id": row.error.map_or(1, |_| 2), "status_code": row.error.map(|error| error.to_string()),
        }),
    }
}

fn severity(severity: Severity) -> u32 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}

fn finding(row: &Finding) -> Event {
    let (activity, activity_name, status) = match row.state {
        FindingState::Open if row.time == row.first_time => (1, "Create", 1),
        FindingState::Open => (2, "Update", 2),
        FindingState::Resolved => (3, "Close", 4),
    };
    let techniques = row.techniques.iter().map(|uid| technique(uid));
    let tactics = row
        .tactics
        .iter()
        .map(|name| json!({ "tactic": { "name": name } }));
    let attacks: Vec<Value> = techniques.chain(tactics).collect();
    let process = row
        .pid
        .map(|pid| json!([{ "process": { "pid": pid, "name": row.subject } }]));
    Event {
        class: 2_004,
        activity,
        activity_name: activity_name.to_owned(),
        severity: severity(row.severity),
        attributes: json!({
            "status_id": status, "is_alert": row.state == FindingState::Open,
            "count": row.count,
            "finding_info": {
                "uid": row.finding_id, "title": row.title, "types": [row.kind],
                "analytic": { "uid": row.rule, "name": row.rule, "type_id": analytic(row) },
                "attacks": (!attacks.is_empty()).then_some(attacks),
                "first_seen_time": millis(row.first_time), "last_seen_time": millis(row.time),
            },
            "resources": [{ "name": row.subject, "type": row.subject_kind }],
            "evidences": process,
            "confidence_score": row.score.and_then(|score| serde_json::Number::from_f64((score * 100.0).round())),
        }),
    }
}

/// An `attack` of ATT&CK: `T1059.004` is a part of `T1059`. The version of the matrix is not known.
fn technique(uid: &str) -> Value {
    match uid.split_once('.') {
        Some((whole, _)) => json!({ "technique": { "uid": whole }, "sub_technique": { "uid": uid } }),
        None => json!({ "technique": { "uid": uid } }),
    }
}

/// `analytic.type_id`: 1 a rule, 2 behavioural, 4 learned; 99 other.
fn analytic(row: &Finding) -> u32 {
    use fleetmend_event::table::FindingKind;
    match row.kind {
        FindingKind::Sigma | FindingKind::Threshold => 1,
        FindingKind::Behaviour | FindingKind::Integrity => 2,
        FindingKind::Anomaly => 4,
        FindingKind::Site => 99,
    }
}

fn action(row: &ActionEvent) -> Event {
    let status = match row.ending {
        Some(Ending::Healed | Ending::NoOp) => 1,
        Some(Ending::Reverted | Ending::FailedSafe) => 2,
        Some(Ending::Unknown) | None => 0,
    };
    Event {
        class: 7_001,
        activity: 3,
        activity_name: "Restore".to_owned(),
        severity: 1,
        attributes: json!({
            "command_uid": row.action_id, "status_id": status, "status_detail": row.reason,
            "remediation": { "desc": format!("{} on {}: {}", row.remedy, row.target, row.stage) },
        }),
    }
}
