//! Rows of the tables of acts, integrity, logs and authentication: every kind, with everything known and with nothing.

use fleetmend_event::table::*;
use fleetmend_event::{Fact, TimeMicros};

fn actor(known: bool) -> Actor {
    let text = |text: &str| known.then(|| text.to_owned());
    Actor {
        pid: if known { 7 } else { 0 },
        start_boot_ns: 5,
        ppid: known.then_some(1),
        comm: "vi".to_owned(),
        exe: text("/usr/bin/vi"),
        command_line: text("vi /etc/hosts"),
        parent_comm: text("bash"),
        parent_exe: text("/bin/bash"),
        uid: 1_000,
        euid: known.then_some(0),
        login_uid: known.then_some(1_000),
        cgroup: text("/a"),
        unit: text("a.service"),
        container_id: text("c"),
    }
}

/// See the module. `time` is that of every row.
pub(crate) fn acts(known: bool, time: TimeMicros) -> Vec<Fact> {
    let text = |text: &str| known.then(|| text.to_owned());
    let error = (!known).then_some(13);
    let (by, source) = (actor(known), Source::Ebpf);
    let mut facts: Vec<Fact> = Vec::new();
    for kind in FileEventKind::ALL {
        facts.push(Fact::from(FileEvent {
            path: "/etc/hosts".to_owned(),
            target: text("/etc/hosts~"),
            mode: known.then_some(0o100_644),
            owner_uid: known.then_some(0),
            owner_gid: known.then_some(0),
            inode: known.then_some(9),
            error,
            ..FileEvent::by(by.clone(), *kind, time, 1, source)
        }));
    }
    for kind in CredentialEventKind::ALL {
        facts.push(CredentialEvent::by(by.clone(), *kind, time, 1, source).into());
    }
    for kind in MemoryEventKind::ALL {
        facts.push(Fact::from(MemoryEvent {
            target_pid: known.then_some(8),
            target_start_boot_ns: known.then_some(6),
            target_comm: text("sshd"),
            target_exe: text("/usr/sbin/sshd"),
            error,
            ..MemoryEvent::by(by.clone(), *kind, time, 1, source)
        }));
    }
    for kind in KernelEventKind::ALL {
        facts.push(Fact::from(KernelEvent {
            name: text("loop"),
            path: text("/lib/modules/loop.ko"),
            error,
            ..KernelEvent::by(by.clone(), *kind, time, 1, source)
        }));
    }
    for kind in SignalEventKind::ALL {
        facts.push(Fact::from(SignalEvent {
            signal: 9,
            target_pid: 8,
            target_start_boot_ns: known.then_some(6),
            target_comm: text("sshd"),
            ..SignalEvent::by(by.clone(), *kind, time, 1, source)
        }));
    }
    facts.extend(
        IntegrityChange::ALL
            .iter()
            .map(|change| integrity(*change, known, time)),
    );
    facts.push(Fact::from(SyscallProfile {
        time,
        span_us: 100_000,
        pid: 7,
        start_boot_ns: 5,
        comm: "vi".to_owned(),
        exe: text("/usr/bin/vi"),
        occasion: "sample".to_owned(),
        calls: vec![0, 1],
        counts: vec![5, u64::MAX],
        sequence: vec![0, 1, 0],
        dropped: 0,
    }));
    facts.push(Fact::from(SensorAccount {
        time,
        family: "file".to_owned(),
        seen: 9,
        filtered: 2,
        aggregated: 1,
        delivered: 6,
        ring_full: 0,
        map_full: 0,
        shed: 0,
        evicted: 0,
        runs: 9,
        run_us: 3,
        run_time_sampled: true,
        ring_bytes_peak: 64,
        ring_bytes: 4_096,
    }));
    facts.push(Fact::from(LogRecord {
        time,
        source: if known { "/var/log/syslog" } else { "journal" }.to_owned(),
        identifier: "cron".to_owned(),
        unit: text("cron.service"),
        pid: known.then_some(7),
        uid: known.then_some(0),
        priority: known.then_some(6),
        facility: known.then_some(9),
        message: "a line".to_owned(),
        truncated: false,
        template: 3,
        repeats: 1,
    }));
    for kind in AuthEventKind::ALL {
        for outcome in AuthOutcome::ALL {
            facts.push(auth(*kind, *outcome, known, time));
        }
    }
    facts
}

fn integrity(change: IntegrityChange, known: bool, time: TimeMicros) -> Fact {
    let text = |text: &str| known.then(|| text.to_owned());
    Fact::from(IntegrityEvent {
        time,
        path: "/etc/ld.so.preload".to_owned(),
        change,
        class: "preload".to_owned(),
        verdict: IntegrityVerdict::Unexpected,
        old_sha256: None,
        new_sha256: text("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        old_size_bytes: None,
        new_size_bytes: known.then_some(5),
        old_mode: None,
        new_mode: known.then_some(0o100_644),
        old_uid: None,
        new_uid: known.then_some(0),
        old_gid: None,
        new_gid: known.then_some(0),
        package: text("libc6"),
        package_agrees: known.then_some(false),
        pid: known.then_some(7),
        start_boot_ns: known.then_some(5),
        uid: known.then_some(0),
        login_uid: None,
        comm: text("vi"),
        exe: text("/usr/bin/vi"),
        chain: text("vi < bash"),
        source: "ebpf".to_owned(),
    })
}

fn auth(kind: AuthEventKind, outcome: AuthOutcome, known: bool, time: TimeMicros) -> Fact {
    let text = |text: &str| known.then(|| text.to_owned());
    Fact::from(AuthEvent {
        time,
        kind,
        outcome,
        service: "sshd".to_owned(),
        method: text("password"),
        user: "root".to_owned(),
        user_valid: known.then_some(true),
        target_user: text("root"),
        command: text("/bin/ls"),
        terminal: text("pts/0"),
        remote_address: text("192.0.2.7"),
        remote_port: known.then_some(4_000),
        key_fingerprint: None,
        pid: known.then_some(7),
        source: "journal".to_owned(),
        repeats: 1,
    })
}
