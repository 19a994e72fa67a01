//! Floods: processes or system calls without end.
//!
//! Counted by session: the login, else the container, else the unit, else the user; a bomb is many processes, and none
//! of them does much. What tells a bomb from a build: its children run no program and do not end.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Severity, SubjectKind, SyscallProfile};
use serde_json::json;

use super::process_columns;
use crate::behaviour::{Raise, Sign, Told, declare, program};
use crate::lineage::{Before, Classes, Columns, Who, is_trusted_path};
use crate::recent::Recent;
use crate::tracker::Subject;

declare! {
    FORKS = "fork-flood" ["T1499.001"] ["impact"] false;
    EXECS = "exec-flood" ["T1499.001"] ["impact"] false;
    CALLS = "syscall-flood" ["T1499.001"] ["impact"] false;
}

/// Children that run no program and have not ended, born within [`SPAN_NS`], that are a bomb.
const BARE_CHILDREN: i64 = 400;
/// Children of any kind that live at once and were born within the span.
const CHILDREN: i64 = 3_000;
/// Programs run within the span that are a flood, unless a build runs them.
const EXECS_MIN: u64 = 6_000;
/// Length of a span.
const SPAN_NS: u64 = 10_000_000_000;
/// System calls of one process in a second that are a flood: what copying byte by byte makes.
const CALLS_PER_S: f64 = 1_000_000.0;
/// Most sessions that are followed.
const SESSIONS_MAX: usize = 1_024;

#[derive(Default)]
struct Session {
    since_ns: u64,
    /// [`Flood::lost`] when the span began.
    lost_before: u64,
    /// Forks less what ended, of those born in this span.
    living: i64,
    /// Of these, what has run no program.
    bare: i64,
    execs: u64,
}

/// See the module.
pub(super) struct Flood {
    sessions: Recent<u64, Session>,
    /// Events of processes that were lost so far, whosever they were.
    lost: u64,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            sessions: Recent::new("flood", SESSIONS_MAX),
            lost: 0,
        }
    }
}

/// By what many processes are known as one's doing.
pub(crate) fn session_of(who: &Who<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match (who.container, who.login_uid, who.unit) {
        (Some(container), ..) => (0, container).hash(&mut hasher),
        (_, Some(login), _) => (1, login).hash(&mut hasher),
        (_, _, Some(unit)) => (2, unit).hash(&mut hasher),
        _ => (3, who.uid).hash(&mut hasher),
    }
    hasher.finish()
}

impl Flood {
    /// Learns that so many events were lost.
    pub(super) fn miss(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
    }

    pub(super) fn process(&mut self, event: &ProcessEvent, before: Option<Before>, raise: &mut Raise<'_>) {
        let lineage = raise.lineage;
        let who = lineage.who(process_columns(event));
        let session = self.sessions.touch(session_of(&who), Session::default);
        if event.boot_ns.saturating_sub(session.since_ns) >= SPAN_NS {
            *session = Session {
                since_ns: event.boot_ns,
                lost_before: self.lost,
                ..Session::default()
            };
        }
        let born_here = event.start_boot_ns >= session.since_ns;
        match event.kind {
            ProcessEventKind::Fork => {
                session.living += 1;
                session.bare += 1;
            }
            ProcessEventKind::Exec => {
                session.execs = session.execs.saturating_add(1);
                // A process that runs one program after the other counts once.
                if born_here && before.is_some_and(|before| !before.executed) {
                    session.bare -= 1;
                }
            }
            ProcessEventKind::Exit if born_here => {
                session.living -= 1;
                if lineage.has_executed(event.pid, event.start_boot_ns) == Some(false) {
                    session.bare -= 1;
                }
            }
            ProcessEventKind::Exit => {}
        }
        let (living, bare, execs) = (session.living, session.bare, session.execs);
        let lost = i64::try_from(self.lost.saturating_sub(session.lost_before)).unwrap_or(i64::MAX);
        // A server of the host that starts all its workers at once.
        let delivered = who.login_uid.is_none()
            && who.unit.is_some_and(|unit| unit.ends_with(".service"))
            && who.exe.is_some_and(is_trusted_path)
            && !who.line().any(Classes::SHELL | Classes::INTERPRETER);
        let bare_max = if delivered { CHILDREN } else { BARE_CHILDREN };
        // Each lost event may be the end of a child, or the program that it ran.
        let certain = bare >= bare_max.saturating_add(lost) || living >= CHILDREN.saturating_add(lost);
        let severity = if certain { Severity::High } else { Severity::Low };
        if event.kind == ProcessEventKind::Fork && (bare >= bare_max || living >= CHILDREN) {
            let title = format!(
                "{} forks without end: {living} living children within 10 s",
                who.comm
            );
            tell(event, &FORKS, severity, living.unsigned_abs(), &who, raise, title);
        }
        let builds = who.line().any(Classes::BUILD | Classes::PACKAGE);
        if event.kind == ProcessEventKind::Exec && execs >= EXECS_MIN && !builds {
            let title = format!("{execs} programs were run within 10 s, such as {}", who.comm);
            tell(event, &EXECS, Severity::Medium, execs, &who, raise, title);
        }
    }
}

/// A flood is about whoever floods: its login, unit or program, not the one of its processes that is seen.
fn flooder(who: &Who<'_>) -> Subject {
    match (who.login_uid, who.unit) {
        (Some(uid), _) => Subject {
            process: Some((who.pid, who.start)),
            ..Subject::named(SubjectKind::User, &uid.to_string())
        },
        (None, Some(unit)) => Subject::named(SubjectKind::Unit, unit),
        (None, None) => program(who),
    }
}

fn tell(
    event: &ProcessEvent,
    what: &'static crate::behaviour::Detection,
    severity: Severity,
    count: u64,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign {
        what,
        severity,
        time: event.time,
        subject: flooder(who),
        who: Some(who),
        ppid: Some(event.ppid),
    };
    raise.sign(sign, || Told {
        title,
        factors: vec![(
            "process.count",
            json!(count),
            json!(if what.rule == EXECS.rule {
                EXECS_MIN
            } else {
                BARE_CHILDREN.unsigned_abs()
            }),
        )],
        evidence: json!({"process_events": event}),
    });
}

/// Judges the system calls of a process while they were counted.
pub(super) fn profile(row: &SyscallProfile, raise: &mut Raise<'_>) {
    let total = row
        .counts
        .iter()
        .fold(row.dropped, |sum, count| sum.saturating_add(*count));
    let seconds = row.span_us as f64 / 1e6;
    let rate = total as f64 / seconds;
    // A short while says little.
    if seconds < 0.5 || rate < CALLS_PER_S {
        return;
    }
    let lineage = raise.lineage;
    let who = lineage.who(Columns {
        pid: row.pid,
        start: row.start_boot_ns,
        comm: &row.comm,
        exe: row.exe.as_deref(),
        uid: u32::MAX,
        ..Columns::default()
    });
    let severity = if who.is_risky() {
        Severity::Medium
    } else {
        Severity::Low
    };
    let sign = Sign::of(&CALLS, severity, row.time, &who, None);
    raise.sign(sign, || Told {
        title: format!("{} makes {rate:.0} system calls a second", row.comm),
        factors: vec![("process.syscall_rate", json!(rate), json!(CALLS_PER_S))],
        evidence: json!({"syscall_profiles": row}),
    });
}
