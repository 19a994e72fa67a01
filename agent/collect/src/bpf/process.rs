//! Family `process`: execs, forks and exits become rows, with the program's path, the arguments masked, the parent and
//! the placement.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::AbiError;
use fleetmend_ebpf::abi::process::{ExecRecord, ExitRecord, ForkRecord, KIND_EXEC, Record, flag};
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, Source, Table};
use fleetmend_event::{Fact, Lane};

use super::enrich::{Enricher, login_uid, text};
use super::spec::{At, Duty, FamilySpec, Handler, Hook, Way};
use crate::masking::mask_args;
use crate::process::proc_fs::split_args;
use crate::process::{Exec, Process, ProcessKey, Program};

/// Programs whose path is remembered.
const PATHS_MAX: usize = 1024;
/// Exits that are remembered, to know one that is told twice: the two come within the time that a thread takes to end.
const EXITS_MAX: usize = 256;

/// The duty without which the probes do not count as a source of processes.
pub(super) const EXEC: &str = "exec";

pub(super) static SPEC: FamilySpec = FamilySpec {
    family: Family::Process,
    table: ProcessEvent::NAME,
    table_id: ProcessEvent::ID,
    lane: Lane::Events,
    duties: &[
        Duty {
            name: EXEC,
            ways: &[
                Way {
                    name: "scheduler tracepoint",
                    hooks: &[Hook::new("on_exec", At::BtfTracepoint("sched_process_exec"))],
                },
                Way {
                    name: "scheduler tracepoint, plain reads",
                    hooks: &[Hook::new(
                        "on_exec_plain",
                        At::RawTracepoint("sched_process_exec"),
                    )],
                },
            ],
        },
        Duty {
            name: "fork",
            ways: &[
                Way {
                    name: "scheduler tracepoint",
                    hooks: &[Hook::new("on_fork", At::BtfTracepoint("sched_process_fork"))],
                },
                Way {
                    name: "scheduler tracepoint, plain reads",
                    hooks: &[Hook::new(
                        "on_fork_plain",
                        At::RawTracepoint("sched_process_fork"),
                    )],
                },
            ],
        },
        Duty {
            name: "exit",
            ways: &[
                Way {
                    name: "scheduler tracepoint",
                    hooks: &[Hook::new("on_exit", At::BtfTracepoint("sched_process_exit"))],
                },
                Way {
                    name: "scheduler tracepoint, plain reads",
                    hooks: &[Hook::new(
                        "on_exit_plain",
                        At::RawTracepoint("sched_process_exit"),
                    )],
                },
            ],
        },
    ],
    limits: "threads are not told, an exec that fails is not told, of long arguments the beginning may be all that is \
             known",
    shed: &["forks", "exits"],
    prepare: |_, _| {},
    handler: |_| Box::new(Processes::default()),
};

/// A program file as the kernel tells it apart, with the path it was called by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileKey {
    device: u32,
    inode: u64,
    called: Vec<u8>,
}

/// See the module.
#[derive(Default)]
struct Processes {
    paths: HashMap<FileKey, String>,
    ticks: u32,
    /// The last processes that were told to have ended.
    exits: VecDeque<(u32, u64)>,
}

/// Ticks after which the paths are forgotten: they may have been renamed.
const PATHS_TICKS: u32 = 60;

impl Handler for Processes {
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError> {
        let row = match Record::parse(bytes)? {
            Record::Exec {
                record,
                filename,
                argv,
            } => self.exec(cx, &record, filename, argv),
            Record::Fork(record) => forked(cx, &record),
            Record::Exit(record) if self.is_told(&record) => return Ok(()),
            Record::Exit(record) => exited(cx, &record),
        };
        out.push(row.into());
        Ok(())
    }

    fn wanted_at_slow_pace(&self, kind: u16) -> bool {
        kind == KIND_EXEC
    }

    fn follow(&mut self, bytes: &[u8], cx: &mut Enricher) {
        match Record::parse(bytes) {
            Ok(Record::Fork(record)) => {
                let key = ProcessKey::new(record.pid, record.start_ns);
                let parent = ProcessKey::new(record.ppid, record.parent_start_ns);
                let comm = text(&record.comm);
                cx.inventory()
                    .with_table(|table| table.forked(key, parent, &comm, record.uid, record.gid));
            }
            Ok(Record::Exit(record)) => {
                let key = ProcessKey::new(record.pid, record.start_ns);
                cx.inventory().with_table(|table| table.exited(key));
            }
            Ok(Record::Exec { .. }) | Err(_) => {}
        }
    }

    fn tick(&mut self, _cx: &mut Enricher, _out: &mut Vec<Fact>) {
        self.ticks += 1;
        if self.ticks >= PATHS_TICKS {
            self.ticks = 0;
            self.paths.clear();
        }
    }
}

impl Processes {
    /// Whether this exit was told before. The kernel counts a thread off before the probe asks how many are left, so that
    /// two that end at the same time may both find none.
    fn is_told(&mut self, record: &ExitRecord) -> bool {
        let ended = (record.pid, record.start_ns);
        if self.exits.contains(&ended) {
            return true;
        }
        if self.exits.len() >= EXITS_MAX {
            self.exits.pop_front();
        }
        self.exits.push_back(ended);
        false
    }

    fn exec(&mut self, cx: &mut Enricher, record: &ExecRecord, called: &[u8], argv: &[u8]) -> ProcessEvent {
        let key = ProcessKey::new(record.pid, record.start_ns);
        let parent = ProcessKey::new(record.ppid, record.parent_start_ns);
        let (mut args, args_truncated) = args(cx, record, argv);
        mask_args(&mut args);
        let exe_deleted = record.flags & flag::EXE_DELETED != 0;
        let program = Program {
            comm: text(&record.comm),
            exe: self.exe(cx, record, called),
            exe_deleted,
            args,
            args_truncated,
        };
        let placement = cx.placement(record.pid, record.cgroup_set, record.cgroup_id, record.time_ns);
        let exec = Exec {
            key,
            parent,
            program: Arc::new(program),
            placement,
            uid: record.uid,
            gid: record.gid,
        };
        let process = cx.inventory().with_table(|table| table.executed(exec));
        let parent = cx.inventory().get(parent);
        let program = &process.program;
        ProcessEvent {
            parent_exe: parent.as_ref().and_then(|parent| parent.program.exe.clone()),
            parent_command_line: parent.as_ref().map(|parent| parent.program.command_line()),
            args: program.args.clone(),
            args_truncated: program.args_truncated,
            euid: Some(record.euid),
            login_uid: login_uid(record.loginuid),
            fileless: Some(exe_deleted),
            ..row(
                cx,
                ProcessEventKind::Exec,
                &process,
                record.time_ns,
                &record.comm,
                &record.parent_comm,
            )
        }
    }

    /// The link under /proc is right when it leads to the file that was executed: the process may be gone, or run
    /// something else by now. Otherwise the path it was called by has to do.
    fn exe(&mut self, cx: &Enricher, record: &ExecRecord, called: &[u8]) -> Option<String> {
        let key = FileKey {
            device: record.exe_device,
            inode: record.exe_inode,
            called: called.to_vec(),
        };
        if let Some(path) = self.paths.get(&key) {
            return Some(path.clone());
        }
        let proc = cx.inventory().proc();
        if let Some(executable) = proc.executable(record.pid)
            && proc.executable_inode(record.pid) == Some(record.exe_inode)
        {
            if self.paths.len() >= PATHS_MAX {
                self.paths.clear();
            }
            self.paths.insert(key, executable.path.clone());
            return Some(executable.path);
        }
        Some(String::from_utf8_lossy(called).into_owned()).filter(|path| !path.is_empty())
    }
}

fn forked(cx: &Enricher, record: &ForkRecord) -> ProcessEvent {
    let key = ProcessKey::new(record.pid, record.start_ns);
    let parent = ProcessKey::new(record.ppid, record.parent_start_ns);
    let comm = text(&record.comm);
    let process = cx
        .inventory()
        .with_table(|table| table.forked(key, parent, &comm, record.uid, record.gid));
    ProcessEvent {
        euid: Some(record.euid),
        login_uid: login_uid(record.loginuid),
        ..row(
            cx,
            ProcessEventKind::Fork,
            &process,
            record.time_ns,
            &record.comm,
            &record.parent_comm,
        )
    }
}

fn exited(cx: &Enricher, record: &ExitRecord) -> ProcessEvent {
    let key = ProcessKey::new(record.pid, record.start_ns);
    let parent = ProcessKey::new(record.ppid, record.parent_start_ns);
    let known = cx.inventory().with_table(|table| table.exited(key));
    let process = known.unwrap_or_else(|| Process {
        key,
        ppid: record.ppid,
        parent: Some(parent),
        program: Arc::new(Program::default()),
        placement: None,
        uid: record.uid,
        gid: record.gid,
        ended: true,
    });
    let (exit_code, exit_signal) = ending(record.exit_code);
    let (user_us, system_us) = cpu_times_us(record);
    let page_bytes = cx.inventory().proc().page_bytes();
    ProcessEvent {
        ppid: record.ppid,
        uid: record.uid,
        gid: record.gid,
        exit_code,
        exit_signal,
        duration_us: Some(record.time_ns.saturating_sub(record.start_ns) / 1_000),
        user_us: Some(user_us),
        system_us: Some(system_us),
        rss_bytes_max: Some(record.maxrss_pages.saturating_mul(page_bytes)),
        euid: Some(record.euid),
        login_uid: login_uid(record.loginuid),
        ..row(
            cx,
            ProcessEventKind::Exit,
            &process,
            record.time_ns,
            &record.comm,
            &record.parent_comm,
        )
    }
}

fn row(
    cx: &Enricher,
    kind: ProcessEventKind,
    process: &Process,
    boot_ns: u64,
    comm: &[u8],
    parent_comm: &[u8],
) -> ProcessEvent {
    let placement = process.placement.as_deref();
    ProcessEvent {
        time: cx.clock.time_of(boot_ns),
        boot_ns,
        kind,
        pid: process.key.pid,
        start_boot_ns: process.key.start_boot_ns,
        ppid: process.ppid,
        parent_comm: Some(text(parent_comm)).filter(|comm| !comm.is_empty()),
        parent_exe: None,
        parent_command_line: None,
        comm: text(comm),
        exe: process.program.exe.clone(),
        args: Vec::new(),
        args_truncated: false,
        uid: process.uid,
        gid: process.gid,
        cgroup: placement.map(|placement| placement.cgroup.clone()),
        unit: placement.and_then(|placement| placement.unit.clone()),
        container_id: placement.and_then(|placement| placement.container_id.clone()),
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

/// The kernel hands over the beginning; of a process that still runs the rest is read, when it is the same.
fn args(cx: &Enricher, record: &ExecRecord, argv: &[u8]) -> (Vec<String>, bool) {
    let captured = split_args(argv);
    if record.flags & (flag::ARGV_TRUNCATED | flag::ARGV_UNREADABLE) == 0 {
        return (captured, false);
    }
    let bytes_max = cx.inventory().config().args_bytes_max;
    match cx.inventory().proc().args(record.pid, bytes_max) {
        Some((whole, truncated)) if continues(&captured, &whole) => (whole, truncated),
        _ => (captured, true),
    }
}

/// Whether `whole` begins with `captured`, whose last argument may be cut, also within a character.
fn continues(captured: &[String], whole: &[String]) -> bool {
    let Some((last, before)) = captured.split_last() else {
        return !whole.is_empty();
    };
    let last = last.trim_end_matches('\u{fffd}');
    whole.get(..before.len()) == Some(before)
        && whole.get(before.len()).is_some_and(|arg| arg.starts_with(last))
}

/// Exit code and signal out of a wait(2) status.
fn ending(status: u32) -> (Option<i32>, Option<i32>) {
    let signal = status & 0x7f;
    let code = (status >> 8) & 0xff;
    match signal {
        0 => (i32::try_from(code).ok(), None),
        signal => (None, i32::try_from(signal).ok()),
    }
}

/// The exact time on the processor, split as the ticks were; a process shorter than a tick counts as user time.
fn cpu_times_us(record: &ExitRecord) -> (u64, u64) {
    let ticks = u128::from(record.utime_ns) + u128::from(record.stime_ns);
    let total = record.cpu_ns;
    let system = match ticks {
        0 => 0,
        ticks => u128::from(total) * u128::from(record.stime_ns) / ticks,
    };
    let system = u64::try_from(system).unwrap_or(total);
    ((total - system.min(total)) / 1_000, system / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status_is_a_code_or_a_signal() {
        assert_eq!(ending(3 << 8), (Some(3), None));
        assert_eq!(ending(0), (Some(0), None));
        assert_eq!(ending(9), (None, Some(9)));
        assert_eq!(ending(11 | 0x80), (None, Some(11)), "with a core dump");
    }

    #[test]
    fn exit_of_a_process_is_told_once() {
        let mut processes = Processes::default();
        let exit = |pid, start_ns| ExitRecord {
            pid,
            start_ns,
            ..ExitRecord::default()
        };
        assert!(!processes.is_told(&exit(7, 1)));
        assert!(!processes.is_told(&exit(8, 1)));
        assert!(
            processes.is_told(&exit(7, 1)),
            "its last two threads ended at once"
        );
        assert!(!processes.is_told(&exit(7, 2)), "another process of that number");
        for start_ns in 10..10 + 2 * EXITS_MAX as u64 {
            assert!(!processes.is_told(&exit(9, start_ns)));
        }
        assert_eq!(processes.exits.len(), EXITS_MAX);
    }

    #[test]
    fn exact_time_is_split_as_the_ticks_were() {
        let record = |utime_ns, stime_ns, cpu_ns| ExitRecord {
            utime_ns,
            stime_ns,
            cpu_ns,
            ..ExitRecord::default()
        };
        assert_eq!(
            cpu_times_us(&record(4_000_000, 12_000_000, 8_000_000)),
            (2_000, 6_000)
        );
        assert_eq!(cpu_times_us(&record(0, 0, 700_000)), (700, 0));
        assert_eq!(
            cpu_times_us(&record(u64::MAX, u64::MAX, u64::MAX)).0,
            u64::MAX.div_ceil(2) / 1_000
        );
    }

    #[test]
    fn longer_arguments_must_begin_with_the_captured_ones() {
        let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        assert!(continues(&args(&["a", "bc"]), &args(&["a", "bcd", "e"])));
        assert!(continues(&args(&["a", "b\u{fffd}"]), &args(&["a", "bé"])));
        assert!(!continues(&args(&["a", "bc"]), &args(&["x", "bcd"])));
        assert!(!continues(&args(&["a", "bc"]), &args(&["a"])));
    }
}
