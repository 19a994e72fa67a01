//! Rights that appear: root's, and capabilities.

use fleetmend_event::table::{
    CredentialEvent, CredentialEventKind, ProcessEvent, ProcessEventKind, Severity, Source,
};
use serde_json::{Value, json};

use crate::behaviour::{Raise, Sign, Told, declare};
use crate::lineage::{Before, Classes, Lineage, Who, is_trusted_path};

declare! {
    GAINED = "privilege-gain" ["T1068"] ["privilege-escalation"] true;
    SUID_RUN = "suid-program-run" ["T1548.001"] ["privilege-escalation"] false;
    CAPABILITY = "capability-gain" ["T1548", "T1068"] ["privilege-escalation"] true;
}

/// CAP_SETUID.
const SET_USER: u64 = 1 << 7;
/// Capabilities that lead to root: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SETUID, SETGID, SYS_MODULE, SYS_RAWIO,
/// SYS_PTRACE, SYS_ADMIN, SETFCAP, BPF.
const GRAVE: u64 = 1
    | 1 << 1
    | 1 << 2
    | 1 << 3
    | 1 << 6
    | SET_USER
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 21
    | 1 << 31
    | 1 << 39;

/// Whether the row tells that root's rights were gained.
fn is_gain(row: &CredentialEvent) -> bool {
    let now = row.uid == 0 || row.euid == Some(0);
    let before = row.old_uid.is_none_or(|uid| uid == 0) || row.old_euid.is_none_or(|euid| euid == 0);
    row.kind == CredentialEventKind::User && now && !before && row.user_namespace != Some(true)
}

fn fresh_capabilities(row: &CredentialEvent) -> u64 {
    let grave = |set: Option<u64>| set.unwrap_or(0) & GRAVE;
    match row.kind {
        CredentialEventKind::Capabilities if row.user_namespace != Some(true) => {
            grave(row.capabilities) & !grave(row.old_capabilities)
        }
        _ => 0,
    }
}

pub(super) fn concerns(row: &CredentialEvent) -> bool {
    is_gain(row) || fresh_capabilities(row) != 0
}

/// Whether a gain is what the program is made for: a set-user-ID program of the system, or one that had the rights.
pub(super) fn explained(row: &CredentialEvent, lineage: &Lineage) -> bool {
    is_gain(row) && (by_program_of_system(row) || lineage.was_root(row.pid, row.start_boot_ns) == Some(true))
}

fn by_program_of_system(row: &CredentialEvent) -> bool {
    let exe = row.exe.as_deref();
    let runs_others = crate::lineage::classify(exe, &row.comm, std::iter::empty())
        .any(Classes::SHELL | Classes::INTERPRETER);
    exe.is_some_and(is_trusted_path) && !runs_others
}

pub(super) fn judge(row: &CredentialEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if is_gain(row) {
        user(row, who, raise);
        return;
    }
    let fresh = fresh_capabilities(row);
    let by_root = row.uid == 0 || row.euid == Some(0);
    let own = who.exe.is_some_and(is_trusted_path) && !who.own.any(Classes::SHELL | Classes::INTERPRETER);
    if fresh == 0 || by_root || own {
        return;
    }
    let severity = if who.is_risky() {
        Severity::High
    } else {
        Severity::Medium
    };
    tell(
        row,
        &CAPABILITY,
        severity,
        who,
        raise,
        format!("{} gained capabilities {fresh:#x}", who.comm),
    );
}

fn user(row: &CredentialEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let by_exec = row.call.as_deref().is_some_and(|call| call.starts_with("exec"));
    if by_exec {
        // Which file was run is the row's own program.
        if who.exe.is_some() && !by_program_of_system(row) {
            let title = format!(
                "{} runs with root's rights through its set-user-ID bit",
                program_name(who)
            );
            tell(row, &SUID_RUN, Severity::High, who, raise, title);
        }
        return;
    }
    if explained(row, raise.lineage) {
        return;
    }
    let held = row.old_capabilities.is_some_and(|set| set & SET_USER != 0);
    let never = raise.lineage.was_root(row.pid, row.start_boot_ns) == Some(false);
    let severity = match (held, never) {
        (true, _) => Severity::Medium,
        (false, true) => Severity::Critical,
        // It may have had the rights before it was watched.
        (false, false) => Severity::Medium,
    };
    let call = row.call.as_deref().unwrap_or("no call that is known");
    let title = format!(
        "{} became root by {call} without a program that gives root's rights",
        who.comm
    );
    tell(row, &GAINED, severity, who, raise, title);
}

/// Judges a process by what it was before its fork or exec: credentials that no call explains.
pub(super) fn changed(event: &ProcessEvent, before: Before, who: &Who<'_>, raise: &mut Raise<'_>) {
    let was = before.was_root || before.uid == 0 || before.euid.is_none_or(|euid| euid == 0);
    let effective = event.euid == Some(0);
    if was || !(event.uid == 0 || effective) || who.container.is_some() {
        return;
    }
    let executed = event.kind == ProcessEventKind::Exec;
    let of_system =
        who.exe.is_some_and(is_trusted_path) && !who.own.any(Classes::SHELL | Classes::INTERPRETER);
    // These sources look at a process after the fact: a set-user-ID program may be root for good by then.
    let late = matches!(event.source, Source::Proc | Source::Connector);
    if late && executed && of_system {
        return;
    }
    // A program that gives root's rights may have come and gone unseen.
    let grave = if late || !before.sure {
        Severity::Medium
    } else {
        Severity::Critical
    };
    // A set-user-ID program changes the effective user and leaves the real one.
    let by_bit = executed && event.uid != 0 && effective;
    let (what, severity, title) = if !by_bit {
        let title = format!(
            "{} became root without a program that gives root's rights",
            who.comm
        );
        (&GAINED, grave, title)
    } else if of_system {
        return;
    } else {
        let title = format!(
            "{} runs with root's rights through its set-user-ID bit",
            program_name(who)
        );
        (&SUID_RUN, Severity::High, title)
    };
    let sign = Sign::of(what, severity, event.time, who, Some(event.ppid));
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("process.user.id", json!(event.uid), json!(before.uid)),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"process_events": event}),
    });
}

fn program_name(who: &Who<'_>) -> String {
    who.exe.unwrap_or(who.comm).to_owned()
}

fn tell(
    row: &CredentialEvent,
    what: &'static crate::behaviour::Detection,
    severity: Severity,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign::of(what, severity, row.time, who, row.ppid);
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("process.user.id", json!(row.uid), json!(row.old_uid)),
            ("process.effective_user.id", json!(row.euid), json!(row.old_euid)),
            (
                "process.capabilities",
                json!(row.capabilities),
                json!(row.old_capabilities),
            ),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"credential_events": row}),
    });
}
