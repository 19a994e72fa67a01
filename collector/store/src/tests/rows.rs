//! Rows that every suite of this room sends; the suites beside it take this file in.

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Source};

/// An exec of a small program.
pub(crate) fn exec(time: i64, pid: u32) -> ProcessEvent {
    ProcessEvent {
        time: TimeMicros(time),
        boot_ns: 1,
        kind: ProcessEventKind::Exec,
        pid,
        start_boot_ns: 1,
        ppid: 1,
        parent_comm: Some("sh".into()),
        parent_exe: None,
        parent_command_line: None,
        comm: if pid.is_multiple_of(2) {
            "true".into()
        } else {
            "false".into()
        },
        exe: Some("/bin/true".into()),
        args: vec!["true".into(), "now".into()],
        args_truncated: false,
        uid: 0,
        gid: 0,
        cgroup: None,
        unit: None,
        container_id: None,
        exit_code: None,
        exit_signal: None,
        duration_us: None,
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Ebpf,
        euid: None,
        login_uid: None,
        working_directory: None,
        fileless: None,
    }
}
