//! The memory cgroup the agent is in: its limit, what of it cannot be given back, and who was killed in it.
//!
//! Version 2 and version 1 alike. Limits are those of the group and of every group above it that is visible; the
//! kernel enforces the least. What is held is counted of the group itself, without the page cache, which the
//! kernel takes back before it kills, but with the files that are mapped: code that runs comes back at once.

use std::path::{Path, PathBuf};

use super::files::{field, number, read};

/// Version 1 says "no limit" with a number near the largest one.
const UNLIMITED_BYTES: u64 = 1 << 60;
/// Groups above ours that are looked at.
const LEVELS_MAX: usize = 32;

/// Which files there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    version: Version,
    /// Its folder.
    folder: PathBuf,
    /// Where the hierarchy is mounted.
    top: PathBuf,
}

/// Least limit that binds the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes.
    pub(crate) bytes: u64,
    /// The file that says so.
    pub(crate) file: PathBuf,
}

impl Cgroup {
    /// The one this process is in; none where there is no memory controller.
    pub(crate) fn of_self() -> Option<Self> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(&groups, &mounts).filter(|group| group.usage().is_some() || group.limit().is_some())
    }

    /// From the texts of /proc/self/cgroup and /proc/self/mountinfo.
    fn find(groups: &str, mounts: &str) -> Option<Self> {
        let lines = || {
            groups.lines().filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?, parts.next()?))
            })
        };
        let one = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
        let two = lines().find(|(controllers, _)| controllers.is_empty());
        let (version, path) = match (one, two) {
            (Some((_, path)), _) => (Version::One, path),
            (None, Some((_, path))) => (Version::Two, path),
            (None, None) => return None,
        };
        mounts.lines().find_map(|line| {
            let (root, top) = mount_of(line, version)?;
            let below = Path::new(path).strip_prefix(&root).ok()?;
            let folder = if below.as_os_str().is_empty() {
                top.clone()
            } else {
                top.join(below)
            };
            Some(Self { version, folder, top })
        })
    }

    #[cfg(test)]
    pub(crate) fn one_at(folder: &Path) -> Self {
        let (version, folder) = (Version::One, folder.to_owned());
        Self {
            version,
            top: folder.clone(),
            folder,
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The least limit of the group and those above it.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let names: &[&str] = match self.version {
            Version::One => &["memory.limit_in_bytes"],
            Version::Two => &["memory.max", "memory.high"],
        };
        let above = self
            .folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.top));
        above
            .take(LEVELS_MAX)
            .flat_map(|folder| names.iter().map(|name| folder.join(name)))
            .filter_map(|file| {
                Some(Limit {
                    bytes: number(&file)?,
                    file,
                })
            })
            .filter(|limit| limit.bytes < UNLIMITED_BYTES)
            .min_by_key(|limit| limit.bytes)
    }

    fn usage(&self) -> Option<u64> {
        number(&self.folder.join(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        }))
    }

    /// Bytes that the kernel cannot take back by itself.
    pub(crate) fn held_bytes(&self) -> Option<u64> {
        let usage = self.usage()?;
        let (mapped, keys): (&str, &[&str]) = match self.version {
            Version::One => ("total_mapped_file", &["total_active_file", "total_inactive_file"]),
            Version::Two => (
                "file_mapped",
                &["active_file", "inactive_file", "slab_reclaimable"],
            ),
        };
        let stat = read(&self.folder.join("memory.stat"))?;
        let cache: u64 = keys.iter().filter_map(|key| field(&stat, key)).sum();
        let mapped = field(&stat, mapped).unwrap_or(0);
        Some(usage.saturating_sub(cache).saturating_add(mapped).min(usage))
    }

    /// Processes the kernel has killed in the group for want of memory.
    pub(crate) fn oom_kills(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        field(&read(&self.folder.join(file))?, "oom_kill")
    }

    /// Share of the last 10 s in which everything in the group waited for memory, in percent.
    pub(crate) fn stalled_pct(&self) -> Option<f64> {
        let text = read(&self.folder.join("memory.pressure"))?;
        let full = text.lines().find(|line| line.starts_with("full "))?;
        full.split(' ')
            .find_map(|part| part.strip_prefix("avg10=")?.parse().ok())
    }
}

/// Root and place of a mount line when it is the hierarchy that is wanted; see proc_pid_mountinfo(5).
fn mount_of(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    let (fields, super_block) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, top) = (fields.next()?, fields.next()?);
    let mut super_block = super_block.split(' ');
    let (kind, _, options) = (super_block.next()?, super_block.next()?, super_block.next()?);
    let wanted = match version {
        Version::One => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::Two => kind == "cgroup2",
    };
    wanted.then(|| (PathBuf::from(root), PathBuf::from(top)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn group_is_found_in_both_versions_and_below_a_mount_that_begins_deeper() {
        let two = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroup::find("0::/system.slice/fleetmend-agent.service\n", two).unwrap();
        assert_eq!(found.version, Version::Two);
        assert_eq!(
            found.folder,
            Path::new("/sys/fs/cgroup/system.slice/fleetmend-agent.service")
        );
        let one = "30 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                   31 23 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let groups = "9:name=systemd:/\n4:memory:/docker/x/deep\n1:cpu:/\n0::/\n";
        let found = Cgroup::find(groups, one).unwrap();
        assert_eq!(found.version, Version::One);
        assert_eq!(found.folder, Path::new("/sys/fs/cgroup/memory/deep"));
        assert_eq!(Cgroup::find("1:cpu:/\n", one), None);
    }

    #[test]
    fn least_limit_above_binds_and_page_cache_is_not_held() {
        let top = tempfile::tempdir().unwrap();
        let group = top.path().join("slice/agent");
        write(
            &top.path().join("slice"),
            &[("memory.max", "100000000\n"), ("memory.high", "max\n")],
        );
        write(
            &group,
            &[
                ("memory.max", "max\n"),
                ("memory.high", "200000000\n"),
                ("memory.current", "90000000\n"),
                (
                    "memory.stat",
                    "anon 5\nactive_file 10000000\ninactive_file 20000000\nslab_reclaimable 5000000\nfile_mapped 1000000\n",
                ),
                ("memory.events", "low 0\nhigh 4\noom 2\noom_kill 1\n"),
                (
                    "memory.pressure",
                    "some avg10=3.00 avg60=0.00\nfull avg10=1.25 avg60=0.00 avg300=0.00 total=9\n",
                ),
            ],
        );
        let cgroup = Cgroup {
            version: Version::Two,
            folder: group,
            top: top.path().to_owned(),
        };
        let limit = cgroup.limit().unwrap();
        assert_eq!(limit.bytes, 100_000_000);
        assert!(limit.file.ends_with("slice/memory.max"), "{limit:?}");
        assert_eq!(cgroup.held_bytes(), Some(56_000_000));
        assert_eq!((cgroup.oom_kills(), cgroup.stalled_pct()), (Some(1), Some(1.25)));
    }

    #[test]
    fn largest_number_of_version_one_is_no_limit() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            &[("memory.limit_in_bytes", "9223372036854771712\n")],
        );
        assert_eq!(Cgroup::one_at(folder.path()).limit(), None);
    }
}
