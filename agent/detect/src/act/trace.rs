//! Traces removed: logs of the system, and what shells remember.

use fleetmend_event::table::{FileEvent, FileEventKind, Severity, SubjectKind};
use serde_json::{Value, json};

use super::place::{Place, place};
use crate::behaviour::{Raise, Sign, Told, declare};
use crate::lineage::{Classes, Who, base_name};
use crate::tracker::Subject;

declare! {
    LOG = "log-tamper" ["T1070.002"] ["stealth"] true;
    HISTORY = "history-tamper" ["T1070.003"] ["stealth"] true;
}

/// O_TRUNC of open(2).
const TRUNCATE: u32 = 0o1000;

pub(super) fn judge(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let trace = |path: &&str| matches!(place(path), Some(Place::Log | Place::History));
    let (path, links) = match row.kind {
        FileEventKind::Unlink | FileEventKind::Truncate => (row.path.as_str(), false),
        // What is renamed over is gone as much as what is moved away.
        FileEventKind::Rename => {
            let both = [Some(row.path.as_str()), row.target.as_deref()];
            let Some(path) = both.into_iter().flatten().find(trace) else {
                return;
            };
            (path, false)
        }
        // One that the open itself made had nothing to lose.
        FileEventKind::OpenWrite if row.flags.is_some_and(|flags| flags & TRUNCATE != 0) => {
            (row.path.as_str(), false)
        }
        // A history that is a link to nowhere remembers nothing.
        FileEventKind::Symlink => (row.target.as_deref().unwrap_or_default(), true),
        _ => return,
    };
    match place(path) {
        Some(Place::Log) if !links => log(row, path, who, raise),
        Some(Place::History) => history(row, path, links, who, raise),
        _ => {}
    }
}

fn log(row: &FileEvent, path: &str, who: &Who<'_>, raise: &mut Raise<'_>) {
    // A tool of the rotation may be started by it; a logger, and what logs people in, keep their own files.
    let keepers = Classes::LOGGER | Classes::INIT | Classes::ACCOUNT | Classes::LOGIN;
    if who.container.is_some()
        || who.line().any(Classes::PACKAGE | Classes::LOG_ROTATION)
        || who.own.any(keepers)
    {
        return;
    }
    let severity = if who.own.any(Classes::BACKUP) || who.is_upkeep() {
        Severity::Low
    } else if who.own.any(Classes::SERVICE_TOOL) {
        Severity::Medium
    } else {
        Severity::High
    };
    tell(row, &LOG, severity, path, who, raise, "a log of the system");
}

fn history(row: &FileEvent, path: &str, links: bool, who: &Who<'_>, raise: &mut Raise<'_>) {
    // A shell or interpreter writes its own history anew when it ends, and removes an account's with the account.
    let own = Classes::SHELL | Classes::INTERPRETER | Classes::ACCOUNT;
    if !links && (who.own.any(own) || is_its_own(path, who)) {
        return;
    }
    if who.line().any(Classes::PACKAGE) {
        return;
    }
    let nowhere = links && row.path == "/dev/null";
    let severity = match (nowhere, who.own.any(Classes::BACKUP) || who.is_upkeep()) {
        (true, _) => Severity::High,
        (false, true) => Severity::Low,
        (false, false) => Severity::Medium,
    };
    tell(
        row,
        &HISTORY,
        severity,
        path,
        who,
        raise,
        "what a shell remembers",
    );
}

/// Whether the history is named after the program, as `.rediscli_history` is after redis-cli.
fn is_its_own(path: &str, who: &Who<'_>) -> bool {
    let letters = |text: &str| -> String { text.chars().filter(char::is_ascii_alphabetic).collect() };
    let program = letters(who.exe.map_or(who.comm, base_name));
    let owner = letters(base_name(path).trim_end_matches("_history"));
    !who.is_risky() && (program == owner || (owner == "mysql" && program == "mariadb"))
}

fn tell(
    row: &FileEvent,
    what: &'static crate::behaviour::Detection,
    severity: Severity,
    path: &str,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    words: &str,
) {
    let done = match row.kind {
        FileEventKind::Unlink => "removed",
        FileEventKind::Rename if row.path == path => "moved away",
        FileEventKind::Rename => "replaced",
        FileEventKind::Symlink => "replaced by a link",
        _ => "emptied",
    };
    let sign = Sign {
        what,
        severity,
        time: row.time,
        subject: Subject::named(SubjectKind::File, path),
        who: Some(who),
        ppid: row.ppid,
    };
    raise.sign(sign, || Told {
        title: format!("{} {done} {path}, {words}", who.comm),
        factors: vec![
            ("file.path", json!(path), Value::Null),
            ("file.act", json!(row.kind.as_str()), Value::Null),
        ],
        evidence: json!({"file_events": row}),
    });
}
