//! Calls that act on the kernel and on other processes.

use super::*;

#[test]
fn kernel_and_signals_are_told() {
    let module = one!(
        call(
            "finit_module",
            X86,
            "success=yes exit=0",
            &[("KERN_MODULE", "name=\"rootkit\"")]
        ),
        KernelEvent
    );
    assert_eq!(
        (module.kind, module.name.as_deref()),
        (KernelEventKind::ModuleLoad, Some("rootkit"))
    );
    let mount = one!(
        call(
            "mount",
            X86,
            "success=yes exit=0 a3=1000",
            &[("CWD", "cwd=\"/\""), ("PATH", "name=\"/mnt\" nametype=NORMAL")]
        ),
        KernelEvent
    );
    assert_eq!(
        (mount.kind, mount.path.as_deref(), mount.flags),
        (KernelEventKind::Mount, Some("/mnt"), Some(0x1000))
    );
    assert_eq!(
        one!(call("bpf", ARM, "success=yes exit=4 a0=5", &[]), KernelEvent).kind,
        KernelEventKind::BpfLoad
    );
    assert!(
        call("bpf", X86, "success=yes exit=0 a0=1", &[]).is_empty(),
        "a map that is read"
    );

    for (name, kind) in [
        ("chroot", KernelEventKind::ChangeRoot),
        ("kexec_file_load", KernelEventKind::Kexec),
        ("clock_settime", KernelEventKind::ClockSet),
        ("sethostname", KernelEventKind::HostNameSet),
        ("setdomainname", KernelEventKind::HostNameSet),
    ] {
        let row = one!(call(name, ARM, "success=no exit=-1 a0=3e8f51", &[]), KernelEvent);
        assert_eq!(
            (row.kind, row.detail.as_deref(), row.error),
            (kind, Some(name), Some(1))
        );
    }

    let paths = [
        ("CWD", "cwd=\"/\""),
        ("PATH", "item=0 name=\"/proc/self/fd/4\" nametype=NORMAL"),
        ("PATH", "item=1 name=\"/mnt\" nametype=NORMAL"),
    ];
    let moved = one!(
        call("move_mount", X86, "success=yes exit=0 a3=7ffc01", &paths),
        KernelEvent
    );
    assert_eq!(
        (
            moved.kind,
            moved.path.as_deref(),
            moved.flags,
            moved.detail.as_deref()
        ),
        (KernelEventKind::Mount, Some("/mnt"), None, Some("move_mount"))
    );
    let value = [("TIME_ADJNTPVAL", "op=status old=64 new=8256")];
    let set = one!(
        call("adjtimex", X86, "success=yes exit=5 a0=7ffc01", &value),
        KernelEvent
    );
    assert_eq!(
        (set.kind, set.detail.as_deref()),
        (KernelEventKind::ClockSet, Some("adjtimex"))
    );
    assert!(
        call("adjtimex", X86, "success=yes exit=5 a0=7ffc01", &[]).is_empty(),
        "a clock that is read"
    );

    let killed = one!(
        call(
            "kill",
            X86,
            "success=yes exit=0 a0=3e8f51 a1=9",
            &[("OBJ_PID", "opid=4099921 ocomm=\"nginx\"")]
        ),
        SignalEvent
    );
    assert_eq!(
        (killed.kind, killed.signal, killed.target_pid),
        (SignalEventKind::Signal, 9, 4_099_921)
    );
    let abend = line(
        "ANOM_ABEND",
        5,
        0,
        "auid=1000 uid=33 gid=33 ses=2 pid=4100000 comm=\"php\" exe=\"/usr/bin/php\" sig=11 res=1",
    );
    let translator = Translator::new(Inventory::new(ProcessConfig::default()));
    let facts: Vec<Fact> = joined(&[abend])
        .iter()
        .flat_map(|event| translator.rows(event))
        .collect();
    let fault = one!(facts, SignalEvent);
    assert_eq!(
        (fault.kind, fault.signal, fault.uid),
        (SignalEventKind::Fault, 11, 33)
    );
}
