//! What a notice is about: its subject, and the rows that show it.

use fleetmend_event::Fact;
use fleetmend_event::table::{Act, FindingKind, SubjectKind};
use serde_json::{Value, json};

use super::correlate::Fired;
use super::event::RawEvent;
use super::matching::Matched;
use super::meta::Meta;
use crate::tracker::{Notice, Subject};

/// What a notice is about.
pub(super) struct Scene {
    pub(super) subject: Subject,
    pub(super) evidence: Value,
}

pub(super) fn notice(meta: &Meta, scene: Scene, matched: &[Matched]) -> Notice {
    let factor = |matched: &Matched| json!({"feature": matched.field, "value": matched.value, "expected": matched.wanted, "contribution": null});
    about(meta, scene, matched.iter().map(factor).collect())
}

pub(super) fn correlated(meta: &Meta, scene: Scene, fired: &Fired) -> Notice {
    let mut factors = vec![
        json!({"feature": "matches", "value": fired.matches, "expected": null, "contribution": null}),
        json!({"feature": "figure", "value": fired.figure, "expected": null, "contribution": null}),
    ];
    let group = fired.group.iter();
    factors.extend(group.map(
        |(name, value)| json!({"feature": name, "value": value, "expected": null, "contribution": null}),
    ));
    let subject = group_subject(&fired.group).unwrap_or_else(|| scene.subject.clone());
    about(meta, Scene { subject, ..scene }, Value::Array(factors))
}

fn about(meta: &Meta, scene: Scene, factors: Value) -> Notice {
    Notice {
        kind: FindingKind::Sigma,
        rule: meta.key.clone(),
        title: meta.title.clone(),
        severity: meta.severity,
        score: None,
        subject: scene.subject,
        techniques: meta.techniques.clone(),
        tactics: meta.tactics.clone(),
        factors,
        evidence: scene.evidence,
    }
}

/// What a correlation over one field is about.
fn group_subject(group: &[(String, String)]) -> Option<Subject> {
    let [(name, value)] = group else { return None };
    let name = name.to_lowercase();
    let kind = if name.contains("user") {
        SubjectKind::User
    } else if name.contains("address") || name.ends_with("ip") {
        SubjectKind::Address
    } else {
        return None;
    };
    Some(Subject::named(kind, value))
}

pub(super) fn log_subject(unit: Option<&str>, program: &str) -> Subject {
    match unit {
        Some(unit) => Subject::named(SubjectKind::Unit, unit),
        None => Subject::named(SubjectKind::Process, program),
    }
}

pub(super) fn raw_subject(record: &RawEvent) -> Subject {
    let process = ["exe", "Image", "comm", "a0"]
        .iter()
        .find_map(|name| record.fields.get(*name));
    match (record.fields.get("c-ip"), process) {
        (Some(address), _) => Subject::named(SubjectKind::Address, address),
        (None, Some(process)) => Subject::named(SubjectKind::Process, base_name(process)),
        (None, None) => Subject::named(SubjectKind::Host, record.service.as_deref().unwrap_or("host")),
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn process(comm: &str, pid: u32, start_boot_ns: u64) -> Subject {
    Subject {
        process: Some((pid, start_boot_ns)),
        ..Subject::named(SubjectKind::Process, comm)
    }
}

pub(super) fn scene(fact: &Fact) -> Scene {
    let of_act = |act: &dyn Act| {
        let actor = act.actor();
        process(&actor.comm, actor.pid, actor.start_boot_ns)
    };
    let (subject, evidence) = match fact {
        Fact::ProcessEvent(event) => (
            process(&event.comm, event.pid, event.start_boot_ns),
            json!({"process_events": event}),
        ),
        Fact::NetworkEvent(event) => (
            process(&event.comm, event.pid, event.start_boot_ns),
            json!({"network_events": event}),
        ),
        Fact::FileEvent(event) => (of_act(event.as_ref()), json!({"file_events": event})),
        Fact::CredentialEvent(event) => (of_act(event.as_ref()), json!({"credential_events": event})),
        Fact::MemoryEvent(event) => (of_act(event.as_ref()), json!({"memory_events": event})),
        Fact::KernelEvent(event) => (of_act(event.as_ref()), json!({"kernel_events": event})),
        Fact::SignalEvent(event) => (of_act(event.as_ref()), json!({"signal_events": event})),
        Fact::IntegrityEvent(event) => (
            Subject::named(SubjectKind::File, &event.path),
            json!({"integrity_events": event}),
        ),
        Fact::AuthEvent(event) => (
            Subject::named(SubjectKind::User, &event.user),
            json!({"auth_events": event}),
        ),
        _ => (Subject::named(SubjectKind::Host, "host"), Value::Null),
    };
    Scene { subject, evidence }
}
