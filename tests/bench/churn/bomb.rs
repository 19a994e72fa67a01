//! A fork bomb in a control group that bounds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes that the group may hold.
const PROCESSES: &str = "300";
/// Joins the group, then every process makes two of itself.
const SCRIPT: &str = "echo $$ >\"$0\" || exit 1; bomb() { bomb | bomb & }; bomb";
/// How long the group may take to be empty.
const EMPTY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where the hierarchy of the number of processes is, version 1 and 2.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// A bomb that is lit again whenever it has burnt down. Dropped in this order: nobody lights what is cleared away.
pub(super) struct Bomb {
    over: Over,
    group: Group,
    lighter: JoinHandle<Result<u32>>,
}

/// Tells the lighter when it is dropped.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Bomb {
    /// Makes the group and lights it.
    pub(super) fn start() -> Result<Self> {
        let group = Group::make()?;
        let over = Arc::new(AtomicBool::new(false));
        let (path, done) = (group.0.join("cgroup.procs"), Arc::clone(&over));
        let lighter = std::thread::spawn(move || light(&path, &done));
        Ok(Self {
            over: Over(over),
            group,
            lighter,
        })
    }

    /// Ends it; gives how often it was lit.
    pub(super) fn stop(self) -> Result<u32> {
        drop(self.over);
        let Ok(lit) = self.lighter.join() else {
            bail!("the thread that lights the fork bomb panicked");
        };
        self.group.empty()?;
        lit
    }
}

fn light(procs: &Path, over: &AtomicBool) -> Result<u32> {
    let mut lit = 0;
    while !over.load(Ordering::Relaxed) {
        // No script of the last one is left: the processes could not fork, and ended.
        if fs::read_to_string(procs).is_ok_and(|pids| pids.trim().is_empty()) {
            let mut child = sh(procs)?;
            child.wait().context("wait for a fork bomb's first process")?;
            lit += 1;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(lit)
}

fn sh(procs: &Path) -> Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", SCRIPT])
        .arg(procs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start a fork bomb")
}

/// The control group; emptied and removed when dropped.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Self> {
        let name = format!("fleetmend-churn-{}", std::process::id());
        for hierarchy in HIERARCHIES {
            let group = Path::new(hierarchy).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Group(group);
            if fs::write(group.0.join("pids.max"), PROCESSES).is_ok() {
                return Ok(group);
            }
        }
        bail!("no hierarchy of control groups here bounds the number of processes, or we may not use it")
    }

    fn empty(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let pids = fs::read_to_string(self.0.join("cgroup.procs")).context("list a group's processes")?;
            let pids: Vec<i32> = pids.lines().filter_map(|line| line.parse().ok()).collect();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                // It may be gone by now.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            if begun.elapsed() > EMPTY_WITHIN {
                bail!("{} is not empty after {EMPTY_WITHIN:?}", self.0.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.empty().ok();
        let begun = Instant::now();
        // The kernel lets go of the last process a moment later.
        while fs::remove_dir(&self.0).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
