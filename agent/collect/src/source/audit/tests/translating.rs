//! Events of the log become rows. The lines are made up after the kernel's and auditd's own formats.

use fleetmend_event::Fact;
use fleetmend_event::table::{
    CredentialEventKind, FileEventKind, KernelEventKind, MemoryEventKind, NetworkEventKind, PathSource,
    ProcessEventKind, SignalEventKind, Source,
};

use super::*;
use crate::process::{Inventory, ProcessConfig};

/// What every call's record holds of its process; the pid is beyond any that runs.
const WHO: &str = "items=1 ppid=1 pid=4100000 auid=1000 uid=1001 gid=1002 euid=0 suid=0 fsuid=0 egid=5 sgid=5 fsgid=5 tty=pts0 \
                   ses=3 comm=\"prog\" exe=\"/usr/bin/prog\" subj=unconfined key=\"k\"";

fn call(name: &str, arch: &str, fields: &str, more: &[(&str, &str)]) -> Vec<Fact> {
    let table = syscalls::Table::of(arch).unwrap();
    let number = (0..500).find(|number| table.name(*number) == Some(name)).unwrap();
    let mut lines = vec![line(
        "SYSCALL",
        1,
        0,
        &format!("arch={arch} syscall={number} {fields} {WHO}"),
    )];
    lines.extend(
        more.iter()
            .map(|(record_type, fields)| line(record_type, 1, 0, fields)),
    );
    lines.push(line("PROCTITLE", 1, 0, "proctitle=70726F67"));
    let translator = Translator::new(Inventory::new(ProcessConfig::default()));
    joined(&lines)
        .iter()
        .flat_map(|event| translator.rows(event))
        .collect()
}

const X86: &str = "c000003e";
const ARM: &str = "c00000b7";

macro_rules! one {
    ($facts:expr, $variant:ident) => {{
        let facts = $facts;
        let [Fact::$variant(row)] = facts.as_slice() else {
            panic!("{facts:?}")
        };
        row.as_ref().clone()
    }};
}

mod acts;

#[test]
fn execution_has_its_arguments_from_every_line() {
    let long = "61".repeat(40);
    for arch in [X86, ARM] {
        let facts = call(
            "execve",
            arch,
            "success=yes exit=0 a0=55 a1=56",
            &[
                (
                    "EXECVE",
                    "argc=4 a0=\"mysql\" a1=2D2D757365723D61C3A9 a2_len=80 a2[0]=6262",
                ),
                ("EXECVE", &format!("a2[1]={long}")),
                ("EXECVE", "a3=\"-psecret\""),
                ("CWD", "cwd=\"/home/a\""),
                (
                    "PATH",
                    "item=0 name=\"/usr/bin/prog\" inode=7 dev=08:01 mode=0100755 ouid=0 ogid=0 nametype=NORMAL",
                ),
            ],
        );
        let row = one!(facts, ProcessEvent);
        let second = format!("bb{}", "a".repeat(40));
        assert_eq!(row.args, ["mysql", "--user=aé", &second, "-p[masked]"]);
        assert!(!row.args_truncated);
        assert_eq!(
            (row.kind, row.source, row.time),
            (ProcessEventKind::Exec, Source::Audit, begun())
        );
        assert_eq!((row.pid, row.ppid, row.uid, row.gid), (4_100_000, 1, 1001, 1002));
        assert_eq!((row.euid, row.login_uid), (Some(0), Some(1000)));
        assert_eq!(row.working_directory.as_deref(), Some("/home/a"));
        assert_eq!(
            (row.comm.as_str(), row.exe.as_deref()),
            ("prog", Some("/usr/bin/prog"))
        );
        assert_eq!(row.fileless, Some(false));
    }
}

#[test]
fn arguments_that_are_missing_are_said_to_be() {
    let args = |more: &[(&str, &str)]| {
        let row = one!(call("execve", X86, "success=yes exit=0", more), ProcessEvent);
        (row.args, row.args_truncated)
    };
    assert_eq!(
        args(&[("EXECVE", "argc=3 a0=\"a\" a1=\"b\"")]),
        (vec!["a".into(), "b".into()], true)
    );
    assert_eq!(args(&[("EXECVE", "argc=2 a1=\"b\"")]), (vec![], true));
    assert_eq!(args(&[]), (vec!["prog".into()], false), "the title has to do");
    let whole = format!("argc=1 a0=\"{}\"", "x".repeat(6_000));
    let (kept, truncated) = args(&[("EXECVE", &whole)]);
    assert_eq!((kept[0].len(), truncated), (4_096, true));
    // One that failed executed nothing.
    assert!(call("execve", X86, "success=no exit=-2", &[]).is_empty());
}

#[test]
fn processes_begin_and_end() {
    let fork = one!(
        call("clone", X86, "success=yes exit=4100001 a0=1200011", &[]),
        ProcessEvent
    );
    assert_eq!(
        (fork.kind, fork.pid, fork.ppid),
        (ProcessEventKind::Fork, 4_100_001, 4_100_000)
    );
    assert_eq!(fork.parent_exe.as_deref(), Some("/usr/bin/prog"));
    assert!(
        call("clone", X86, "success=yes exit=4100001 a0=3d0f00", &[]).is_empty(),
        "a thread"
    );
    let exit = one!(call("exit_group", X86, "a0=107", &[]), ProcessEvent);
    assert_eq!((exit.kind, exit.exit_code), (ProcessEventKind::Exit, Some(7)));
}

#[test]
fn files_are_told_by_what_was_done_to_them() {
    let path = |nametype: &str, name: &str| {
        format!(
            "name=\"{name}\" inode=42 dev=fd:02 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={nametype}"
        )
    };
    let (parent, create, normal) = (
        path("PARENT", "/etc/"),
        path("CREATE", "x"),
        path("NORMAL", "/etc/passwd"),
    );
    let cwd = ("CWD", "cwd=\"/etc\"");
    let made = one!(
        call(
            "openat",
            X86,
            "success=yes exit=3 a0=ffffff9c a1=7f a2=241 a3=1b6",
            &[cwd, ("PATH", &parent), ("PATH", &create)]
        ),
        FileEvent
    );
    assert_eq!(
        (made.kind, made.path.as_str(), made.flags),
        (FileEventKind::Create, "/etc/x", Some(0x241))
    );
    assert_eq!(
        (made.path_source, made.inode),
        (Some(PathSource::Argument), Some(42))
    );
    assert_eq!(made.device, Some((0xfd << 32) | 2));
    let written = one!(
        call(
            "openat",
            ARM,
            "success=yes exit=3 a0=ffffffffffffff9c a1=7f a2=1 a3=0",
            &[cwd, ("PATH", &normal)]
        ),
        FileEvent
    );
    assert_eq!(
        (written.kind, written.path.as_str()),
        (FileEventKind::OpenWrite, "/etc/passwd")
    );
    let read = one!(
        call(
            "openat",
            X86,
            "success=no exit=-13 a0=ffffff9c a2=0",
            &[cwd, ("PATH", &normal)]
        ),
        FileEvent
    );
    assert_eq!((read.kind, read.error), (FileEventKind::OpenRead, Some(13)));
    let relative = one!(
        call(
            "openat",
            X86,
            "success=yes exit=3 a0=5 a2=1",
            &[cwd, ("PATH", &path("NORMAL", "y"))]
        ),
        FileEvent
    );
    assert_eq!(relative.path, "y", "of a folder that is not known");
}

#[test]
fn path_is_told_as_what_it_comes_to() {
    for (cwd, name, wanted) in [
        ("/usr", "../etc/cron.d/x", "/etc/cron.d/x"),
        ("/", "x", "/x"),
        ("/etc/", "./cron.d//x", "/etc/cron.d/x"),
        ("/tmp", "/etc/../etc/./cron.d/x", "/etc/cron.d/x"),
        ("/tmp", "../../../etc/x", "/etc/x"),
        ("(null)", "../x", "../x"),
    ] {
        let cwd = format!("cwd=\"{cwd}\"").replace("\"(null)\"", "(null)");
        let item = format!("name=\"{name}\" inode=42 dev=fd:02 mode=0100644 nametype=CREATE");
        let made = one!(
            call(
                "openat",
                X86,
                "success=yes exit=3 a0=ffffff9c a2=241",
                &[("CWD", &cwd), ("PATH", &item)]
            ),
            FileEvent
        );
        assert_eq!(made.path, wanted);
    }
}

#[test]
fn names_are_told() {
    let path = |nametype: &str, name: &str| {
        format!(
            "name=\"{name}\" inode=42 dev=fd:02 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={nametype}"
        )
    };
    let parent = path("PARENT", "/etc/");
    let cwd = ("CWD", "cwd=\"/etc\"");
    let renamed = one!(
        call(
            "rename",
            X86,
            "success=yes exit=0",
            &[
                cwd,
                ("PATH", &parent),
                ("PATH", &parent),
                ("PATH", &path("DELETE", "./a")),
                ("PATH", &path("DELETE", "/etc/b")),
                ("PATH", &path("CREATE", "/etc/b"))
            ]
        ),
        FileEvent
    );
    assert_eq!(
        (renamed.kind, renamed.path.as_str()),
        (FileEventKind::Rename, "/etc/a")
    );
    assert_eq!(renamed.target.as_deref(), Some("/etc/b"));
    let link = one!(
        call(
            "symlink",
            X86,
            "success=yes exit=0",
            &[
                cwd,
                ("PATH", &path("UNKNOWN", "../secret")),
                ("PATH", &parent),
                ("PATH", &path("CREATE", "/etc/l"))
            ]
        ),
        FileEvent
    );
    assert_eq!(
        (link.path.as_str(), link.target.as_deref()),
        ("../secret", Some("/etc/l"))
    );
}

#[test]
fn modes_and_owners_are_told() {
    let normal = "name=\"/etc/passwd\" inode=42 dev=fd:02 mode=0100644 nametype=NORMAL".to_owned();
    let gone_path = "name=\"/etc/x\" inode=42 dev=fd:02 mode=0100644 nametype=DELETE".to_owned();
    let cwd = ("CWD", "cwd=\"/etc\"");
    let chmod = one!(
        call(
            "fchmodat",
            X86,
            "success=yes exit=0 a0=ffffff9c a1=7f a2=9ed",
            &[cwd, ("PATH", &normal)]
        ),
        FileEvent
    );
    assert_eq!((chmod.old_mode, chmod.mode), (Some(0o100_644), Some(0o104_755)));
    let chown = one!(
        call(
            "chown",
            X86,
            "success=yes exit=0 a0=7f a1=0 a2=ffffffff",
            &[cwd, ("PATH", &normal)]
        ),
        FileEvent
    );
    assert_eq!((chown.owner_uid, chown.owner_gid), (Some(0), None));
    let gone = one!(
        call(
            "unlinkat",
            ARM,
            "success=yes exit=0 a0=ffffff9c",
            &[cwd, ("PATH", &gone_path)]
        ),
        FileEvent
    );
    assert_eq!(
        (gone.kind, gone.path.as_str(), gone.euid),
        (FileEventKind::Unlink, "/etc/x", Some(0))
    );
    let nameless = one!(
        call(
            "fchmod",
            X86,
            "success=yes exit=0 a0=3 a1=1ff",
            &[(
                "PATH",
                "item=0 name=(null) inode=9 dev=08:01 mode=0100600 nametype=NORMAL"
            )]
        ),
        FileEvent
    );
    assert_eq!(
        (nameless.path.as_str(), nameless.path_source, nameless.inode),
        ("", None, Some(9))
    );
}

#[test]
fn connections_have_their_far_end() {
    let connect = one!(
        call(
            "connect",
            X86,
            "success=no exit=-115 a0=3",
            &[("SOCKADDR", "saddr=020001BBC63364010000000000000000")]
        ),
        NetworkEvent
    );
    assert_eq!(
        (connect.kind, connect.remote_address.as_str()),
        (NetworkEventKind::Connect, "198.51.100.1")
    );
    assert_eq!((connect.remote_port, connect.error), (443, None), "on its way");
    assert_eq!(
        (connect.local_address.as_str(), connect.protocol.as_str()),
        ("", ""),
        "not in the log"
    );
    let refused = one!(
        call(
            "connect",
            ARM,
            "success=no exit=-111 a0=3",
            &[(
                "SOCKADDR",
                "saddr=0A0000500000000020010DB8000000000000000000000001"
            )]
        ),
        NetworkEvent
    );
    assert_eq!(
        (refused.remote_address.as_str(), refused.error),
        ("2001:db8::1", Some(111))
    );
    let local = call(
        "connect",
        X86,
        "success=yes exit=0",
        &[("SOCKADDR", "saddr=01002F72756E2F6C6F67")],
    );
    assert!(local.is_empty(), "no connection of the network");
}

#[test]
fn credentials_and_memory_are_told() {
    let user = one!(
        call("setuid", X86, "success=yes exit=0 a0=0", &[]),
        CredentialEvent
    );
    assert_eq!(
        (user.kind, user.call.as_deref()),
        (CredentialEventKind::User, Some("setuid"))
    );
    assert_eq!((user.uid, user.euid, user.old_uid), (1001, Some(0), None));
    assert!(call("setuid", X86, "success=no exit=-1 a0=0", &[]).is_empty());
    let capset = one!(
        call(
            "capset",
            ARM,
            "success=yes exit=0",
            &[(
                "CAPSET",
                "pid=0 cap_pi=0 cap_pp=1 cap_pe=00000000000000ff cap_pa=0"
            )]
        ),
        CredentialEvent
    );
    assert_eq!(
        (capset.kind, capset.capabilities),
        (CredentialEventKind::Capabilities, Some(0xff))
    );

    let attach = one!(
        call(
            "ptrace",
            X86,
            "success=yes exit=0 a0=10 a1=3e8f51",
            &[("OBJ_PID", "opid=4099921 oauid=0 ouid=33 oses=1 ocomm=\"sshd\"")]
        ),
        MemoryEvent
    );
    assert_eq!(
        (attach.kind, attach.detail.as_deref()),
        (MemoryEventKind::Ptrace, Some("PTRACE_ATTACH"))
    );
    assert_eq!(
        (
            attach.target_pid,
            attach.target_comm.as_deref(),
            attach.target_uid
        ),
        (Some(4_099_921), Some("sshd"), Some(33))
    );
    assert!(
        call("ptrace", X86, "success=yes exit=0 a0=7 a1=9", &[]).is_empty(),
        "goes on"
    );
    let written = one!(
        call("process_vm_writev", ARM, "success=no exit=-1 a0=3e8f51", &[]),
        MemoryEvent
    );
    assert_eq!(
        (written.kind, written.error),
        (MemoryEventKind::ProcessVmWrite, Some(1))
    );
}
