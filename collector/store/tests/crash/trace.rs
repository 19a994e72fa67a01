//! The record: a child is traced, and every call of it that changes the folder is written down when it ends.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{IoSliceMut, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::disk::Disk;
use crate::workload::{FOLDER, SAID};

/// Longest run of the child.
const RUN_MAX: Duration = Duration::from_secs(300);
const PATH_BYTES_MAX: usize = 4_096;

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
}

impl Record {
    /// How many calls changed something.
    pub(crate) fn calls(&self) -> usize {
        self.calls.len()
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
    let mut tracer = Tracer {
        group: Pid::from_raw(-main.as_raw()),
        main,
        root,
        entered: HashMap::new(),
        line: String::new(),
        calls: Vec::new(),
        deadline: Instant::now() + RUN_MAX,
    };
    tracer.seize();
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = tracer.run();
    let words: Vec<String> = drains.into_iter().map(|drain| drain.join().unwrap()).collect();
    assert_eq!(ended, Some(0), "the child failed: {words:?}");
    let said = tracer
        .calls
        .iter()
        .filter(|call| matches!(call, Call::Said(_)))
        .count();
    assert!(
        said > 10 && tracer.calls.len() > 100,
        "the child did nothing: {words:?}"
    );
    println!("{} calls, {said} acknowledgements", tracer.calls.len());
    Record { calls: tracer.calls }
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
    deadline: Instant,
}

/// What has to be known of a call before it is done.
struct Entered {
    existed: bool,
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
            ptrace::seize(Pid::from_raw(id), options).unwrap();
            ptrace::interrupt(Pid::from_raw(id)).unwrap();
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
                self.entered.insert(thread, Entered { existed });
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

    fn opened_path(&self, thread: Pid, number: i64, arguments: &[u64; 6]) -> Option<PathBuf> {
        match number {
            libc::SYS_openat => self.path_at(thread, arguments[0], arguments[1]),
            libc::SYS_open | libc::SYS_creat => self.path_at(thread, AT_FDCWD, arguments[0]),
            _ => None,
        }
    }

    /// The change that a call made, when it made one in the folder.
    fn call(
        &mut self,
        thread: Pid,
        number: i64,
        a: &[u64; 6],
        result: u64,
        entered: &Entered,
    ) -> Option<Call> {
        match number {
            libc::SYS_openat | libc::SYS_open | libc::SYS_creat => {
                let path = self.inside(&self.opened_path(thread, number, a)?)?;
                let flags = match number {
                    libc::SYS_openat => a[2],
                    libc::SYS_open => a[1],
                    _ => (libc::O_CREAT | libc::O_TRUNC) as u64,
                };
                let has = |flag: i32| flags & flag as u64 == flag as u64;
                assert!(!has(libc::O_TMPFILE), "a file without a name is not simulated");
                let made = has(libc::O_CREAT) && !entered.existed;
                let emptied = has(libc::O_TRUNC) && entered.existed;
                (made || emptied).then_some(Call::Open { path, emptied })
            }
            libc::SYS_write if a[0] == 1 => {
                let text = self.memory(thread, a[1], result);
                self.say(&String::from_utf8_lossy(&text))
            }
            libc::SYS_write | libc::SYS_writev => {
                let (path, after) = self.file(thread, a[0])?;
                let bytes = if number == libc::SYS_write {
                    self.memory(thread, a[1], result)
                } else {
                    self.vectors(thread, a[1], a[2], result)
                };
                let at = after? - result;
                Some(Call::Write { path, at, bytes })
            }
            libc::SYS_pwrite64 => {
                let (path, _) = self.file(thread, a[0])?;
                let bytes = self.memory(thread, a[1], result);
                Some(Call::Write {
                    path,
                    at: a[3],
                    bytes,
                })
            }
            libc::SYS_pwritev | libc::SYS_pwritev2 => {
                let (path, _) = self.file(thread, a[0])?;
                let bytes = self.vectors(thread, a[1], a[2], result);
                Some(Call::Write {
                    path,
                    at: a[3],
                    bytes,
                })
            }
            libc::SYS_ftruncate => {
                let (path, _) = self.file(thread, a[0])?;
                Some(Call::Resize { path, bytes: a[1] })
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let (path, _) = self.file(thread, a[0])?;
                Some(Call::Sync { path })
            }
            libc::SYS_rename => self.rename(thread, (AT_FDCWD, a[0]), (AT_FDCWD, a[1])),
            libc::SYS_renameat | libc::SYS_renameat2 => self.rename(thread, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_unlink | libc::SYS_rmdir => self.unlink(thread, AT_FDCWD, a[0]),
            libc::SYS_unlinkat => self.unlink(thread, a[0], a[1]),
            libc::SYS_mkdir => self.make_folder(thread, AT_FDCWD, a[0]),
            libc::SYS_mkdirat => self.make_folder(thread, a[0], a[1]),
            libc::SYS_fallocate
            | libc::SYS_copy_file_range
            | libc::SYS_sendfile
            | libc::SYS_truncate
            | libc::SYS_link
            | libc::SYS_linkat
            | libc::SYS_symlink
            | libc::SYS_symlinkat
            | libc::SYS_sync_file_range
            | libc::SYS_io_uring_enter => panic!("call {number} is not simulated; teach it to this file"),
            _ => None,
        }
    }

    fn rename(&self, thread: Pid, from: (u64, u64), to: (u64, u64)) -> Option<Call> {
        let from = self.inside(&self.path_at(thread, from.0, from.1)?)?;
        let to = self
            .inside(&self.path_at(thread, to.0, to.1)?)
            .expect("no file leaves the folder");
        Some(Call::Rename { from, to })
    }

    fn unlink(&self, thread: Pid, folder: u64, path: u64) -> Option<Call> {
        let path = self.inside(&self.path_at(thread, folder, path)?)?;
        Some(Call::Unlink { path })
    }

    fn make_folder(&self, thread: Pid, folder: u64, path: u64) -> Option<Call> {
        let path = self.inside(&self.path_at(thread, folder, path)?)?;
        Some(Call::MakeFolder { path })
    }

    /// Whole lines that matter, one call each.
    fn say(&mut self, text: &str) -> Option<Call> {
        self.line.push_str(text);
        let mut said = None;
        while let Some((line, rest)) = self.line.split_once('\n') {
            let found = line.find(SAID).map(|at| line[at..].to_owned());
            self.line = rest.to_owned();
            if let Some(found) = found {
                // Of several lines in one write all but the last are noted here.
                self.calls.extend(said.replace(Call::Said(found)));
            }
        }
        said
    }

    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// The file behind a descriptor, where it has a name in the folder, and the place after the last byte.
    fn file(&self, thread: Pid, descriptor: u64) -> Option<(PathBuf, Option<u64>)> {
        let path = std::fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()?;
        if path.as_os_str().as_bytes().ends_with(b" (deleted)") {
            return None;
        }
        let path = self.inside(&path)?;
        let info = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}")).ok()?;
        let place = info
            .lines()
            .find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok());
        Some((path, place))
    }

    fn path_at(&self, thread: Pid, folder: u64, address: u64) -> Option<PathBuf> {
        let text = self.text(thread, address);
        let path = Path::new(OsStr::from_bytes(&text));
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        let folder = if folder as i32 == libc::AT_FDCWD {
            "cwd".to_owned()
        } else {
            format!("fd/{}", folder as i32)
        };
        let folder = std::fs::read_link(format!("/proc/{thread}/{folder}")).ok()?;
        Some(folder.join(path))
    }

    /// A text with a zero at its end.
    fn text(&self, thread: Pid, address: u64) -> Vec<u8> {
        let mut text = Vec::new();
        // Never over a page's end: the next one may not be there.
        while text.len() < PATH_BYTES_MAX {
            let from = address + text.len() as u64;
            let part = self.memory(thread, from, 4_096 - from % 4_096);
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend(&part[..end]);
                return text;
            }
            text.extend(part);
        }
        text
    }

    fn memory(&self, thread: Pid, address: u64, bytes: u64) -> Vec<u8> {
        let mut buffer = vec![0; usize::try_from(bytes).unwrap()];
        let remote = [RemoteIoVec {
            base: usize::try_from(address).unwrap(),
            len: buffer.len(),
        }];
        if !buffer.is_empty() {
            let read = process_vm_readv(thread, &mut [IoSliceMut::new(&mut buffer)], &remote).unwrap();
            assert_eq!(read, usize::try_from(bytes).unwrap());
        }
        buffer
    }

    /// What `writev` wrote: its vectors, up to the bytes that were written.
    fn vectors(&self, thread: Pid, address: u64, count: u64, written: u64) -> Vec<u8> {
        let table = self.memory(thread, address, count * 16);
        let mut bytes = Vec::new();
        for entry in table.chunks_exact(16) {
            let base = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let len = u64::from_le_bytes(entry[8..].try_into().unwrap());
            bytes.extend(self.memory(thread, base, len));
        }
        bytes.truncate(usize::try_from(written).unwrap());
        bytes
    }
}

const AT_FDCWD: u64 = libc::AT_FDCWD as u64;
