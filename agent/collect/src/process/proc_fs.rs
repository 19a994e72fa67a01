//! What is read of a process under /proc. Every read is bounded, and a process that is gone is `None`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::placement::Placement;

/// Ticks a second in which the kernel gives times to programs: 100 on every architecture we run on.
const USER_HZ: u64 = 100;
/// Nanoseconds of such a tick.
pub(crate) const TICK_NS: u64 = 1_000_000_000 / USER_HZ;
/// `PF_KTHREAD` of the flags in /proc/PID/stat.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// `PF_EXITING` of the same.
const EXITING: u64 = 0x0000_0004;
/// Longest small file that is read whole.
const SMALL_FILE_BYTES_MAX: u64 = 16 * 1024;
/// Descriptors that are counted one by one where the kernel does not give their number.
const DESCRIPTORS_COUNTED_MAX: usize = 10_000;

/// The moment a process began, rounded down to what /proc shows, so that every source names it alike.
pub(crate) const fn floor_to_tick(boot_ns: u64) -> u64 {
    boot_ns - boot_ns % TICK_NS
}

/// A mounted /proc.
#[derive(Debug, Clone)]
pub(crate) struct ProcFs {
    root: PathBuf,
    page_bytes: u64,
}

/// What /proc/PID/stat says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) ppid: u32,
    pub(crate) is_kernel_thread: bool,
    /// Whether its first thread has begun to end.
    pub(crate) is_exiting: bool,
    /// Time in user mode.
    pub(crate) user_ns: u64,
    /// User and system time together.
    pub(crate) cpu_ns: u64,
    pub(crate) thread_count: u32,
    pub(crate) start_boot_ns: u64,
    pub(crate) rss_pages: u64,
}

/// What /proc/PID/exe points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) path: String,
    pub(crate) deleted: bool,
}

impl ProcFs {
    pub(crate) fn new(root: &Path) -> Self {
        let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten();
        Self {
            root: root.to_owned(),
            page_bytes: page_bytes
                .and_then(|bytes| u64::try_from(bytes).ok())
                .unwrap_or(4096),
        }
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Ids of the processes that run.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::with_capacity(256);
        for entry in fs::read_dir(&self.root)? {
            // An entry that vanishes while it is read is a process that ended.
            let Ok(entry) = entry else { continue };
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    pub(crate) fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&self.read_text(pid, "stat")?)
    }

    /// Real user and group.
    pub(crate) fn owner(&self, pid: u32) -> Option<(u32, u32)> {
        let status = self.read_text(pid, "status")?;
        let first = |label: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(label))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some((first("Uid:")?, first("Gid:")?))
    }

    /// Arguments up to `bytes_max`, and whether there were more. Not masked yet.
    pub(crate) fn args(&self, pid: u32, bytes_max: usize) -> Option<(Vec<String>, bool)> {
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = read_bounded(&self.path(pid, "cmdline"), limit)?;
        let truncated = bytes.len() > bytes_max;
        bytes.truncate(bytes_max);
        Some((split_args(&bytes), truncated))
    }

    pub(crate) fn executable(&self, pid: u32) -> Option<Executable> {
        let target = fs::read_link(self.path(pid, "exe")).ok()?;
        let path = target.to_string_lossy();
        Some(match path.strip_suffix(" (deleted)") {
            Some(path) => Executable {
                path: path.to_owned(),
                deleted: true,
            },
            None => Executable {
                path: path.into_owned(),
                deleted: false,
            },
        })
    }

    /// Inode of the program.
    pub(crate) fn executable_inode(&self, pid: u32) -> Option<u64> {
        Some(fs::metadata(self.path(pid, "exe")).ok()?.ino())
    }

    pub(crate) fn placement(&self, pid: u32) -> Option<Placement> {
        Placement::from_proc(&self.read_text(pid, "cgroup")?)
    }

    /// Bytes read from and written to storage since the process began.
    pub(crate) fn storage_bytes(&self, pid: u32) -> Option<(u64, u64)> {
        let text = self.read_text(pid, "io")?;
        let value = |label: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(label)?.trim().parse().ok())
        };
        Some((value("read_bytes:")?, value("write_bytes:")?))
    }

    /// Open file descriptors. Since Linux 6.2 the folder's size is their number.
    pub(crate) fn descriptor_count(&self, pid: u32) -> Option<u32> {
        let path = self.path(pid, "fd");
        let given = fs::metadata(&path).ok()?.len();
        if given > 0 {
            return u32::try_from(given).ok();
        }
        let counted = fs::read_dir(path).ok()?.take(DESCRIPTORS_COUNTED_MAX).count();
        u32::try_from(counted).ok()
    }

    pub(crate) fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    pub(crate) fn read_text(&self, pid: u32, name: &str) -> Option<String> {
        let bytes = read_bounded(&self.path(pid, name), SMALL_FILE_BYTES_MAX)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// At most `limit` bytes of a file.
fn read_bounded(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Arguments as the kernel keeps them: each ended by a NUL.
pub(crate) fn split_args(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes
        .split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

/// The name stands in parentheses and may hold anything, parentheses and spaces too: the last one ends it.
fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 of proc(5) is the first one here.
    let number = |field: usize| fields.get(field.checked_sub(3)?)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        state: fields.first()?.chars().next()?,
        ppid: u32::try_from(number(4)?).ok()?,
        is_kernel_thread: number(9)? & KERNEL_THREAD != 0,
        is_exiting: number(9)? & EXITING != 0,
        user_ns: number(14)?.saturating_mul(TICK_NS),
        cpu_ns: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_NS),
        thread_count: u32::try_from(number(20)?).ok()?,
        start_boot_ns: number(22)?.saturating_mul(TICK_NS),
        rss_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_when_the_name_holds_parentheses() {
        let line =
            "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 7 3 0 0 20 0 4 0 1234 999 56 18446744073709551615";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.pid, stat.comm.as_str(), stat.state, stat.ppid),
            (42, "a) b (c)", 'S', 1)
        );
        assert_eq!((stat.cpu_ns, stat.thread_count), (10 * TICK_NS, 4));
        assert_eq!((stat.start_boot_ns, stat.rss_pages), (1234 * TICK_NS, 56));
    }

    #[test]
    fn stat_that_is_cut_is_refused() {
        let line = "42 (a) S 1 42 42 0 -1 4194560 1 0 0 0 7 3 0 0 20 0 4 0 1234 999 56";
        for end in 0..line.len() - 3 {
            assert_eq!(parse_stat(&line[..end]), None, "{}", &line[..end]);
        }
    }

    #[test]
    fn arguments_are_split_at_their_ends() {
        assert_eq!(split_args(b"ls\0-l\0\0"), ["ls", "-l", ""]);
        assert_eq!(split_args(b"ls\0-l"), ["ls", "-l"]);
        assert!(split_args(b"").is_empty());
    }

    #[test]
    fn this_process_reads_itself() {
        let proc = ProcFs::new(Path::new("/proc"));
        let pid = std::process::id();
        let stat = proc.stat(pid).unwrap();
        assert!(stat.rss_pages > 0 && stat.start_boot_ns > 0 && !stat.is_kernel_thread);
        let own = std::env::current_exe().unwrap();
        assert_eq!(proc.executable(pid).unwrap().path, own.to_string_lossy());
        assert!(proc.pids().unwrap().contains(&pid));
        assert!(proc.descriptor_count(pid).unwrap() > 2);
        assert_eq!(proc.owner(pid).unwrap().0, nix::unistd::getuid().as_raw());
        let (args, truncated) = proc.args(pid, 3).unwrap();
        assert_eq!((args.concat().len(), truncated), (3, true));
    }
}
