//! The control group hierarchy that limits CPU time: v2 where it has the cpu controller, else v1.

use std::path::{Path, PathBuf};

use crate::procfs::ProcessSight;
use crate::words::words;

words! {
    /// A version of control groups.
    pub enum Hierarchy {
        /// `cpu.cfs_quota_us`.
        V1 = "cgroup v1",
        /// `cpu.max`.
        V2 = "cgroup v2",
    }
}

/// The period over which a limit is kept, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The kernel's least quota, in microseconds.
const QUOTA_US_MIN: u64 = 1_000;
/// A group that keeps forking is moved out in this many rounds, or not at all.
const MOVE_ROUNDS_MAX: usize = 64;

/// Where CPU time is limited on this host, or why it is not.
#[derive(Debug, Clone)]
pub struct CgroupFs {
    cpu: Result<(Hierarchy, PathBuf), String>,
}

impl CgroupFs {
    /// Finds the hierarchy among the mounts that the healer sees.
    pub fn detect() -> Self {
        match std::fs::read_to_string("/proc/self/mountinfo") {
            Ok(mounts) => Self::of_mounts(&mounts),
            Err(error) => Self {
                cpu: Err(format!("/proc/self/mountinfo cannot be read: {error}")),
            },
        }
    }

    /// A hierarchy at a known place.
    pub fn at(hierarchy: Hierarchy, root: &Path) -> Self {
        Self {
            cpu: Ok((hierarchy, root.to_owned())),
        }
    }

    /// The hierarchy and its mount point.
    ///
    /// # Errors
    /// Why there is none.
    pub fn cpu(&self) -> Result<(Hierarchy, &Path), String> {
        match &self.cpu {
            Ok((hierarchy, root)) => Ok((*hierarchy, root)),
            Err(reason) => Err(reason.clone()),
        }
    }

    fn of_mounts(mounts: &str) -> Self {
        let mut v1 = None;
        for line in mounts.lines() {
            let Some((place, source)) = line.split_once(" - ") else {
                continue;
            };
            let Some(root) = place.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut source = source.split(' ');
            match (source.next(), source.nth(1)) {
                (Some("cgroup2"), _) if has_word(&root.join("cgroup.controllers"), "cpu") => {
                    return Self {
                        cpu: Ok((Hierarchy::V2, root)),
                    };
                }
                (Some("cgroup"), Some(options)) if options.split(',').any(|option| option == "cpu") => {
                    v1 = Some(root)
                }
                _ => {}
            }
        }
        let cpu = v1.map(|root| (Hierarchy::V1, root));
        Self {
            cpu: cpu
                .ok_or_else(|| "no control group hierarchy with the cpu controller is mounted".to_owned()),
        }
    }
}

/// Path of the group that limits this process now.
pub(super) fn origin(hierarchy: Hierarchy, process: &ProcessSight) -> Option<String> {
    let is_it = |controllers: &str| match hierarchy {
        Hierarchy::V1 => controllers.split(',').any(|controller| controller == "cpu"),
        Hierarchy::V2 => controllers.is_empty(),
    };
    process
        .cgroups
        .iter()
        .find(|(controllers, _)| is_it(controllers))
        .map(|(_, path)| path.clone())
}

/// Path of the new group. In v1 it lies below the present one, so that the limits of that stay in force; v2
/// wants processes in leaves, so there it lies beside it.
pub(super) fn leaf(hierarchy: Hierarchy, origin: &str, name: &str) -> String {
    let parent = match hierarchy {
        Hierarchy::V1 => origin,
        Hierarchy::V2 => origin.rsplit_once('/').map_or("", |(parent, _)| parent),
    };
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// Whether a new group beside `origin` would have the cpu controller.
pub(super) fn can_limit(hierarchy: Hierarchy, root: &Path, leaf: &str) -> Result<(), String> {
    let parent = below(root, leaf)
        .parent()
        .map(|parent| parent.join("cgroup.subtree_control"));
    match (hierarchy, parent) {
        (Hierarchy::V1, _) => Ok(()),
        (Hierarchy::V2, Some(control)) if has_word(&control, "cpu") => Ok(()),
        (Hierarchy::V2, control) => {
            let control = control.unwrap_or_default();
            Err(format!(
                "the cpu controller is not handed down by {}",
                control.display()
            ))
        }
    }
}

/// The folder of a group.
pub(super) fn below(root: &Path, group: &str) -> PathBuf {
    root.join(group.trim_start_matches('/'))
}

/// Makes the group and sets its limit; leaves an existing one with the new limit.
pub(super) fn make(hierarchy: Hierarchy, folder: &Path, cpu_core_pct: u32) -> Result<(), String> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(format!("{} cannot be made: {error}", folder.display()));
        }
        _ => {}
    }
    let quota_us = (u64::from(cpu_core_pct) * PERIOD_US / 100).max(QUOTA_US_MIN);
    match hierarchy {
        Hierarchy::V1 => {
            write(&folder.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
            write(&folder.join("cpu.cfs_quota_us"), &quota_us.to_string())
        }
        Hierarchy::V2 => write(&folder.join("cpu.max"), &format!("{quota_us} {PERIOD_US}")),
    }
}

/// Moves the whole thread group of `pid`.
pub(super) fn enter(folder: &Path, pid: u32) -> Result<(), String> {
    write(&folder.join("cgroup.procs"), &pid.to_string())
}

/// Moves everything out of `folder` into `target` and removes `folder`. How many processes were moved.
pub(super) fn dissolve(folder: &Path, target: &Path) -> Result<usize, String> {
    let mut moved = 0;
    for _ in 0..MOVE_ROUNDS_MAX {
        let members = match std::fs::read_to_string(folder.join("cgroup.procs")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(moved),
            Err(error) => return Err(format!("{} cannot be read: {error}", folder.display())),
        };
        let pids: Vec<u32> = members
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        if pids.is_empty() {
            match std::fs::remove_dir(folder) {
                Ok(()) => return Ok(moved),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(moved),
                // The kernel lets go of the last ended process a moment after it left the list.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(error) => return Err(format!("{} cannot be removed: {error}", folder.display())),
            }
        }
        for pid in pids {
            match write(&target.join("cgroup.procs"), &pid.to_string()) {
                Ok(()) => moved += 1,
                // It ended meanwhile, or the next round says why not.
                Err(reason) => tracing::debug!(pid, reason, "process was not moved back"),
            }
        }
    }
    Err(format!("{} could not be emptied", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    // Never created: a control file that is not there is a controller that is not there.
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| format!("{text} cannot be written to {}: {error}", path.display()))
}

fn has_word(path: &Path, word: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.split_ascii_whitespace().any(|found| found == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_among_mounts_and_its_absence_is_said() {
        let v1 = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                  33 30 0:29 / /nowhere rw - cgroup2 cgroup rw\n";
        assert_eq!(
            CgroupFs::of_mounts(v1).cpu().unwrap(),
            (Hierarchy::V1, Path::new("/sys/fs/cgroup/cpu"))
        );
        assert!(
            CgroupFs::of_mounts("22 1 0:3 / / rw - ext4 /dev/vda rw\n")
                .cpu()
                .is_err()
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu io\n").unwrap();
        let v2 = format!(
            "33 30 0:29 / {} rw - cgroup2 cgroup rw\n{v1}",
            folder.path().display()
        );
        assert_eq!(
            CgroupFs::of_mounts(&v2).cpu().unwrap(),
            (Hierarchy::V2, folder.path())
        );
    }

    #[test]
    fn v1_limits_below_the_group_and_v2_beside_it() {
        assert_eq!(leaf(Hierarchy::V1, "/", "x"), "/x");
        assert_eq!(leaf(Hierarchy::V1, "/demo", "x"), "/demo/x");
        assert_eq!(
            leaf(Hierarchy::V2, "/system.slice/a.service", "x"),
            "/system.slice/x"
        );
        assert_eq!(leaf(Hierarchy::V2, "/", "x"), "/x");
    }

    #[test]
    fn a_v2_limit_is_written_and_a_controller_that_is_not_handed_down_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            can_limit(Hierarchy::V2, root.path(), "/x")
                .unwrap_err()
                .contains("not handed down")
        );
        std::fs::write(root.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        can_limit(Hierarchy::V2, root.path(), "/x").unwrap();
        let group = root.path().join("x");
        std::fs::create_dir(&group).unwrap();
        assert!(
            make(Hierarchy::V2, &group, 20).is_err(),
            "no control file, no limit"
        );
        std::fs::write(group.join("cpu.max"), "max 100000").unwrap();
        make(Hierarchy::V2, &group, 20).unwrap();
        assert_eq!(
            std::fs::read_to_string(group.join("cpu.max")).unwrap(),
            "20000 1000000".replace("1000000", "100000")
        );
    }
}
