//! Secrets read by who has no business with them.

use fleetmend_event::table::{FileEvent, FileEventKind, Severity};
use serde_json::{Value, json};

use super::place::{Secret, secret};
use crate::behaviour::{Raise, Sign, Told, declare};
use crate::lineage::{Classes, Who};

declare! {
    READ = "credential-read" ["T1003.008", "T1552.004"] ["credential-access"] true;
}

/// The file whose content an act gives away.
fn read(row: &FileEvent) -> Option<Secret> {
    match row.kind {
        // A second name, or another one, is a way to read it later past every rule by path.
        FileEventKind::OpenRead | FileEventKind::Link | FileEventKind::Rename => secret(&row.path),
        // 2 is O_RDWR.
        FileEventKind::OpenWrite if row.flags.is_some_and(|flags| flags & 3 == 2) => secret(&row.path),
        _ => None,
    }
}

pub(super) fn concerns(row: &FileEvent) -> bool {
    read(row).is_some()
}

pub(super) fn judge(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let Some(secret) = read(row) else { return };
    // What fetches files looks there for the password of the site it goes to.
    let own_token = row.path.ends_with("/.netrc") && who.own.any(Classes::DOWNLOAD) && !who.is_risky();
    if who.container.is_some() || own_token || is_its_work(secret, who) || who.pid == std::process::id() {
        return;
    }
    let intruder = who.is_risky() || who.line().any(Classes::WEB);
    let severity = match secret {
        _ if intruder => Severity::High,
        _ if who.own.any(Classes::BACKUP) || who.is_upkeep() => Severity::Low,
        Secret::Passwords | Secret::HostKey | Secret::Memory => Severity::High,
        // An owner's tools read their own keys all day; root reading a user's is another matter, and not told apart.
        Secret::UserKey | Secret::Token => Severity::Low,
    };
    let carried = who.own.any(Classes::DOWNLOAD | Classes::NETWORK_TOOL);
    let severity = if carried { Severity::High } else { severity };
    if matches!(secret, Secret::Token) && severity == Severity::Low {
        return;
    }
    let sign = Sign::of(&READ, severity, row.time, who, row.ppid);
    raise.sign(sign, || Told {
        title: format!("{} read {}", who.comm, row.path),
        factors: vec![
            ("file.path", json!(row.path), Value::Null),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"file_events": row}),
    });
}

fn is_its_work(secret: Secret, who: &Who<'_>) -> bool {
    if who.line().any(Classes::PACKAGE) {
        return true;
    }
    let own = match secret {
        Secret::Passwords => {
            Classes::LOGIN
                | Classes::ELEVATE
                | Classes::ACCOUNT
                | Classes::CRON
                | Classes::CRONTAB
                | Classes::INIT
        }
        Secret::HostKey => Classes::LOGIN | Classes::SSH | Classes::ACCOUNT | Classes::INIT,
        Secret::UserKey => Classes::SSH | Classes::LOGIN,
        Secret::Memory => Classes::DEBUGGER | Classes::CRASH,
        Secret::Token => Classes::NONE,
    };
    // A job of the system copies the accounts by the tools of its shell.
    let copied = secret == Secret::Passwords
        && who.above.any(Classes::ACCOUNT)
        && who.above.any(Classes::CRON)
        && !who.is_risky();
    copied || who.own.any(own) || who.line().any(Classes::INTEGRITY)
}
