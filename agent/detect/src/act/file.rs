//! Files that give a hold on the host, and modes and owners that open it.

use fleetmend_event::table::{FileEvent, FileEventKind, Severity, SubjectKind};
use serde_json::{Value, json};

use super::place::{Hold, Place, Setting, is_system, place};
use super::{kernel, place as places};
use crate::behaviour::{Detection, Raise, Sign, Told, declare, program};
use crate::lineage::{Classes, Who, is_writable_path};
use crate::tracker::Subject;

declare! {
    CRON = "persistence-cron" ["T1053.003"] ["persistence", "execution"] true;
    UNIT = "persistence-unit" ["T1543.002"] ["persistence", "privilege-escalation"] true;
    PRELOAD = "persistence-preload" ["T1574.006"] ["persistence", "privilege-escalation"] true;
    BOOT_SCRIPT = "persistence-boot-script" ["T1037.004"] ["persistence"] true;
    SSH_KEY = "persistence-ssh-key" ["T1098.004"] ["persistence"] true;
    SSH_SERVER = "persistence-ssh-server" ["T1556", "T1098.004"] ["persistence", "credential-access"] true;
    PAM = "persistence-pam" ["T1556.003"] ["persistence", "credential-access"] true;
    PROFILE = "persistence-shell-profile" ["T1546.004"] ["persistence"] true;
    SUDOERS = "persistence-sudoers" ["T1548.003"] ["privilege-escalation"] true;
    ACCOUNT = "persistence-account" ["T1136.001", "T1098"] ["persistence"] true;
    DEVICE = "persistence-device-rule" ["T1546.017", "T1547.006"] ["persistence"] true;
    BINARY = "system-program-changed" ["T1554", "T1036.005"] ["persistence"] true;
    WEB_SCRIPT = "web-script-written" ["T1505.003"] ["persistence"] true;
    SUID = "suid-drop" ["T1548.001"] ["privilege-escalation", "persistence"] true;
    FILE_CAPABILITY = "file-capability-set" ["T1548.001"] ["privilege-escalation", "persistence"] true;
    PERMISSION = "permission-tamper" ["T1222.002"] ["stealth"] true;
    OWN = "agent-tamper" ["T1562.001"] ["stealth"] true;
}

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const OTHERS_WRITE: u32 = 0o002;
const OTHERS_EXECUTE: u32 = 0o111;
const TYPE: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;

/// The path that an act gives content to, when it does.
fn written(row: &FileEvent) -> Option<&str> {
    match row.kind {
        FileEventKind::OpenWrite | FileEventKind::Create => Some(&row.path),
        FileEventKind::Rename | FileEventKind::Link | FileEventKind::Symlink => row.target.as_deref(),
        _ => None,
    }
}

/// Whether the row could be anything to this module or to [`super::trace`].
pub(super) fn concerns(row: &FileEvent) -> bool {
    match row.kind {
        FileEventKind::OpenRead => false,
        FileEventKind::Chmod => opens(row) || is_system(&row.path),
        FileEventKind::Chown => is_system(&row.path),
        FileEventKind::Attribute => row.attribute.as_deref() == Some("security.capability"),
        FileEventKind::Rename => {
            place(&row.path).is_some() || row.target.as_deref().is_some_and(|to| place(to).is_some())
        }
        FileEventKind::Unlink | FileEventKind::Truncate => place(&row.path).is_some(),
        _ => sets_user_id(row).is_some() || written(row).is_some_and(|path| place(path).is_some()),
    }
}

fn opens(row: &FileEvent) -> bool {
    sets_user_id(row).is_some()
}

/// The set-user-ID or set-group-ID bits that an act newly gives to a program.
fn sets_user_id(row: &FileEvent) -> Option<u32> {
    let mode = row.mode?;
    if !matches!(row.kind, FileEventKind::Chmod | FileEventKind::Create) || mode & TYPE == FOLDER {
        return None;
    }
    let user = mode & SET_USER_ID;
    // Set-group-ID without execution is another thing, and folders carry it as a rule; their type is not always told.
    let group = if mode & TYPE != 0 && mode & OTHERS_EXECUTE != 0 {
        mode & SET_GROUP_ID
    } else {
        0
    };
    let fresh = (user | group) & !row.old_mode.unwrap_or(0);
    (fresh != 0 && mode & OTHERS_EXECUTE != 0).then_some(fresh)
}

pub(super) fn judge(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    match row.kind {
        FileEventKind::Chmod | FileEventKind::Create if opens(row) => set_user_id(row, who, raise),
        FileEventKind::Chmod => mode_opened(row, who, raise),
        FileEventKind::Chown => owner_changed(row, who, raise),
        FileEventKind::Attribute => capability(row, who, raise),
        _ => {}
    }
    if matches!(
        row.kind,
        FileEventKind::Unlink | FileEventKind::Truncate | FileEventKind::Rename
    ) && place(&row.path) == Some(Place::Own)
    {
        own_changed(row, &row.path, who, raise);
        return;
    }
    let Some(path) = written(row) else { return };
    match place(path) {
        Some(Place::Hold(hold)) => held(row, path, hold, who, raise),
        Some(Place::Setting(setting)) => kernel::setting(
            path,
            setting,
            row.time,
            who,
            row.ppid,
            raise,
            || json!({"file_events": row}),
        ),
        Some(Place::Own) => own_changed(row, path, who, raise),
        _ => {}
    }
}

fn about_file(path: &str) -> Subject {
    Subject::named(SubjectKind::File, path)
}

fn tell(
    row: &FileEvent,
    what: &'static Detection,
    severity: Severity,
    subject: Subject,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign {
        what,
        severity,
        time: row.time,
        subject,
        who: Some(who),
        ppid: row.ppid,
    };
    raise.sign(sign, || Told {
        title,
        factors: vec![
            (
                "file.path",
                json!(row.target.as_deref().unwrap_or(&row.path)),
                Value::Null,
            ),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"file_events": row}),
    });
}

/// What a hold is called, and how grave it is to take it.
fn of(hold: Hold) -> (&'static Detection, Severity, &'static str) {
    match hold {
        Hold::Cron => (&CRON, Severity::Medium, "a job that runs by itself"),
        Hold::Unit => (&UNIT, Severity::Medium, "a unit that the host starts"),
        Hold::Preload => (&PRELOAD, Severity::High, "what the loader puts into programs"),
        Hold::BootScript => (&BOOT_SCRIPT, Severity::Medium, "what runs at boot or login"),
        Hold::SshKey => (&SSH_KEY, Severity::Medium, "keys that may log in"),
        Hold::SshServer => (&SSH_SERVER, Severity::Medium, "what the ssh server allows"),
        Hold::Pam => (&PAM, Severity::High, "how people are authenticated"),
        Hold::Profile => (&PROFILE, Severity::Medium, "what every shell reads"),
        Hold::OwnProfile => (&PROFILE, Severity::Low, "what a user's shell reads"),
        Hold::Sudoers => (&SUDOERS, Severity::High, "who may act as root"),
        Hold::Account => (&ACCOUNT, Severity::Medium, "accounts of the host"),
        Hold::Device => (&DEVICE, Severity::Medium, "what runs when a device appears"),
        Hold::Binary => (&BINARY, Severity::Medium, "a program or library of the system"),
        Hold::WebScript => (&WEB_SCRIPT, Severity::Low, "a script that a web server runs"),
    }
}

/// Whether the writing is the program's own work.
fn is_its_work(hold: Hold, who: &Who<'_>) -> bool {
    if who.container.is_some() {
        return false;
    }
    let own = who.own;
    let by_init = own.any(Classes::INIT | Classes::CONTAINER_RUNTIME);
    match hold {
        Hold::Preload | Hold::Pam => false,
        Hold::Account => own.any(Classes::ACCOUNT | Classes::LOGIN) || by_init,
        Hold::Sudoers => own.any(Classes::ACCOUNT) || by_init,
        Hold::Cron => own.any(Classes::CRON) || by_init,
        Hold::WebScript => false,
        Hold::Device | Hold::Unit => by_init || own.any(Classes::MODULES),
        _ => by_init,
    }
}

fn held(row: &FileEvent, path: &str, hold: Hold, who: &Who<'_>, raise: &mut Raise<'_>) {
    let (what, base, words) = of(hold);
    // In a container the same path is the container's own file, which gives no hold on the host.
    let inside = who.container.is_some();
    if who.line().any(Classes::PACKAGE) || is_its_work(hold, who) || (inside && !who.is_risky()) {
        return;
    }
    let served = if hold == Hold::WebScript {
        // Applications that update themselves write their scripts; their workers descend from a web server too.
        let tools = Classes::SHELL | Classes::DOWNLOAD | Classes::NETWORK_TOOL;
        who.above.any(Classes::WEB) && who.own.any(tools)
    } else {
        who.line().any(Classes::WEB)
    };
    let severity = if who.is_risky() || served {
        Severity::High
    } else if hold == Hold::Preload {
        base
    } else if who.is_upkeep() || eases(hold, who) {
        Severity::Low
    } else {
        base
    };
    let title = format!("{} changed {path}: {words}", who.comm);
    tell(row, what, severity, about_file(path), who, raise, title);
}

/// What is done by the tool that is made for it, or copied as a tree, is worth knowing and no more.
fn eases(hold: Hold, who: &Who<'_>) -> bool {
    let tools = match hold {
        Hold::Cron => Classes::CRONTAB,
        Hold::Unit => Classes::SERVICE_TOOL | Classes::BUILD,
        Hold::Binary => Classes::BUILD,
        Hold::SshKey => Classes::SSH,
        Hold::Account => Classes::ACCOUNT,
        _ => Classes::NONE,
    };
    who.own.any(tools | Classes::BACKUP) || (tools.any(Classes::BUILD) && who.line().any(Classes::BUILD))
}

fn set_user_id(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if who.line().any(Classes::PACKAGE)
        || who.own.any(Classes::INIT | Classes::CONTAINER_RUNTIME)
        || who.container.is_some()
    {
        return;
    }
    let copied = who.own.any(Classes::BACKUP) || who.is_upkeep();
    let hidden = is_writable_path(&row.path) || places::is_hidden(&row.path);
    let severity = match (copied, hidden) {
        (true, _) => Severity::Low,
        (false, true) => Severity::High,
        (false, false) => Severity::Medium,
    };
    let whose = match sets_user_id(row) {
        Some(bits) if bits & SET_USER_ID == 0 => "group",
        _ => "owner",
    };
    let title = format!(
        "{} gave {} the rights of its {whose} to whoever runs it",
        who.comm, row.path
    );
    tell(row, &SUID, severity, about_file(&row.path), who, raise, title);
}

fn capability(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if who.line().any(Classes::PACKAGE) || who.own.any(Classes::CONTAINER_RUNTIME) || who.container.is_some()
    {
        return;
    }
    let severity = if who.own.any(Classes::BACKUP) || who.is_upkeep() {
        Severity::Low
    } else if is_writable_path(&row.path) {
        Severity::High
    } else {
        Severity::Medium
    };
    let title = format!("{} changed the capabilities of {}", who.comm, row.path);
    tell(
        row,
        &FILE_CAPABILITY,
        severity,
        about_file(&row.path),
        who,
        raise,
        title,
    );
}

fn mode_opened(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let Some(mode) = row.mode else { return };
    let fresh = mode & OTHERS_WRITE & !row.old_mode.unwrap_or(0);
    // Not even a folder with the sticky bit: everyone may add to it.
    if fresh == 0 || !is_system(&row.path) || excused(who) {
        return;
    }
    let severity = if who.own.any(Classes::BACKUP) || who.is_upkeep() {
        Severity::Low
    } else {
        Severity::High
    };
    let title = format!("{} let everyone write to {}", who.comm, row.path);
    tell(row, &PERMISSION, severity, program(who), who, raise, title);
}

fn owner_changed(row: &FileEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    // chown(2) leaves an owner of -1 as it is.
    let given = row.owner_uid.filter(|uid| *uid != 0 && *uid != u32::MAX);
    let program_of_system = matches!(place(&row.path), Some(Place::Hold(_)));
    let (Some(uid), true) = (given, program_of_system && !excused(who)) else {
        return;
    };
    let own_key =
        row.path.contains("/.ssh/") || row.path.starts_with("/home/") || row.path.starts_with("/var/");
    if own_key {
        return;
    }
    let severity = if who.own.any(Classes::BACKUP) || who.is_upkeep() {
        Severity::Low
    } else {
        Severity::Medium
    };
    let title = format!("{} gave {} to user {uid}", who.comm, row.path);
    tell(row, &PERMISSION, severity, program(who), who, raise, title);
}

fn excused(who: &Who<'_>) -> bool {
    who.line().any(Classes::PACKAGE)
        || who.own.any(Classes::INIT | Classes::CONTAINER_RUNTIME)
        || who.container.is_some()
}

fn own_changed(row: &FileEvent, path: &str, who: &Who<'_>, raise: &mut Raise<'_>) {
    let ours = who
        .exe
        .is_some_and(|exe| exe.starts_with("/usr/") && exe.contains("/fleetmend"));
    if ours || who.is_upkeep() || who.own.any(Classes::INIT) || who.pid == std::process::id() {
        return;
    }
    let severity = if path.starts_with("/etc/") || who.own.any(Classes::BACKUP) {
        Severity::Low
    } else {
        Severity::High
    };
    let title = format!("{} changed {path}, which is the agent's own", who.comm);
    tell(row, &OWN, severity, about_file(path), who, raise, title);
}

/// Whether a setting of the kernel is written through a file.
pub(super) fn setting_at(path: &str) -> Option<Setting> {
    places::setting(path)
}
