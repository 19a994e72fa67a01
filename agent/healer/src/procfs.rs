//! What /proc says of a process, read by pid and checked by start time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetmend_event::remedy::ProcessRef;

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSight {
    /// Process id.
    pub pid: u32,
    /// Its parent.
    pub parent_pid: u32,
    /// Command name, as the process chose it.
    pub comm: String,
    /// Executable, or none for kernel threads.
    pub executable: Option<String>,
    /// State letter of /proc/PID/stat.
    pub state: char,
    /// When it began, in clock ticks since boot.
    pub start_ticks: u64,
    /// CPU time of its thread group, in clock ticks.
    pub cpu_ticks: u64,
    /// Control groups: controllers (comma-separated, empty for v2) and path.
    pub cgroups: Vec<(String, String)>,
    /// Whether it runs in the kernel only.
    pub kernel_thread: bool,
}

/// A process could not be seen as the one that was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessFault {
    /// No process has this pid, or it has ended and waits for its parent.
    #[error("pid {0} is not running")]
    Gone(u32),
    /// The pid belongs to another process now.
    #[error("pid {pid} began at tick {found}, not at {wanted}: it is another process")]
    Another {
        /// The pid.
        pid: u32,
        /// When the process that has it began.
        found: u64,
        /// When the process that was meant began.
        wanted: u64,
    },
    /// /proc does not answer as expected.
    #[error("/proc/{pid} cannot be read: {reason}")]
    Unreadable {
        /// The pid.
        pid: u32,
        /// Why.
        reason: String,
    },
}

/// /proc of this host.
#[derive(Debug, Clone)]
pub struct Procfs {
    root: PathBuf,
    ticks_per_s: u64,
}

/// PF_KTHREAD of the kernel's include/linux/sched.h, in the flags of /proc/PID/stat.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

impl Default for Procfs {
    fn default() -> Self {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .ok()
            .flatten();
        // The kernel's USER_HZ has been 100 on every architecture that Debian runs on.
        let ticks_per_s = ticks
            .and_then(|ticks| u64::try_from(ticks).ok())
            .filter(|ticks| *ticks > 0)
            .unwrap_or(100);
        Self {
            root: PathBuf::from("/proc"),
            ticks_per_s,
        }
    }
}

impl Procfs {
    /// Start of a process in clock ticks, from the nanoseconds that facts carry.
    pub fn ticks_of(&self, start_boot_ns: u64) -> u64 {
        let ticks = u128::from(start_boot_ns) * u128::from(self.ticks_per_s) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// The process that is meant, as it is now.
    ///
    /// # Errors
    /// When it is gone, is another one, or cannot be read.
    pub fn see(&self, process: &ProcessRef) -> Result<ProcessSight, ProcessFault> {
        let sight = self.see_pid(process.pid)?;
        let wanted = self.ticks_of(process.start_boot_ns);
        if sight.start_ticks != wanted {
            return Err(ProcessFault::Another {
                pid: process.pid,
                found: sight.start_ticks,
                wanted,
            });
        }
        if matches!(sight.state, 'Z' | 'X') {
            return Err(ProcessFault::Gone(process.pid));
        }
        Ok(sight)
    }

    /// Whatever process has this pid.
    ///
    /// # Errors
    /// When none has, or it cannot be read.
    pub fn see_pid(&self, pid: u32) -> Result<ProcessSight, ProcessFault> {
        let folder = self.root.join(pid.to_string());
        let read = |name: &str| {
            std::fs::read(folder.join(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ESRCH) => ProcessFault::Gone(pid),
                    _ => ProcessFault::Unreadable {
                        pid,
                        reason: error.to_string(),
                    },
                })
        };
        let stat = read("stat")?;
        let mut sight = parse_stat(pid, &stat).ok_or_else(|| ProcessFault::Unreadable {
            pid,
            reason: "stat has not the known form".to_owned(),
        })?;
        sight.cgroups = read("cgroup")?.lines().filter_map(parse_cgroup).collect();
        sight.executable = std::fs::read_link(folder.join("exe")).ok().map(|path| {
            let text = path.to_string_lossy();
            // A program that was replaced while it runs is still that program.
            text.strip_suffix(" (deleted)").unwrap_or(&text).to_owned()
        });
        Ok(sight)
    }

    /// CPU use of the process over about `window`, in percent of one core.
    ///
    /// # Errors
    /// When it ends meanwhile, or cannot be read.
    pub fn cpu_core_pct(&self, process: &ProcessRef, window: Duration) -> Result<f64, ProcessFault> {
        let before = self.see(process)?.cpu_ticks;
        let began = Instant::now();
        std::thread::sleep(window);
        let after = self.see(process)?.cpu_ticks;
        let elapsed_s = began.elapsed().as_secs_f64().max(0.001);
        let used = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
        let per_s = u32::try_from(self.ticks_per_s).unwrap_or(u32::MAX);
        Ok(f64::from(used) / f64::from(per_s) / elapsed_s * 100.0)
    }

    /// The pids of this process and of everything above it.
    pub fn ancestors(&self, pid: u32) -> Vec<u32> {
        let mut chain = vec![pid];
        // A chain longer than this is not one of ours.
        while chain.len() < 64 {
            let Some(parent) = chain
                .last()
                .and_then(|pid| self.see_pid(*pid).ok())
                .map(|sight| sight.parent_pid)
            else {
                break;
            };
            if parent == 0 || chain.contains(&parent) {
                break;
            }
            chain.push(parent);
        }
        chain
    }

    /// Targets of the open descriptors of all processes that lie below `folder`.
    pub fn open_files_below(&self, folder: &std::path::Path) -> std::collections::BTreeSet<PathBuf> {
        let mut open = std::collections::BTreeSet::new();
        let pids = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        for pid in pids.filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        }) {
            let descriptors = std::fs::read_dir(pid.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
            open.extend(targets.filter(|target| target.starts_with(folder)));
        }
        open
    }
}

/// /proc/PID/stat: the command name stands in parentheses and may hold anything, parentheses included.
fn parse_stat(pid: u32, text: &str) -> Option<ProcessSight> {
    let (head, rest) = text.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field numbers of proc_pid_stat(5), less the three before and one more for counting from 0.
    let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(ProcessSight {
        pid,
        parent_pid: u32::try_from(number(4)?).ok()?,
        comm: comm.to_owned(),
        executable: None,
        state: fields.first()?.chars().next()?,
        start_ticks: number(22)?,
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        cgroups: Vec::new(),
        kernel_thread: number(9)? & KERNEL_THREAD_FLAG != 0,
    })
}

fn parse_cgroup(line: &str) -> Option<(String, String)> {
    let mut parts = line.splitn(3, ':');
    let _hierarchy = parts.next()?;
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let text = "7 (a) R 1 (b) S 42 7 7 0 -1 4194304 0 0 0 0 11 22 0 0 20 0 1 0 555 0 0";
        let sight = parse_stat(7, text).unwrap();
        assert_eq!(
            (sight.comm.as_str(), sight.parent_pid, sight.state),
            ("a) R 1 (b", 42, 'S')
        );
        assert_eq!(
            (sight.cpu_ticks, sight.start_ticks, sight.kernel_thread),
            (33, 555, false)
        );
        assert!(parse_stat(7, "7 (x").is_none());
        assert!(parse_stat(7, "").is_none());
    }

    #[test]
    fn we_see_ourselves_and_not_another_process_of_our_pid() {
        let procfs = Procfs::default();
        let ours = procfs.see_pid(std::process::id()).unwrap();
        assert!(ours.executable.is_some() && !ours.kernel_thread);
        let start_boot_ns = ours.start_ticks * 1_000_000_000 / procfs.ticks_per_s;
        let us = ProcessRef {
            pid: ours.pid,
            start_boot_ns,
            comm: ours.comm,
        };
        assert!(procfs.see(&us).is_ok());
        let other = ProcessRef {
            start_boot_ns: start_boot_ns + 1_000_000_000,
            ..us
        };
        assert!(matches!(procfs.see(&other), Err(ProcessFault::Another { .. })));
        assert!(procfs.ancestors(std::process::id()).len() > 1);
    }
}
