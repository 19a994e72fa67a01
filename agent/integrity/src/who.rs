//! Who touched a file: the process, the processes above it, and whether it can be believed that it was *this* file.
//!
//! An event tells a path as its process saw it. Another root, another mount namespace or a container has files of the
//! same path, so a path alone names nobody. An event is believed to be about a watched file when
//! - device and inode that it tells are those that the watched path has now, or, where the path is the same, those
//!   that it had before; or
//! - it tells none, and its process lives and has the host's root and mount namespace; or its process has ended, the
//!   nearest one above it that lives has these, no container is in play, and the file's own time of change says that it
//!   changed in this very moment. The kernel tells no inode of what is done by name (rename, unlink, chmod), and `mv` and
//!   `chmod` have ended when they are told of.
//!
//! An event that is not believed is named in a finding as not proven, and is never the writer.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Actor, Source};
use serde::Serialize;

/// Ancestors that are followed.
const DEPTH_MAX: usize = 16;
/// Writers that are remembered.
const WRITERS_MAX: usize = 256;
/// Nanoseconds of a tick, in which /proc tells when a process began.
const TICK_NS: u64 = 10_000_000;
/// An event is told after what it does, and files have the time of a clock that stands still for up to 10 ms.
const LATE_US: i64 = 50_000;
/// A call is told when it returns; what it did to the file has an earlier time, by as much as it waited for the disk.
const CALL_US: i64 = 150_000;

/// A process of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// When it began, in nanoseconds on the boot clock.
    pub start_boot_ns: u64,
    /// Command name.
    pub comm: String,
    /// Path of its program, when known.
    pub exe: Option<String>,
    /// Process id of its parent; 0 when unknown.
    pub ppid: u32,
}

/// What the agent knows of processes, also of those that ended lately.
pub trait Ancestry: Send {
    /// The process and those above it, itself first; empty when it is unknown.
    fn chain(&self, pid: u32, start_boot_ns: u64) -> Vec<Ancestor>;
}

/// A process that touched a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) pid: u32,
    pub(crate) start_boot_ns: u64,
    pub(crate) uid: u32,
    pub(crate) login_uid: Option<u32>,
    pub(crate) comm: String,
    pub(crate) exe: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) in_container: bool,
    /// Itself first.
    pub(crate) chain: Vec<Ancestor>,
    /// It, or the process above it, that is a package manager: by the inode of its program, or by its path when it ended
    /// before it could be looked at.
    pub(crate) manager: Option<u32>,
    /// Whether a package manager is above it by name only.
    pub(crate) called_manager: bool,
    /// Whether it has the host's root and mounts; none when it had ended.
    pub(crate) shares_root: Option<bool>,
    /// Whether the nearest living process above it has.
    pub(crate) kin_shares_root: Option<bool>,
}

impl Writer {
    /// Command names from the process to its eldest known ancestor.
    pub(crate) fn chain_text(&self) -> String {
        let names: Vec<&str> = self.chain.iter().map(|ancestor| ancestor.comm.as_str()).collect();
        names.join(" < ")
    }

    /// Whether the package manager above it still runs.
    pub(crate) fn manager_runs(&self) -> bool {
        let is_manager = |ancestor: &&Ancestor| self.manager == Some(ancestor.pid);
        self.chain
            .iter()
            .find(is_manager)
            .is_some_and(|manager| lives(manager.pid, manager.start_boot_ns))
    }
}

/// One act on a watched file.
#[derive(Debug, Clone)]
pub(crate) struct Touch {
    pub(crate) time: TimeMicros,
    /// What was done, as the event says it.
    pub(crate) act: &'static str,
    pub(crate) writer: Arc<Writer>,
    /// Device and inode, when the event tells them.
    pub(crate) identity: Option<(u64, u64)>,
    /// Whether the event names this path, and not another name of its file.
    pub(crate) named: bool,
    /// Whether it was believed when it came.
    pub(crate) proven: bool,
    /// Whether the file says that it changed in this very moment.
    pub(crate) coincides: bool,
    pub(crate) source: Source,
}

impl Touch {
    /// Whether it is believed, knowing what the path was before and is now.
    pub(crate) fn is_of(&self, before: Option<(u64, u64)>, now: Option<(u64, u64)>) -> bool {
        if self.proven {
            return true;
        }
        match self.identity {
            Some(identity) => now == Some(identity) || (self.named && before == Some(identity)),
            None => self.named && self.has_the_same_root(),
        }
    }

    fn has_the_same_root(&self) -> bool {
        let writer = &self.writer;
        match writer.shares_root {
            Some(shares) => shares,
            None => self.coincides && !writer.in_container && writer.kin_shares_root == Some(true),
        }
    }
}

/// Whether an act of this time can have changed what the path says it changed last; what is gone changed its folder.
pub(crate) fn coincides(path: &Path, time: TimeMicros) -> bool {
    let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000).saturating_add(ns / 1_000);
    let changed_us = match path.symlink_metadata() {
        Ok(found) => ns(found.ctime(), found.ctime_nsec()),
        Err(_) => match path.parent().map(Path::symlink_metadata) {
            Some(Ok(folder)) => ns(folder.mtime(), folder.mtime_nsec()),
            _ => return false,
        },
    };
    (time.0.saturating_sub(CALL_US)..=time.0.saturating_add(LATE_US)).contains(&changed_us)
}

/// The last of the touches that can have made a change of `changed_ns`: one that began later cannot. When the host's
/// clock was set in between, no time tells anything and the last one counts.
pub(crate) fn last_before<'a>(touches: &[&'a Touch], changed_ns: Option<i64>) -> Option<&'a Touch> {
    let latest =
        |touches: &mut dyn Iterator<Item = &&'a Touch>| touches.max_by_key(|touch| touch.time).copied();
    let before =
        |touch: &&&Touch| changed_ns.is_none_or(|ns| touch.time.0 <= (ns / 1_000).saturating_add(LATE_US));
    latest(&mut touches.iter().filter(before)).or_else(|| latest(&mut touches.iter()))
}

/// Makes writers of actors, and knows package managers.
pub(crate) struct Registry {
    ancestry: Box<dyn Ancestry>,
    managers: Vec<PathBuf>,
    /// Programs of package managers by device and inode; a program that is replaced while it runs stays known.
    programs: HashMap<(u64, u64), PathBuf>,
    /// Processes of package managers that were seen when they began.
    seen: HashMap<(u32, u64), bool>,
    writers: HashMap<(u32, u64, Option<String>), Arc<Writer>>,
}

impl Registry {
    pub(crate) fn new(ancestry: Box<dyn Ancestry>, managers: Vec<PathBuf>) -> Self {
        let mut registry = Self {
            ancestry,
            managers,
            programs: HashMap::new(),
            seen: HashMap::new(),
            writers: HashMap::new(),
        };
        registry.learn_programs();
        registry
    }

    /// Takes note of the package managers' programs as they lie there now.
    pub(crate) fn learn_programs(&mut self) {
        if self.programs.len() > 64 {
            self.programs.clear();
        }
        for path in &self.managers {
            if let Ok(found) = std::fs::metadata(path) {
                self.programs.insert((found.dev(), found.ino()), path.clone());
            }
        }
    }

    /// A program that is called like a package manager began: it is looked at while it runs.
    pub(crate) fn manager_began(&mut self, pid: u32, start_boot_ns: u64) {
        if self.seen.len() >= WRITERS_MAX {
            self.seen
                .retain(|(pid, start), _| start_of(*pid) == Some(tick(*start)));
        }
        if self.seen.len() < WRITERS_MAX
            && let Some(genuine) = self.runs_manager(pid, start_boot_ns)
        {
            self.seen.insert((pid, tick(start_boot_ns)), genuine);
        }
    }

    /// The writer that an actor is, with what can still be found out.
    pub(crate) fn writer(&mut self, actor: &Actor) -> Arc<Writer> {
        let key = (actor.pid, actor.start_boot_ns, actor.exe.clone());
        if let Some(known) = self.writers.get(&key) {
            return known.clone();
        }
        if self.writers.len() >= WRITERS_MAX {
            self.writers.clear();
        }
        let chain = self.chain(actor);
        let called = |ancestor: &&Ancestor| self.is_called_manager(ancestor);
        let called_manager = chain.iter().any(|ancestor| called(&ancestor));
        let shares = shares_root(actor.pid, actor.start_boot_ns);
        let kin_shares = chain
            .iter()
            .skip(1)
            .find_map(|ancestor| shares_root(ancestor.pid, ancestor.start_boot_ns));
        // One that ended before it could be looked at is taken by the path that the kernel told of it, on the host only.
        let by_path = actor.container_id.is_none() && shares.or(kin_shares) == Some(true);
        let genuine = chain
            .iter()
            .filter(called)
            .find(|ancestor| self.is_manager(ancestor).unwrap_or(by_path));
        let writer = Arc::new(Writer {
            pid: actor.pid,
            start_boot_ns: actor.start_boot_ns,
            uid: actor.uid,
            login_uid: actor.login_uid,
            comm: actor.comm.clone(),
            exe: actor.exe.clone(),
            unit: actor.unit.clone(),
            in_container: actor.container_id.is_some(),
            manager: genuine.map(|ancestor| ancestor.pid),
            called_manager,
            shares_root: shares,
            kin_shares_root: kin_shares,
            chain,
        });
        self.writers.insert(key, writer.clone());
        writer
    }

    fn is_called_manager(&self, ancestor: &Ancestor) -> bool {
        ancestor
            .exe
            .as_deref()
            .is_some_and(|exe| self.managers.iter().any(|path| path == Path::new(exe)))
    }

    /// Whether its program is a package manager's; none when it ended before anybody looked.
    fn is_manager(&self, ancestor: &Ancestor) -> Option<bool> {
        let known = self
            .seen
            .get(&(ancestor.pid, tick(ancestor.start_boot_ns)))
            .copied();
        known.or_else(|| self.runs_manager(ancestor.pid, ancestor.start_boot_ns))
    }

    /// Whether the process runs a package manager's own program; none when it has ended.
    fn runs_manager(&self, pid: u32, start_boot_ns: u64) -> Option<bool> {
        let program = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        // Asked after the program: a process that ended meanwhile has no start, another one another.
        if start_of(pid)? != tick(start_boot_ns) {
            return None;
        }
        Some(self.programs.contains_key(&(program.dev(), program.ino())))
    }

    fn chain(&self, actor: &Actor) -> Vec<Ancestor> {
        let mut chain = self.ancestry.chain(actor.pid, actor.start_boot_ns);
        if chain.is_empty() {
            chain.push(Ancestor {
                pid: actor.pid,
                start_boot_ns: actor.start_boot_ns,
                comm: actor.comm.clone(),
                exe: actor.exe.clone(),
                ppid: actor.ppid.unwrap_or_default(),
            });
        }
        chain.truncate(DEPTH_MAX);
        while let Some(last) = chain
            .last()
            .filter(|last| last.ppid > 0 && chain.len() < DEPTH_MAX)
        {
            let (ppid, child_start) = (last.ppid, last.start_boot_ns);
            match in_proc(ppid)
                .filter(|parent| parent.start_boot_ns <= tick(child_start).saturating_add(TICK_NS))
            {
                Some(parent) => chain.push(parent),
                None => break,
            }
        }
        if let [_] = chain.as_slice()
            && let (Some(ppid), Some(comm)) = (actor.ppid, &actor.parent_comm)
        {
            chain.push(Ancestor {
                pid: ppid,
                start_boot_ns: 0,
                comm: comm.clone(),
                exe: actor.parent_exe.clone(),
                ppid: 0,
            });
        }
        chain
    }
}

/// Whether a process that began then still runs.
pub(crate) fn lives(pid: u32, start_boot_ns: u64) -> bool {
    start_of(pid) == Some(tick(start_boot_ns))
}

fn tick(boot_ns: u64) -> u64 {
    boot_ns - boot_ns % TICK_NS
}

pub(crate) fn start_of(pid: u32) -> Option<u64> {
    stat_of(pid).map(|(_, _, start)| start)
}

/// Command name, parent and start of a process that runs.
fn stat_of(pid: u32) -> Option<(String, u32, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (head, rest) = text.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    let ppid = fields.nth(1)?.parse().ok()?;
    // Field 22 of proc(5); `rest` begins with field 3, and two were taken.
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some((comm, ppid, ticks.saturating_mul(TICK_NS)))
}

fn in_proc(pid: u32) -> Option<Ancestor> {
    let (comm, ppid, start_boot_ns) = stat_of(pid)?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    Some(Ancestor {
        pid,
        start_boot_ns,
        comm,
        exe: exe.map(|path| path.to_string_lossy().into_owned()),
        ppid,
    })
}

/// Whether the process sees the files that the host sees, as the first process does, this one or who started it (a
/// service has mounts of its own, and not every host shows those of its first process); none when it has ended.
fn shares_root(pid: u32, start_boot_ns: u64) -> Option<bool> {
    let place = |pid: &str| {
        let mounts = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
        let root = std::fs::metadata(format!("/proc/{pid}/root/.")).ok()?;
        Some((mounts, root.dev(), root.ino()))
    };
    let its = place(&pid.to_string())?;
    if !lives(pid, start_boot_ns) {
        return None;
    }
    let parent = std::os::unix::process::parent_id().to_string();
    Some(
        ["1", "self", &parent]
            .iter()
            .any(|known| place(known).as_ref() == Some(&its)),
    )
}

#[cfg(test)]
mod tests;
