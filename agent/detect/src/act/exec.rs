//! Programs by where they lie and what started them.

use fleetmend_event::table::{ProcessEvent, ProcessSnapshot, Severity};
use serde_json::{Value, json};

use crate::behaviour::{Detection, Raise, Sign, Told, declare, program};
use crate::lineage::{Classes, Columns, Who, base_name, is_fileless, is_writable_path};

declare! {
    RISKY = "risky-exec-path" ["T1059", "T1036.005"] ["execution", "stealth"] true;
    FILELESS = "fileless-exec" ["T1620", "T1027.011"] ["stealth"] true;
    WEB_CHILD = "web-server-command" ["T1505.003", "T1190"] ["persistence", "execution"] false;
    DEFENCE = "defence-stopped" ["T1562.001", "T1562.012"] ["stealth"] true;
}

/// Units whose end blinds the host.
const GUARDS: &[&str] = &[
    "fleetmend-agent",
    "fleetmend-healer",
    "auditd",
    "systemd-journald",
    "rsyslog",
    "syslog-ng",
    "falco",
    "apparmor",
    "fail2ban",
];

pub(super) fn judge(event: &ProcessEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    path(event, who, raise);
    web_child(event, who, raise);
    defence(event, who, raise);
}

fn path(event: &ProcessEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let exe = who.exe.unwrap_or_default();
    let fileless = event.fileless == Some(true) || who.own.any(Classes::FILELESS);
    if !fileless && !who.own.any(Classes::WRITABLE) {
        return;
    }
    let excuses = Classes::PACKAGE | Classes::BUILD;
    if who.container.is_some() || who.above.any(excuses) {
        return;
    }
    if fileless {
        // Container runtimes copy themselves into memory before they enter a container; systemd runs its executor so.
        let runtime = ["runc", "crun", "systemd-executor", "sd-executor", "snap-confine"];
        if who.above.any(Classes::CONTAINER_RUNTIME) || runtime.iter().any(|name| exe.contains(name)) {
            return;
        }
        let title = format!("{} runs without a file: {exe}", who.comm);
        tell(event, &FILELESS, Severity::High, who, raise, title);
        return;
    }
    let served = who.above.any(Classes::WEB);
    let severity = if served
        || exe.starts_with("/dev/")
        || base_name(exe).starts_with('.')
        || exe.starts_with("/run/")
    {
        Severity::High
    } else if who.uid != 0
        && who.login_uid.is_none()
        && who.unit.is_some_and(|unit| unit.ends_with(".service"))
    {
        // A service of its own user has no business to run what it just wrote.
        Severity::Medium
    } else {
        Severity::Low
    };
    let title = format!(
        "{} was run from a folder that everyone may write to: {exe}",
        who.comm
    );
    tell(event, &RISKY, severity, who, raise, title);
}

/// What a person who just got in runs first.
const LOOKING_AROUND: &[&str] = &[
    "id", "whoami", "uname", "hostname", "ifconfig", "ip", "netstat", "ss", "w", "who", "last", "ps",
    "passwd", "sudo", "su", "crontab", "nmap", "lsof", "getent", "find", "chmod", "chattr",
];

fn web_child(event: &ProcessEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if !who.above.any(Classes::WEB)
        || who.own.any(Classes::WEB | Classes::MAIL)
        || who.line().any(Classes::PACKAGE)
    {
        return;
    }
    let name = who.exe.map_or(who.comm, base_name);
    let tool = who
        .own
        .any(Classes::NETWORK_TOOL | Classes::DOWNLOAD | Classes::ELEVATE)
        || who.is_risky();
    let interactive = who.own.any(Classes::SHELL) && is_interactive(&event.args);
    let severity = if tool || interactive {
        Severity::High
    } else if LOOKING_AROUND.contains(&name) {
        Severity::Medium
    } else {
        return;
    };
    let title = format!("{name} runs on behalf of a web server");
    tell(event, &WEB_CHILD, severity, who, raise, title);
}

/// Whether a shell waits for a person: it has no command and no script.
pub(crate) fn is_interactive(args: &[String]) -> bool {
    let mut rest = args.iter().skip(1);
    match rest.next() {
        None => !args.first().is_some_and(|name| name.starts_with('-')),
        Some(first) => {
            first.starts_with('-') && !first.starts_with("--") && first.contains('i') && !first.contains('c')
        }
    }
}

fn defence(event: &ProcessEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let name = who.exe.map_or(who.comm, base_name);
    let args = event.args.get(1..).unwrap_or_default();
    let has = |wanted: &[&str]| args.iter().any(|arg| wanted.contains(&arg.as_str()));
    let guard = || {
        args.iter()
            .any(|arg| GUARDS.contains(&arg.trim_end_matches(".service")))
    };
    let stopped = match name {
        "auditctl" => {
            args.windows(2)
                .any(|pair| matches!(pair, [first, second] if first == "-e" && second == "0"))
                || has(&["-D", "-e0"])
        }
        "setenforce" => has(&["0", "Permissive", "permissive"]),
        "systemctl" => has(&["stop", "disable", "mask", "kill"]) && guard(),
        "service" | "rc-service" | "invoke-rc.d" => has(&["stop"]) && guard(),
        "aa-teardown" | "aa-disable" => true,
        "iptables" | "ip6tables" | "nft" => {
            (has(&["-F", "--flush"]) && !has(&["-t"]))
                || (name == "nft" && has(&["flush"]) && has(&["ruleset"]))
        }
        "ufw" => has(&["disable"]),
        _ => return,
    };
    if !stopped || who.line().any(Classes::PACKAGE) || who.container.is_some() {
        return;
    }
    let severity = match name {
        _ if who.is_upkeep() => Severity::Low,
        "iptables" | "ip6tables" | "nft" | "ufw" => Severity::Medium,
        _ => Severity::High,
    };
    let title = format!("a defence of the host was stopped: {}", event.args.join(" "));
    tell(event, &DEFENCE, severity, who, raise, title);
}

/// Judges a process of the inventory: one whose program is gone, and never was the system's.
pub(super) fn snapshot(row: &ProcessSnapshot, raise: &mut Raise<'_>) {
    let Some(exe) = row.exe.as_deref() else { return };
    let memory = exe.starts_with("/memfd:") || exe.starts_with("memfd:");
    let gone = row.exe_deleted && (is_writable_path(exe) || memory);
    if !(gone || memory) || row.container_id.is_some() || row.state == "X" {
        return;
    }
    let lineage = raise.lineage;
    let who = lineage.who(Columns {
        pid: row.pid,
        start: row.start_boot_ns,
        ppid: Some(row.ppid),
        comm: &row.comm,
        exe: Some(exe),
        uid: row.uid,
        unit: row.unit.as_deref(),
        ..Columns::default()
    });
    let excuses = Classes::PACKAGE | Classes::BUILD | Classes::CONTAINER_RUNTIME;
    if who.line().any(excuses) || exe.contains("runc") || exe.contains("systemd-executor") {
        return;
    }
    // A program under test is often rebuilt while it runs.
    let severity = if memory || !is_fileless(exe) && exe.starts_with("/dev/") {
        Severity::High
    } else {
        Severity::Low
    };
    let sign = Sign {
        what: &FILELESS,
        severity,
        time: row.time,
        subject: program(&who),
        who: Some(&who),
        ppid: Some(row.ppid),
    };
    raise.sign(sign, || Told {
        title: format!("{} runs without a file: {exe}", row.comm),
        factors: vec![("process.executable.deleted", json!(row.exe_deleted), json!(false))],
        evidence: json!({"processes": row}),
    });
}

fn tell(
    event: &ProcessEvent,
    what: &'static Detection,
    severity: Severity,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign {
        what,
        severity,
        time: event.time,
        subject: program(who),
        who: Some(who),
        ppid: Some(event.ppid),
    };
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("process.executable.path", json!(who.exe), Value::Null),
            ("process.command_line", json!(event.args.join(" ")), Value::Null),
        ],
        evidence: json!({"process_events": event}),
    });
}
