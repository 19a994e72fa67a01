//! Signals that end or stop what guards the host.

use fleetmend_event::table::{Severity, SignalEvent, SignalEventKind, SubjectKind};
use serde_json::{Value, json};

use crate::behaviour::{Raise, Sign, Told, declare};
use crate::lineage::{Classes, Who, base_name};
use crate::tracker::Subject;

declare! {
    GUARD = "guard-signalled" ["T1562.001", "T1489"] ["stealth", "impact"] true;
}

/// Processes that guard the host.
const GUARDS: &[&str] = &[
    "fleetmend-agent",
    "fleetmend-healer",
    "auditd",
    "systemd-journald",
    "rsyslogd",
    "syslog-ng",
    "falco",
    "osqueryd",
    "wazuh-agentd",
];

const SIGTERM: i32 = 15;
/// Signals that daemons are steered by, and those that are ignored unless asked for: HUP, USR1, USR2, PIPE, CHLD, CONT,
/// URG, WINCH. Every other one ends or stops who does not expect it.
const HARMLESS: &[i32] = &[1, 10, 12, 13, 17, 18, 23, 28];
/// First of the real-time signals, by which journald is steered too.
const REAL_TIME: i32 = 32;

fn guard(row: &SignalEvent) -> Option<&str> {
    let name = row
        .target_exe
        .as_deref()
        .map(base_name)
        .or(row.target_comm.as_deref())?;
    // Command names are cut at 15 bytes.
    let found = GUARDS
        .iter()
        .find(|guard| **guard == name || (name.len() == 15 && guard.starts_with(name)));
    found
        .copied()
        .or((row.target_pid == std::process::id()).then_some(name))
}

pub(super) fn concerns(row: &SignalEvent) -> bool {
    let ends = row.signal > 0 && !HARMLESS.contains(&row.signal);
    let steers = |guard: &str| row.signal >= REAL_TIME && guard == "systemd-journald";
    ends && row.kind == SignalEventKind::Signal
        && row.target_pid != row.pid
        && guard(row).is_some_and(|guard| !steers(guard))
}

pub(super) fn judge(row: &SignalEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let Some(guard) = guard(row) else { return };
    // The service manager stops services, asked by whom is told by that one's own acts.
    let manager = who
        .own
        .any(Classes::INIT | Classes::CONTAINER_RUNTIME | Classes::KERNEL)
        || who.pid == 1;
    let itself = who.exe.is_some() && who.exe == row.target_exe.as_deref();
    if manager || itself || who.line().any(Classes::PACKAGE) || who.pid == std::process::id() {
        return;
    }
    let asks = row.signal == SIGTERM;
    let severity = if who.is_upkeep() || who.own.any(Classes::LOG_ROTATION) {
        Severity::Low
    } else if asks {
        Severity::Medium
    } else {
        Severity::High
    };
    let sign = Sign {
        what: &GUARD,
        severity,
        time: row.time,
        subject: Subject::named(SubjectKind::Process, guard),
        who: Some(who),
        ppid: row.ppid,
    };
    raise.sign(sign, || Told {
        title: format!("{} sent signal {} to {guard}", who.comm, row.signal),
        factors: vec![
            ("signal.number", json!(row.signal), Value::Null),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"signal_events": row}),
    });
}
