//! The record: a child is traced, and every call of it that changes the folder is written down when it ends. What is
//! in the folder when the child waits to be watched counts as written and synced before.
//!
//! Between two words of the child, [`READ_ONLY`] and [`WRITABLE`], the folder is as on a disk that is read-only: every call
//! that would change it fails with `EROFS`, also on files that are open. That is what a file system does that met an
//! error of its disk; a mount of which files are open for writing cannot be made read-only from outside.

mod call;

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::disk::Disk;
use crate::workload::FOLDER;

/// What the child says before its disk becomes read-only, and after.
pub(crate) const READ_ONLY: &str = "disk is read-only";
pub(crate) const WRITABLE: &str = "disk is writable";

/// Longest run of the child.
const RUN_MAX: Duration = Duration::from_secs(300);

/// A change of the folder. Paths are relative to it.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    /// A file was opened that may have been made or emptied by it.
    Open {
        path: PathBuf,
        emptied: bool,
    },
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    Resize {
        path: PathBuf,
        bytes: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// A second name of a file.
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    MakeFolder {
        path: PathBuf,
    },
    /// Of a file, or of a folder's names.
    Sync {
        path: PathBuf,
    },
    /// A line of the child.
    Said(String),
}

/// Everything the child did, in order.
pub(crate) struct Record {
    calls: Vec<Call>,
    /// How many of them made what was there before.
    before: usize,
}

impl Call {
    /// What it changes, if anything.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::Open { path, .. }
            | Self::Write { path, .. }
            | Self::Resize { path, .. }
            | Self::Unlink { path }
            | Self::MakeFolder { path }
            | Self::Sync { path } => Some(path),
            Self::Rename { to, .. } | Self::Link { to, .. } => Some(to),
            Self::Said(_) => None,
        }
    }
}

impl Record {
    /// How many calls changed something.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The points after a call of the child itself that changed something below one of `folders`.
    pub(crate) fn points_in(&self, folders: &[&str]) -> Vec<usize> {
        let is_in = |call: &Call| {
            let path = call.path();
            path.is_some_and(|path| folders.iter().any(|folder| path.starts_with(folder)))
        };
        let calls = self.calls.iter().zip(1_usize..).skip(self.before);
        let mut points: Vec<usize> = calls
            .filter(|(call, _)| is_in(call))
            .map(|(_, point)| point)
            .collect();
        points.push(self.calls());
        points
    }

    /// How much the child said.
    pub(crate) fn words(&self) -> usize {
        let said = self.calls.iter().filter(|call| matches!(call, Call::Said(_)));
        said.count()
    }

    /// The last call before a point.
    pub(crate) fn name_of(&self, point: usize) -> String {
        match point.checked_sub(1).and_then(|last| self.calls.get(last)) {
            Some(Call::Write { path, at, bytes }) => {
                format!("write {} bytes at {at} of {}", bytes.len(), path.display())
            }
            Some(other) => format!("{other:?}"),
            None => "nothing".to_owned(),
        }
    }

    /// Does the calls before a point; returns what the child had said by then.
    pub(crate) fn play(&self, point: usize, disk: &mut Disk) -> Vec<String> {
        let mut said = Vec::new();
        for call in self.calls.iter().take(point) {
            match call {
                Call::Said(line) => said.push(line.clone()),
                change => disk.apply(change),
            }
        }
        said
    }
}

/// Runs a test of this program as the child, and records it.
#[expect(
    clippy::zombie_processes,
    reason = "the tracer waits for every process of the group"
)]
pub(crate) fn record(child: &str) -> Record {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().join("store");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture", "--test-threads=1"])
        .env(FOLDER, &root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let main = Pid::from_raw(i32::try_from(process.id()).unwrap());
    // Its words are recorded as calls; the pipes are emptied so that it goes on.
    let drains = [
        drain(process.stdout.take().unwrap()),
        drain(process.stderr.take().unwrap()),
    ];
    wait_for_test(main, child);
    let before = found(&root);
    let mut tracer = Tracer {
        group: Pid::from_raw(-main.as_raw()),
        main,
        root,
        entered: HashMap::new(),
        line: String::new(),
        before: before.len(),
        calls: before,
        is_read_only: false,
        deadline: Instant::now() + RUN_MAX,
    };
    tracer.seize();
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = tracer.run();
    let words: Vec<String> = drains.into_iter().map(|drain| drain.join().unwrap()).collect();
    assert_eq!(ended, Some(0), "the child failed: {words:?}");
    let record = Record {
        before: tracer.before,
        calls: tracer.calls,
    };
    let (calls, said) = (record.calls() - record.before, record.words());
    assert!(said > 0 && calls > 20, "the child did nothing: {words:?}");
    println!("{calls} calls, {said} acknowledgements");
    record
}

/// What is in the folder, as calls that make it.
fn found(root: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                calls.push(Call::MakeFolder { path });
                waiting.push(entry.path());
                continue;
            }
            calls.push(Call::Open {
                path: path.clone(),
                emptied: false,
            });
            calls.push(Call::Write {
                path: path.clone(),
                at: 0,
                bytes: std::fs::read(entry.path()).unwrap(),
            });
            calls.push(Call::Sync { path });
        }
        let path = folder.strip_prefix(root).unwrap().to_owned();
        calls.push(Call::Sync { path });
    }
    calls
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).ok();
        text
    })
}

/// Waits until the child's test waits for its first line: then all threads that begin it are there.
fn wait_for_test(main: Pid, child: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let reads_stdin = |task: &Path| {
        let call = std::fs::read_to_string(task.join("syscall")).unwrap_or_default();
        call.starts_with(&format!("{} 0x0 ", libc::SYS_read))
    };
    loop {
        let tasks = std::fs::read_dir(format!("/proc/{main}/task")).expect("the child's threads");
        if tasks.flatten().any(|task| reads_stdin(&task.path())) {
            return;
        }
        assert!(Instant::now() < deadline, "{child} did not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Tracer {
    group: Pid,
    main: Pid,
    root: PathBuf,
    /// Threads inside a call.
    entered: HashMap<Pid, Entered>,
    /// What the child said of the line it is at.
    line: String,
    calls: Vec<Call>,
    before: usize,
    is_read_only: bool,
    deadline: Instant,
}

/// What has to be known of a call before it is done.
struct Entered {
    existed: bool,
    refused: bool,
}

impl Tracer {
    fn seize(&self) {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_EXITKILL;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.main))
            .unwrap()
            .flatten()
        {
            let id = task.file_name().to_string_lossy().parse().unwrap();
            match ptrace::seize(Pid::from_raw(id), options) {
                // A thread of what the child did before has ended.
                Err(Errno::ESRCH) => continue,
                seized => seized.unwrap(),
            }
            match ptrace::interrupt(Pid::from_raw(id)) {
                Err(Errno::ESRCH) => {}
                interrupted => interrupted.unwrap(),
            }
        }
    }

    /// Follows every thread until the last has ended; the exit code.
    fn run(&mut self) -> Option<i32> {
        loop {
            assert!(Instant::now() < self.deadline, "the child takes too long");
            let signal = match waitpid(self.group, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::PtraceSyscall(thread)) => {
                    self.stopped(thread);
                    Some((thread, None))
                }
                Ok(WaitStatus::PtraceEvent(thread, _, _)) => Some((thread, None)),
                Ok(WaitStatus::Stopped(thread, signal)) => {
                    let is_ours = matches!(signal, Signal::SIGTRAP | Signal::SIGSTOP);
                    Some((thread, (!is_ours).then_some(signal)))
                }
                Ok(WaitStatus::Exited(thread, code)) if thread == self.main => return Some(code),
                Ok(WaitStatus::Signaled(thread, ..)) if thread == self.main => return None,
                Ok(_) => None,
                Err(Errno::ECHILD) => return None,
                Err(error) => panic!("wait for the child: {error}"),
            };
            if let Some((thread, signal)) = signal {
                // It may have been killed in between, with the whole process.
                ptrace::syscall(thread, signal).ok();
            }
        }
    }

    fn stopped(&mut self, thread: Pid) {
        let Ok(registers) = ptrace::getregs(thread) else {
            return;
        };
        let arguments = [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ];
        let number = registers.orig_rax.cast_signed();
        match self.entered.remove(&thread) {
            None => {
                let existed = self
                    .opened_path(thread, number, &arguments)
                    .is_some_and(|path| path.exists());
                let refused = self.is_read_only && self.would_write(thread, number, &arguments);
                if refused {
                    let mut nothing = registers;
                    nothing.orig_rax = u64::MAX;
                    ptrace::setregs(thread, nothing).expect("skip a call");
                }
                self.entered.insert(thread, Entered { existed, refused });
            }
            Some(Entered { refused: true, .. }) => {
                let mut answer = registers;
                answer.rax = i64::from(-libc::EROFS).cast_unsigned();
                ptrace::setregs(thread, answer).expect("answer a call");
            }
            Some(entered) => {
                let result = registers.rax.cast_signed();
                if result >= 0
                    && let Some(call) =
                        self.call(thread, number, &arguments, result.cast_unsigned(), &entered)
                {
                    self.calls.push(call);
                }
            }
        }
    }
}
