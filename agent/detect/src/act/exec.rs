//! Programs by where they lie and what started them.

use fleetmend_event::table::{ProcessEvent, ProcessSnapshot, Severity};
use serde_json::{Value, json};

use crate::behaviour::{Detection, Raise, Sign, Told, declare};
use crate::lineage::{Classes, Columns, Who, base_name, is_fileless, is_trusted_path, is_writable_path};

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
    let served = who.above.any(Classes::WEB);
    // What a web server was made to build and run is nobody's build.
    let built = who.above.any(Classes::BUILD) && !served;
    if who.container.is_some() || who.above.any(Classes::PACKAGE) || built {
        return;
    }
    if fileless {
        if is_runtime(exe, who) {
            return;
        }
        // One of the system that was upgraded while it ran, and runs itself again.
        let upgraded = is_trusted_path(exe);
        let severity = if upgraded { Severity::Low } else { Severity::High };
        let title = format!("{} runs without a file: {exe}", who.comm);
        tell(event, &FILELESS, severity, who, raise, title);
        return;
    }
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

/// Whether a program without a file is a container runtime, which copies itself into memory before it enters a
/// container, or systemd's executor, which is run by its descriptor. By descent or folder: any memory can have its name.
pub(super) fn is_runtime(exe: &str, who: &Who<'_>) -> bool {
    let named = |names: &[&str]| names.iter().any(|name| exe.contains(name));
    let runtime = named(&["runc", "crun"]) && (who.above.any(Classes::CONTAINER_RUNTIME) || !who.known);
    let of_system =
        is_trusted_path(exe) && named(&["runc", "crun", "systemd-executor", "sd-executor", "snap-confine"]);
    runtime || of_system || (who.above.any(Classes::CONTAINER_RUNTIME) && is_trusted_path(exe))
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

/// Whether a shell waits for a person: it has no command and no script. A login shell is one of its terminal.
pub(crate) fn is_interactive(args: &[String]) -> bool {
    const PLAIN: &[&str] = &[
        "--norc",
        "--noprofile",
        "--noediting",
        "--posix",
        "--restricted",
        "--verbose",
    ];
    let mut waits = !args.first().is_some_and(|name| name.starts_with('-'));
    for arg in args.iter().skip(1) {
        if PLAIN.contains(&arg.as_str()) {
            continue;
        }
        let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.starts_with('-')) else {
            return false;
        };
        if letters.contains('c') {
            return false;
        }
        if letters.contains('i') {
            return true;
        }
        // Of a login, from a file of options, or with commands that something else writes.
        waits &= letters.chars().all(|letter| "efhknpruvx".contains(letter));
    }
    waits
}

fn defence(event: &ProcessEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let name = who.exe.map_or(who.comm, base_name);
    let args = event.args.get(1..).unwrap_or_default();
    // The service manager's own command, as of a unit that is restarted.
    let by_manager = event.ppid == 1
        && who.login_uid.is_none()
        && !who
            .above
            .any(Classes::SHELL | Classes::LOGIN | Classes::WEB | Classes::CRON);
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
        "systemctl" => has(&["stop", "disable", "mask", "kill", "freeze"]) && guard(),
        "service" | "rc-service" | "invoke-rc.d" => has(&["stop"]) && guard(),
        "aa-teardown" | "aa-disable" => true,
        "iptables" | "ip6tables" | "nft" => {
            (flushes_all(args) && !has(&["-t"])) || (name == "nft" && has(&["flush"]) && has(&["ruleset"]))
        }
        "ufw" => has(&["disable"]),
        _ => return,
    };
    if !stopped || who.line().any(Classes::PACKAGE) || who.container.is_some() {
        return;
    }
    let severity = match name {
        _ if who.is_upkeep() || by_manager => Severity::Low,
        "iptables" | "ip6tables" | "nft" | "ufw" => Severity::Medium,
        _ => Severity::High,
    };
    let title = format!("a defence of the host was stopped: {}", event.args.join(" "));
    tell(event, &DEFENCE, severity, who, raise, title);
}

/// Whether iptables is told to empty more than a chain that somebody made for a purpose, as fail2ban does.
fn flushes_all(args: &[String]) -> bool {
    let Some(at) = args.iter().position(|arg| arg == "-F" || arg == "--flush") else {
        return false;
    };
    args.get(at + 1).is_none_or(|chain| {
        chain.starts_with('-') || matches!(chain.as_str(), "INPUT" | "OUTPUT" | "FORWARD")
    })
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
    if who.line().any(Classes::PACKAGE | Classes::BUILD) || is_runtime(exe, &who) {
        return;
    }
    // A program under test is often rebuilt while it runs.
    let severity = if memory || !is_fileless(exe) && exe.starts_with("/dev/") {
        Severity::High
    } else {
        Severity::Low
    };
    let sign = Sign::of(&FILELESS, severity, row.time, &who, Some(row.ppid));
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
    let sign = Sign::of(what, severity, event.time, who, Some(event.ppid));
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("process.executable.path", json!(who.exe), Value::Null),
            ("process.command_line", json!(event.args.join(" ")), Value::Null),
        ],
        evidence: json!({"process_events": event}),
    });
}
