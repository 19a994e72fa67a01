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

const SIGQUIT: i32 = 3;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;
const SIGSTOP: i32 = 19;
const SIGTSTP: i32 = 20;

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
    let ends = matches!(
        row.signal,
        SIGQUIT | SIGABRT | SIGKILL | SIGSEGV | SIGTERM | SIGSTOP | SIGTSTP
    );
    ends && row.kind == SignalEventKind::Signal && row.target_pid != row.pid && guard(row).is_some()
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
