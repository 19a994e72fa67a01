//! The kernel changed: code put into it, its settings, its clock, and ways out of a container.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{KernelEvent, KernelEventKind, Severity, SubjectKind};
use serde_json::{Value, json};

use super::file::setting_at;
use super::place::Setting;
use crate::behaviour::{Detection, Raise, Sign, Told, declare};
use crate::lineage::{Classes, Who, base_name, is_trusted_path};
use crate::tracker::Subject;

declare! {
    MODULE = "module-load" ["T1547.006", "T1014"] ["persistence", "stealth"] true;
    BPF = "bpf-load" ["T1014"] ["stealth"] false;
    KEXEC = "kexec" ["T1542"] ["persistence", "stealth"] false;
    CLOCK = "clock-set" ["T1070.006"] ["stealth"] false;
    SETTING = "kernel-setting-tamper" ["T1562.001", "T1601"] ["stealth"] false;
    ESCAPE = "container-escape" ["T1611"] ["privilege-escalation"] false;
}

/// A host that boots loads what its devices need, by programs that are not all known, for this long.
const BOOT_NS: u64 = 120_000_000_000;
/// Folders of the modules that come with a kernel, or are built for it.
const MODULES: &[&str] = &[
    "/lib/modules/",
    "/usr/lib/modules/",
    "/nix/store/",
    "/run/booted-system/",
    "/run/current-system/",
    "/snap/",
];
/// CLONE_NEWUSER of clone(2): what follows is inside a namespace of the process' own.
const NEW_USER: u64 = 0x1000_0000;

pub(super) fn concerns(row: &KernelEvent) -> bool {
    match row.kind {
        KernelEventKind::ModuleLoad
        | KernelEventKind::BpfLoad
        | KernelEventKind::Kexec
        | KernelEventKind::ClockSet
        | KernelEventKind::Setting => true,
        KernelEventKind::Mount | KernelEventKind::Setns | KernelEventKind::ChangeRoot => {
            row.container_id.is_some()
        }
        _ => false,
    }
}

pub(super) fn judge(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    // What a container runs may have the name of a runtime, or be one in it.
    let runtime =
        (who.own.any(Classes::CONTAINER_RUNTIME) || is_runtime(who)) && !who.above.any(Classes::CONTAINED);
    if row.container_id.is_some() && !runtime {
        escape(row, who, raise);
    }
    match row.kind {
        KernelEventKind::ModuleLoad => module(row, who, raise),
        KernelEventKind::BpfLoad => bpf(row, who, raise),
        KernelEventKind::Kexec => kexec(row, who, raise),
        KernelEventKind::ClockSet => clock(row, who, raise),
        KernelEventKind::Setting => {
            let path = row.path.as_deref().or(row.name.as_deref()).unwrap_or_default();
            if let Some(found) = setting_at(path) {
                setting(
                    path,
                    found,
                    row.time,
                    who,
                    row.ppid,
                    raise,
                    || json!({"kernel_events": row}),
                );
            }
        }
        _ => {}
    }
}

/// A runtime that sets a container up is in its group already, under another name and from memory.
fn is_runtime(who: &Who<'_>) -> bool {
    who.comm.starts_with("runc")
        || who.comm.starts_with("crun")
        || who.exe.is_some_and(|exe| exe.contains("runc"))
}

fn module(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let loaders = Classes::MODULES | Classes::INIT;
    // The kernel starts modprobe itself for what a device or file system needs.
    let asked_by_kernel = who.above.any(Classes::KERNEL) || who.own.any(Classes::KERNEL);
    let path = row.path.as_deref();
    let delivered = path.is_none_or(|path| MODULES.iter().any(|folder| path.starts_with(folder)));
    let by_host = asked_by_kernel
        || who.own.any(Classes::INIT)
        || who.above.any(Classes::PACKAGE)
        || row.boot_ns < BOOT_NS;
    if delivered && by_host && who.container.is_none() {
        return;
    }
    let udev = who.own.any(Classes::MODULES) && who.exe.is_some_and(|exe| base_name(exe).contains("udev"));
    let services = Classes::CONTAINER_RUNTIME | Classes::INIT;
    // Everything descends from the first process; a person's session does not count as its doing.
    let unattended =
        who.login_uid.is_none() && who.above.any(services) && !who.above.any(Classes::WEB | Classes::CRON);
    let service = unattended && !who.above.any(Classes::SHELL);
    if delivered && (udev || (who.own.any(loaders) && service)) && who.container.is_none() {
        return;
    }
    // What taints the kernel was not built with it, or is not signed.
    let foreign = row
        .detail
        .as_deref()
        .is_some_and(|detail| detail.starts_with("taints"));
    let severity = if !who.own.any(loaders) || !delivered || foreign || who.is_risky() {
        Severity::High
    } else if who.is_upkeep() || unattended {
        // The script of a service asks for what it needs.
        Severity::Low
    } else {
        Severity::Medium
    };
    let name = row.name.as_deref().or(path).unwrap_or("a module");
    tell(
        row,
        &MODULE,
        severity,
        who,
        raise,
        format!("{} loaded {name} into the kernel", who.comm),
    );
}

fn bpf(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let expected = Classes::BPF
        | Classes::INIT
        | Classes::CONTAINER_RUNTIME
        | Classes::DEBUGGER
        | Classes::INTEGRITY
        | Classes::LOGIN;
    // sshd and others filter their own system calls; that is no program loaded by bpf(2), but older kernels tell it so.
    if who.pid == std::process::id()
        || who.own.any(expected)
        || (is_runtime(who) && row.container_id.is_some())
    {
        return;
    }
    let severity = if who.line().any(Classes::PACKAGE) {
        Severity::Low
    } else {
        Severity::High
    };
    let name = row.name.as_deref().unwrap_or("without a name");
    let kind = row.detail.as_deref().unwrap_or("unknown");
    let title = format!(
        "{} loaded a BPF program ({kind}, {name}) into the kernel",
        who.comm
    );
    tell(row, &BPF, severity, who, raise, title);
}

fn kexec(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let expected = who.own.any(Classes::INIT | Classes::CRASH) || who.is_upkeep();
    let named = who
        .exe
        .is_some_and(|exe| is_trusted_path(exe) && base_name(exe) == "kexec")
        && who.login_uid.is_none()
        && !who.line().any(Classes::WEB | Classes::CRON);
    if !expected && !named {
        tell(
            row,
            &KEXEC,
            Severity::High,
            who,
            raise,
            format!("{} loaded another kernel", who.comm),
        );
    }
}

fn clock(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    if who.own.any(Classes::TIME | Classes::INIT) || who.own.any(Classes::KERNEL) || row.boot_ns < BOOT_NS {
        return;
    }
    let severity = if who.is_upkeep() {
        Severity::Low
    } else {
        Severity::Medium
    };
    tell(
        row,
        &CLOCK,
        severity,
        who,
        raise,
        format!("{} set the clock", who.comm),
    );
}

/// Judges a setting of the kernel that was opened for writing or written.
pub(super) fn setting(
    path: &str,
    found: Setting,
    time: TimeMicros,
    who: &Who<'_>,
    ppid: Option<u32>,
    raise: &mut Raise<'_>,
    evidence: impl FnOnce() -> Value,
) {
    let release_agent = path.ends_with("/release_agent");
    let runtime = who.own.any(Classes::CONTAINER_RUNTIME) || is_runtime(who);
    if who.container.is_none()
        && (who.own.any(Classes::INIT | Classes::CRASH) || who.line().any(Classes::PACKAGE) || runtime)
    {
        return;
    }
    let tool = who.exe.is_some_and(|exe| base_name(exe) == "sysctl");
    let (what, severity): (&'static Detection, Severity) = match found {
        Setting::Runs if who.container.is_some() => (&ESCAPE, Severity::Critical),
        Setting::Runs if who.is_upkeep() => (&SETTING, Severity::Low),
        Setting::Runs if release_agent => (&ESCAPE, Severity::High),
        Setting::Runs => (&SETTING, Severity::High),
        Setting::Protects if who.container.is_some() || who.is_risky() => (&SETTING, Severity::High),
        Setting::Protects if tool || who.is_upkeep() => (&SETTING, Severity::Low),
        Setting::Protects => (&SETTING, Severity::Medium),
    };
    let sign = Sign {
        what,
        severity,
        time,
        subject: Subject::named(SubjectKind::File, path),
        who: Some(who),
        ppid,
    };
    raise.sign(sign, || Told {
        title: format!("{} wrote the kernel's setting {path}", who.comm),
        factors: vec![
            ("file.path", json!(path), Value::Null),
            ("container.id", json!(who.container), Value::Null),
        ],
        evidence: evidence(),
    });
}

fn escape(row: &KernelEvent, who: &Who<'_>, raise: &mut Raise<'_>) {
    let own_namespace = row.flags.is_some_and(|flags| flags & NEW_USER != 0);
    let (severity, title) = match row.kind {
        KernelEventKind::Mount => {
            let source = row.name.as_deref().unwrap_or_default();
            if !is_block_device(source) {
                return;
            }
            (
                Severity::High,
                format!("{} in a container mounted the host's device {source}", who.comm),
            )
        }
        KernelEventKind::Setns if !own_namespace => (
            Severity::High,
            format!("{} in a container entered other namespaces", who.comm),
        ),
        KernelEventKind::ModuleLoad => (
            Severity::Critical,
            format!("{} in a container loaded a module", who.comm),
        ),
        _ => return,
    };
    // Containers within a container that was given the rights for it.
    let nested = who.own.any(Classes::CONTAINER_RUNTIME) && row.kind != KernelEventKind::ModuleLoad;
    let severity = if nested { Severity::Low } else { severity };
    tell(row, &ESCAPE, severity, who, raise, title);
}

fn is_block_device(source: &str) -> bool {
    let Some(name) = source.strip_prefix("/dev/") else {
        return false;
    };
    [
        "sd", "vd", "xvd", "nvme", "dm-", "mapper/", "md", "mmcblk", "disk/", "hd",
    ]
    .iter()
    .any(|start| name.starts_with(start))
}

fn tell(
    row: &KernelEvent,
    what: &'static Detection,
    severity: Severity,
    who: &Who<'_>,
    raise: &mut Raise<'_>,
    title: String,
) {
    let sign = Sign::of(what, severity, row.time, who, row.ppid);
    raise.sign(sign, || Told {
        title,
        factors: vec![
            ("kernel.act", json!(row.kind.as_str()), Value::Null),
            ("kernel.object", json!(row.name), Value::Null),
            ("process.executable.path", json!(who.exe), Value::Null),
        ],
        evidence: json!({"kernel_events": row}),
    });
}
