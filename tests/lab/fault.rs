//! Faults: each is taken back when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A busy loop in the demonstration's control group.
pub(crate) struct Hog {
    child: Child,
    group: Option<PathBuf>,
}

impl Hog {
    /// Starts it; `group` is the path of the control group below the controller's root.
    pub(crate) fn start(group: &str) -> Result<Self> {
        // The shell joins the group before it becomes the loop, so that no moment of it counts elsewhere.
        let folder = cpu_root()?.join(group.trim_start_matches('/'));
        fs::create_dir_all(&folder)
            .with_context(|| format!("create the control group {}", folder.display()))?;
        let script = format!(
            "echo $$ > {}/cgroup.procs && while :; do :; done",
            folder.display()
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("start the busy loop")?;
        Ok(Self {
            child,
            group: Some(folder),
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used, in clock ticks.
    pub(crate) fn cpu_ticks(&self) -> Result<u64> {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("read the busy loop's stat")?;
        let after_name = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest)
            .context("parse the busy loop's stat")?;
        let mut fields = after_name.split_whitespace().skip(11);
        let mut next = || {
            fields
                .next()
                .and_then(|field| field.parse::<u64>().ok())
                .context("parse the busy loop's stat")
        };
        Ok(next()?.saturating_add(next()?))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(group) = &self.group {
            fs::remove_dir(group).ok();
        }
    }
}

/// Where processes are put into groups whose CPU time can be limited.
fn cpu_root() -> Result<PathBuf> {
    let roots = [
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup",
    ];
    let serves = |root: &&&str| Path::new(root).join("cgroup.procs").exists();
    match roots.iter().find(serves) {
        Some(root) => Ok(PathBuf::from(root)),
        None => bail!("this host has no control groups for CPU time"),
    }
}

/// Files that fill a filesystem.
pub(crate) struct Fill {
    files: Vec<PathBuf>,
}

impl Fill {
    /// Writes files of 4 MiB into `folder` until `used_pct` of its filesystem are used.
    pub(crate) fn start(folder: &Path, used_pct: f64) -> Result<Self> {
        let mut fill = Self { files: Vec::new() };
        let block = vec![b'x'; 4 << 20];
        for number in 0..64 {
            if used(folder)? >= used_pct {
                return Ok(fill);
            }
            let path = folder.join(format!("filler-{number:02}.log"));
            fill.files.push(path.clone());
            fs::write(&path, &block).with_context(|| format!("write {}", path.display()))?;
        }
        bail!("{} could not be filled to {used_pct} %", folder.display())
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        for file in &self.files {
            fs::remove_file(file).ok();
        }
    }
}

/// Used share of a filesystem, in percent, as df has it.
pub(crate) fn used(folder: &Path) -> Result<f64> {
    let status =
        nix::sys::statvfs::statvfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    let used = status.blocks().saturating_sub(status.blocks_free()) as f64;
    Ok(100.0 * used / (used + status.blocks_available() as f64))
}

/// A process that is stopped, and goes on when this is dropped.
pub(crate) struct Frozen(Pid);

impl Frozen {
    /// Stops `pid`.
    pub(crate) fn start(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).with_context(|| format!("stop process {pid}"))?;
        Ok(Self(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).ok();
    }
}
