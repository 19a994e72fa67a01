//! Rows in the Elastic Common Schema, version [`VERSION`]. `docs/specs/export.md` is the table of the mapping.
//!
//! Fields of ECS are nested objects; what ECS has no field for stays under `fleetmend`, with all columns of the row, so
//! that nothing is lost on the way.

mod act;

use std::net::IpAddr;

use fleetmend_event::Fact;
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{
    ActionEvent, Finding, FindingKind, FindingState, NetworkEvent, NetworkEventKind, ProcessEvent,
    ProcessEventKind, Severity, SiteProbe, SiteVerdict,
};
use serde_json::{Map, Value, json};

use crate::record::Record;
use crate::summary::summary;

/// Version of ECS that is written.
pub const VERSION: &str = "8.17.0";

/// A row as one ECS document.
pub fn document(record: &Record, host_name: Option<&str>) -> Value {
    let mut event = Map::new();
    event.insert("id".to_owned(), json!(record.id()));
    event.insert("module".to_owned(), json!("fleetmend"));
    event.insert("provider".to_owned(), json!("fleetmend"));
    event.insert(
        "dataset".to_owned(),
        json!(format!("fleetmend.{}", record.table.name)),
    );
    event.insert("ingested".to_owned(), json!(record.ingested_at));
    let mut document = Map::new();
    document.insert("@timestamp".to_owned(), json!(record.time));
    document.insert("ecs".to_owned(), json!({ "version": VERSION }));
    document.insert("message".to_owned(), json!(summary(&record.fact)));
    let mut host = Map::from_iter([("id".to_owned(), json!(record.host.to_string()))]);
    if let Some(name) = host_name {
        host.insert("name".to_owned(), json!(name));
        host.insert("hostname".to_owned(), json!(name));
    }
    for (field, value) in of_fact(&record.fact) {
        match field {
            "event" => merge(&mut event, value),
            "host" => merge(&mut host, value),
            _ => {
                document.insert(field.to_owned(), value);
            }
        }
    }
    document.insert("event".to_owned(), Value::Object(event));
    document.insert("host".to_owned(), Value::Object(host));
    let fleetmend = json!({ "table": record.table.name, "row": record.columns() });
    document.insert("fleetmend".to_owned(), fleetmend);
    without_nulls(Value::Object(document))
}

fn merge(into: &mut Map<String, Value>, value: Value) {
    if let Value::Object(fields) = value {
        into.extend(fields);
    }
}

/// What ECS has no value for is left out.
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

type Fields = Vec<(&'static str, Value)>;

fn of_fact(fact: &Fact) -> Fields {
    match fact {
        Fact::ProcessEvent(row) => process(row),
        Fact::NetworkEvent(row) => network(row),
        Fact::Finding(row) => finding(row),
        Fact::Action(row) => action(row),
        Fact::SiteProbe(row) => site(row),
        Fact::Gap(row) => vec![
            (
                "event",
                json!({ "kind": "pipeline_error", "reason": row.reason, "start": row.from_time, "end": row.to_time }),
            ),
            ("error", json!({ "message": summary(fact), "type": row.stage })),
        ],
        Fact::ProcessSnapshot(row) => vec![
            ("event", state("process")),
            (
                "process",
                json!({
                    "pid": row.pid, "name": row.comm, "executable": row.exe, "command_line": row.command_line,
                    "parent": { "pid": row.ppid }, "user": { "id": row.uid.to_string() },
                }),
            ),
            ("container", container(row.container_id.as_deref())),
        ],
        Fact::UnitState(row) => vec![
            ("event", state("host")),
            (
                "service",
                json!({ "name": row.unit, "type": "systemd", "state": row.active_state }),
            ),
        ],
        Fact::HostInfo(row) => vec![
            ("event", state("host")),
            (
                "host",
                json!({
                    "architecture": row.arch, "name": row.hostname, "hostname": row.hostname,
                    "os": { "full": row.os, "kernel": row.kernel, "type": "linux" },
                }),
            ),
            (
                "agent",
                json!({ "type": "fleetmend-agent", "version": row.agent_version }),
            ),
        ],
        Fact::Metrics(_)
        | Fact::ProbeStatus(_)
        | Fact::SensorAccount(_)
        | Fact::Ledger(_)
        | Fact::ModelStatus(_) => vec![("event", state("host"))],
        Fact::FileEvent(row) => act::file(row),
        Fact::CredentialEvent(row) => act::credential(row),
        Fact::MemoryEvent(row) => act::memory(row),
        Fact::KernelEvent(row) => act::kernel(row),
        Fact::SignalEvent(row) => act::signal(row),
        Fact::IntegrityEvent(row) => act::integrity(row),
        Fact::SyscallProfile(row) => act::profile(row),
        Fact::LogRecord(row) => act::log(row),
        Fact::AuthEvent(row) => act::auth(row),
    }
}

fn state(category: &str) -> Value {
    json!({ "kind": "state", "category": [category], "type": ["info"] })
}

fn container(id: Option<&str>) -> Value {
    id.map_or(Value::Null, |id| json!({ "id": id }))
}

fn process(row: &ProcessEvent) -> Fields {
    let kind = match row.kind {
        ProcessEventKind::Exec | ProcessEventKind::Fork => "start",
        ProcessEventKind::Exit => "end",
    };
    let args = (!row.args.is_empty()).then_some(&row.args);
    let parent = json!({
        "pid": row.ppid, "name": row.parent_comm, "executable": row.parent_exe,
        "command_line": row.parent_command_line,
    });
    let event = json!({
        "kind": "event", "category": ["process"], "type": [kind], "action": row.kind,
        "duration": row.duration_us.map(|micros| micros.saturating_mul(1_000)),
    });
    let process = json!({
        "pid": row.pid, "name": row.comm, "executable": row.exe, "args": args,
        "args_count": args.filter(|_| !row.args_truncated).map(Vec::len),
        "command_line": args.map(|args| args.join(" ")),
        "exit_code": row.exit_code, "parent": parent,
        "user": { "id": row.uid.to_string() }, "group": { "id": row.gid.to_string() },
    });
    vec![
        ("event", event),
        ("process", process),
        ("user", json!({ "id": row.uid.to_string() })),
        ("container", container(row.container_id.as_deref())),
        (
            "service",
            row.unit
                .as_ref()
                .map_or(Value::Null, |unit| json!({ "name": unit, "type": "systemd" })),
        ),
    ]
}

/// An address of ECS, where `ip` has to be one.
fn endpoint(address: &str, port: u32, bytes: Option<u64>) -> Value {
    if address.is_empty() {
        return Value::Null;
    }
    let ip = address.parse::<IpAddr>().ok().map(|ip| ip.to_string());
    json!({ "address": address, "ip": ip, "port": port, "bytes": bytes })
}

fn network(row: &NetworkEvent) -> Fields {
    let (types, direction): (&[&str], _) = match row.kind {
        NetworkEventKind::Connect => (&["connection", "start"], Some("egress")),
        NetworkEventKind::Accept => (&["connection", "start"], Some("ingress")),
        NetworkEventKind::Close => (&["connection", "end"], None),
        NetworkEventKind::Listen => (&["info"], None),
    };
    let outcome = match (row.kind, row.error) {
        (_, Some(_)) => Some("failure"),
        (NetworkEventKind::Connect | NetworkEventKind::Accept, None) => Some("success"),
        (NetworkEventKind::Close | NetworkEventKind::Listen, None) => None,
    };
    let event = json!({
        "kind": "event", "category": ["network"], "type": types, "action": row.kind, "outcome": outcome,
        "duration": row.duration_us.map(|micros| micros.saturating_mul(1_000)),
    });
    let local = endpoint(&row.local_address, row.local_port, row.bytes_sent);
    let remote = endpoint(&row.remote_address, row.remote_port, row.bytes_received);
    // Who began a connection that ends is not known: the host is told as the source.
    let (source, destination) = match row.kind {
        NetworkEventKind::Accept => (remote, local),
        NetworkEventKind::Listen => (Value::Null, local),
        NetworkEventKind::Connect | NetworkEventKind::Close => (local, remote),
    };
    let family = match row.local_address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Some("ipv4"),
        Ok(IpAddr::V6(_)) => Some("ipv6"),
        Err(_) => None,
    };
    let process = (row.pid > 0)
        .then(|| json!({ "pid": row.pid, "name": row.comm, "user": { "id": row.uid.to_string() } }));
    vec![
        ("event", event),
        (
            "network",
            json!({ "transport": row.protocol, "type": family, "direction": direction }),
        ),
        ("source", source),
        ("destination", destination),
        ("process", process.unwrap_or(Value::Null)),
    ]
}

/// From 0 to 100, as `event.severity` is the source's own number.
fn severity(severity: Severity) -> u32 {
    match severity {
        Severity::Info => 10,
        Severity::Low => 30,
        Severity::Medium => 50,
        Severity::High => 70,
        Severity::Critical => 90,
    }
}

fn finding(row: &Finding) -> Fields {
    let category = match row.kind {
        FindingKind::Sigma | FindingKind::Behaviour | FindingKind::Integrity => "intrusion_detection",
        FindingKind::Anomaly | FindingKind::Threshold => "host",
        FindingKind::Site => "web",
    };
    let kind = match row.state {
        FindingState::Open => "alert",
        FindingState::Resolved => "event",
    };
    let event = json!({
        "kind": kind, "category": [category], "type": ["info"], "action": format!("finding-{}", row.state),
        "severity": severity(row.severity), "start": row.first_time,
        "risk_score": row.score.map(|score| score * 100.0),
    });
    let threat = (!row.techniques.is_empty() || !row.tactics.is_empty()).then(|| {
        let ids = (!row.techniques.is_empty()).then_some(&row.techniques);
        let tactics = (!row.tactics.is_empty()).then_some(&row.tactics);
        json!({ "framework": "MITRE ATT&CK", "technique": { "id": ids }, "tactic": { "name": tactics } })
    });
    vec![
        ("event", event),
        (
            "rule",
            json!({ "id": row.rule, "name": row.title, "category": row.kind }),
        ),
        ("threat", threat.unwrap_or(Value::Null)),
        (
            "process",
            row.pid
                .map_or(Value::Null, |pid| json!({ "pid": pid, "name": row.subject })),
        ),
    ]
}

fn action(row: &ActionEvent) -> Fields {
    let outcome = row.ending.map(|ending| match ending {
        Ending::Healed | Ending::NoOp => "success",
        Ending::Reverted | Ending::FailedSafe => "failure",
        Ending::Unknown => "unknown",
    });
    let event = json!({
        "kind": "event", "category": ["host"], "type": ["change"], "outcome": outcome,
        "action": format!("{}-{}", row.remedy, row.stage), "reason": row.reason,
    });
    vec![("event", event)]
}

fn site(row: &SiteProbe) -> Fields {
    let (kind, outcome) = match row.verdict {
        SiteVerdict::Up => ("access", "success"),
        SiteVerdict::Down => ("error", "failure"),
        SiteVerdict::Unknown => ("info", "unknown"),
    };
    let nanos = |millis: f64| {
        let duration = std::time::Duration::try_from_secs_f64(millis / 1_000.0).ok()?;
        u64::try_from(duration.as_nanos()).ok()
    };
    let event = json!({
        "kind": "event", "category": ["web"], "type": [kind], "outcome": outcome, "action": "site-probe",
        "reason": row.reason, "duration": row.total_ms.and_then(nanos),
    });
    vec![
        ("event", event),
        ("url", json!({ "full": row.url })),
        (
            "http",
            row.http_status.map_or(
                Value::Null,
                |status| json!({ "response": { "status_code": status } }),
            ),
        ),
        (
            "server",
            row.remote_address
                .as_ref()
                .map_or(Value::Null, |address| json!({ "address": address })),
        ),
    ]
}
