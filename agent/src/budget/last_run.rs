//! How the last run ended, and how this one begins.
//!
//! A mark in the state folder is written at the start and removed by an end in order. One that is found tells of
//! a run that was cut short. It was the OOM killer when the unit says so (`ExecStopPost=` runs
//! [`note_end`] with systemd's `SERVICE_RESULT`), when the same cgroup has counted another kill, or, where neither
//! can tell, when the host has counted one meanwhile. Then this run begins as many steps down the ladder as runs
//! in a row ended so, and waits first, from the second one on: a host without memory is not made worse by an agent
//! that starts again and again.
//!
//! The mark is JSON with a version; one that cannot be read counts as none.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetmend_identity::files::{read_private, write_private};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::cgroup::Cgroup;
use super::files::{field, read};
use super::ladder::Step;

/// Version of the mark.
const VERSION: u8 = 1;
/// What systemd calls the end by the OOM killer.
const OOM_RESULT: &str = "oom-kill";
/// Wait before the start after the second end in a row; it doubles.
const WAIT_FIRST: Duration = Duration::from_secs(5);
/// Longest wait: systemd gives a start 60 s.
const WAIT_MAX: Duration = Duration::from_secs(40);

/// What is kept of a run while it lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    version: u8,
    #[serde(flatten)]
    seen: Evidence,
    /// Runs in a row, before this one, that the OOM killer ended.
    oom_ends: u8,
    /// What the unit said of its end.
    #[serde(default)]
    result: Option<String>,
}

/// What tells one run's end from another's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    /// Boot of the kernel.
    pub(crate) boot: String,
    /// Inode of the cgroup: systemd makes a new one for each start.
    pub(crate) cgroup_inode: Option<u64>,
    /// Kills in the cgroup.
    pub(crate) cgroup_oom_kills: Option<u64>,
    /// Kills on the host.
    pub(crate) host_oom_kills: Option<u64>,
}

/// How this run begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Runs in a row that the OOM killer ended.
    pub(crate) oom_ends: u8,
    /// How that is known.
    pub(crate) why: Option<String>,
}

/// The mark of this run.
#[derive(Debug)]
pub(crate) struct RunMark {
    path: PathBuf,
    mark: Mark,
}

impl Beginning {
    /// The step to begin on.
    pub(crate) fn step(&self) -> Step {
        Step::of(self.oom_ends)
    }

    /// How long to wait before anything is loaded.
    pub(crate) fn wait(&self) -> Duration {
        match self.oom_ends {
            0 | 1 => Duration::ZERO,
            ends => WAIT_FIRST
                .saturating_mul(1_u32.checked_shl(u32::from(ends) - 2).unwrap_or(u32::MAX))
                .min(WAIT_MAX),
        }
    }
}

impl Evidence {
    /// What is to be seen now.
    pub(crate) fn gather(cgroup: Option<&Cgroup>) -> Self {
        let boot = read(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
        Self {
            boot: boot.trim().to_owned(),
            cgroup_inode: cgroup.and_then(|group| Some(std::fs::metadata(group.folder()).ok()?.ino())),
            cgroup_oom_kills: cgroup.and_then(Cgroup::oom_kills),
            host_oom_kills: read(Path::new("/proc/vmstat")).and_then(|text| field(&text, "oom_kill")),
        }
    }

    /// How it is known that a kill fell between the two; none when it is not.
    fn kill_since(&self, before: &Self) -> Option<String> {
        let grew = |now: Option<u64>, then: Option<u64>| Some(now? > then?);
        if self.cgroup_inode.is_some() && self.cgroup_inode == before.cgroup_inode {
            let killed = grew(self.cgroup_oom_kills, before.cgroup_oom_kills);
            if let Some(killed) = killed {
                return killed.then(|| "its cgroup has counted an OOM kill".to_owned());
            }
        }
        let killed = grew(self.host_oom_kills, before.host_oom_kills) == Some(true);
        killed.then(|| "it was cut short while the host counted an OOM kill".to_owned())
    }
}

/// How to begin after the run that left `mark`.
fn judge(mark: Option<&Mark>, now: &Evidence) -> Beginning {
    let Some(mark) = mark.filter(|mark| mark.seen.boot == now.boot) else {
        return Beginning::default();
    };
    let why = if mark.result.as_deref() == Some(OOM_RESULT) {
        Some("its unit says that the OOM killer ended it".to_owned())
    } else {
        now.kill_since(&mark.seen)
    };
    Beginning {
        oom_ends: why.as_ref().map_or(0, |_| mark.oom_ends.saturating_add(1)),
        why,
    }
}

impl RunMark {
    /// Looks at the last run's mark in `path` and puts this run's there.
    pub(crate) fn begin(path: &Path, now: Evidence) -> (Self, Beginning) {
        let beginning = judge(load(path).as_ref(), &now);
        let mark = Mark {
            version: VERSION,
            seen: now,
            oom_ends: beginning.oom_ends,
            result: None,
        };
        let run = Self {
            path: path.to_owned(),
            mark,
        };
        run.keep();
        (run, beginning)
    }

    /// The ladder has been on its top for a while: an OOM kill from now on is the first one again.
    pub(crate) fn forgive(&mut self) {
        if self.mark.oom_ends > 0 {
            self.mark.oom_ends = 0;
            self.keep();
        }
    }

    /// The run ends in order.
    pub(crate) fn end(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "mark of this run was not removed");
        }
    }

    fn keep(&self) {
        if let Err(error) = store(&self.path, &self.mark) {
            warn!(
                error,
                "mark of this run was not written: an OOM kill of it will not be noticed"
            );
        }
    }
}

/// Writes down how the service ended, as systemd tells it to `ExecStopPost=`.
///
/// # Errors
/// When the mark cannot be written.
pub(crate) fn note_end(path: &Path, result: &str) -> Result<(), String> {
    // Without a mark the run ended in order, and there is nothing to note.
    let Some(mut mark) = load(path) else { return Ok(()) };
    mark.result = Some(result.to_owned());
    store(path, &mark)
}

fn load(path: &Path) -> Option<Mark> {
    let bytes = read_private(path)
        .inspect_err(|error| warn!(path = %path.display(), %error, "mark of the last run cannot be read"))
        .ok()??;
    let mark: Mark = serde_json::from_slice(&bytes).ok()?;
    (mark.version == VERSION).then_some(mark)
}

fn store(path: &Path, mark: &Mark) -> Result<(), String> {
    let bytes = serde_json::to_vec(mark).map_err(|error| error.to_string())?;
    write_private(path, &bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cgroup_inode: u64, cgroup_oom_kills: u64, host_oom_kills: u64) -> Evidence {
        Evidence {
            boot: "a".to_owned(),
            cgroup_inode: Some(cgroup_inode),
            cgroup_oom_kills: Some(cgroup_oom_kills),
            host_oom_kills: Some(host_oom_kills),
        }
    }

    /// Begins twice, with what is seen at each start; the first run is cut short.
    fn again(before: Evidence, now: Evidence, result: Option<&str>) -> Beginning {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        drop(RunMark::begin(&path, before));
        if let Some(result) = result {
            note_end(&path, result).unwrap();
        }
        RunMark::begin(&path, now).1
    }

    #[test]
    fn start_after_an_oom_kill_is_told_by_the_unit_its_cgroup_or_the_host() {
        let unit = again(seen(1, 0, 5), seen(2, 0, 5), Some("oom-kill"));
        assert_eq!((unit.oom_ends, unit.step()), (1, Step::Unhurried));
        let group = again(seen(1, 3, 5), seen(1, 4, 6), None);
        assert!(group.why.unwrap().contains("cgroup"));
        let host = again(seen(1, 3, 5), seen(2, 0, 6), Some("signal"));
        assert!(host.why.unwrap().contains("host"));
    }

    #[test]
    fn other_ends_begin_on_top() {
        // Somebody else was killed on the host, not in our group.
        assert_eq!(
            again(seen(1, 3, 5), seen(1, 3, 9), Some("signal")),
            Beginning::default()
        );
        assert_eq!(
            again(seen(1, 3, 5), seen(2, 0, 5), Some("watchdog")),
            Beginning::default()
        );
        let rebooted = Evidence {
            boot: "b".to_owned(),
            ..seen(1, 9, 9)
        };
        assert_eq!(again(seen(1, 3, 5), rebooted, None), Beginning::default());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let (run, _) = RunMark::begin(&path, seen(1, 0, 0));
        run.end();
        note_end(&path, "oom-kill").unwrap();
        assert_eq!(RunMark::begin(&path, seen(1, 1, 1)).1, Beginning::default());
        std::fs::write(&path, b"{\"version\":1,").unwrap();
        assert_eq!(RunMark::begin(&path, seen(1, 2, 2)).1, Beginning::default());
    }

    #[test]
    fn each_oom_kill_in_a_row_begins_deeper_and_waits_longer_until_one_run_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let mut met = Vec::new();
        for kills in 0..8 {
            let (_, beginning) = RunMark::begin(&path, seen(1, kills, kills));
            met.push((beginning.step().number(), beginning.wait().as_secs()));
        }
        assert_eq!(
            met,
            [
                (0, 0),
                (1, 0),
                (2, 5),
                (3, 10),
                (4, 20),
                (4, 40),
                (4, 40),
                (4, 40)
            ]
        );
        let (mut run, _) = RunMark::begin(&path, seen(1, 8, 8));
        run.forgive();
        assert_eq!(RunMark::begin(&path, seen(1, 9, 9)).1.oom_ends, 1);
    }
}
