//! Processes: what began and ended, and what runs.

use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// What happened to a process.
    pub enum ProcessEventKind {
        /// A program was executed.
        Exec = "exec",
        /// The process ended.
        Exit = "exit",
        /// A process was created.
        Fork = "fork",
    }
}

words! {
    /// Where a fact was read.
    pub enum Source {
        /// A BPF program in the kernel.
        Ebpf = "ebpf",
        /// The files under /proc.
        Proc = "proc",
        /// The kernel's process connector.
        Connector = "connector",
        /// The log of auditd.
        Audit = "audit",
        /// The kernel's socket tables, by sock_diag or /proc/net.
        SocketTable = "socket_table",
        /// inotify: what changed, not who.
        Inotify = "inotify",
    }
}

table! {
    /// An exec, exit or fork.
    pub struct ProcessEvent("process_events", id 2, version 2, Lane::Events) {
        /// When it happened.
        time: TimeMicros,
        /// Nanoseconds on the boot clock when it happened.
        boot_ns: u64,
        /// What happened.
        kind: ProcessEventKind,
        /// Process id in the initial namespace (thread group id).
        pid: u32,
        /// Nanoseconds on the boot clock when the process began; with `pid` its identity.
        start_boot_ns: u64,
        /// Process id of the parent.
        ppid: u32,
        /// Command name of the parent, when known.
        parent_comm: Option<String>,
        /// Path of the parent's program, when known.
        parent_exe: Option<String>,
        /// Command line of the parent, secrets masked, when known.
        parent_command_line: Option<String>,
        /// Command name, at most 15 bytes.
        comm: String,
        /// Path of the program, when known.
        exe: Option<String>,
        /// Arguments, secrets masked; empty for exit and fork.
        args: Vec<String>,
        /// Whether `args` was longer than the sensor reads.
        args_truncated: bool,
        /// Real user id.
        uid: u32,
        /// Real group id.
        gid: u32,
        /// Path of the control group, when known.
        cgroup: Option<String>,
        /// systemd unit, when the control group names one.
        unit: Option<String>,
        /// Container id, when the control group names one.
        container_id: Option<String>,
        /// Exit code, for an exit that was not by signal.
        exit_code: Option<i32>,
        /// Signal that ended it, for an exit by signal.
        exit_signal: Option<i32>,
        /// How long it ran, in microseconds, for an exit.
        duration_us: Option<u64>,
        /// CPU time in user mode, in microseconds, for an exit.
        user_us: Option<u64>,
        /// CPU time in the kernel, in microseconds, for an exit.
        system_us: Option<u64>,
        /// Largest resident set in bytes, for an exit, when the sensor can read it.
        rss_bytes_max: Option<u64>,
        /// Where it was seen.
        source: Source,
        /// Effective user id, when known.
        euid: Option<u32>,
        /// User id of the login session, when one is set.
        login_uid: Option<u32>,
        /// Working directory at an exec, when known.
        working_directory: Option<String>,
        /// For an exec: whether the program has no name in any file system (a memfd, or deleted).
        fileless: Option<bool>,
    }
}

table! {
    /// A process as it was at one moment: the inventory.
    pub struct ProcessSnapshot("processes", id 4, version 1, Lane::Events) {
        /// When it was read.
        time: TimeMicros,
        /// Process id.
        pid: u32,
        /// Nanoseconds on the boot clock when the process began.
        start_boot_ns: u64,
        /// Process id of the parent.
        ppid: u32,
        /// Command name.
        comm: String,
        /// Path of the program, when readable.
        exe: Option<String>,
        /// Whether that program has been deleted since.
        exe_deleted: bool,
        /// Arguments joined by spaces, secrets masked.
        command_line: String,
        /// Real user id.
        uid: u32,
        /// State letter of /proc/PID/stat, or `X` when the process has ended.
        state: String,
        /// Path of the control group, when known.
        cgroup: Option<String>,
        /// systemd unit, when the control group names one.
        unit: Option<String>,
        /// Container id, when the control group names one.
        container_id: Option<String>,
        /// CPU use since the last snapshot, in percent of one core.
        cpu_core_pct: f64,
        /// Resident set in bytes.
        rss_bytes: u64,
        /// Bytes read from storage since the last snapshot.
        read_bytes: u64,
        /// Bytes written to storage since the last snapshot.
        write_bytes: u64,
        /// Open file descriptors, when readable.
        fd_count: Option<u32>,
        /// Threads.
        thread_count: u32,
    }
}
