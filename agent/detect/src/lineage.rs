//! Lineage: which process descends from which, and so on whose behalf it acts.
//!
//! Fed by every fork, exec and exit, and by the inventory for what ran before. A process inherits the classes of its
//! ancestors when it begins, so that "does it descend from a package manager" is one test of a bit, however deep the
//! descent, and stays true after the ancestor has ended. A process whose beginning was not seen is looked for in the
//! act's own columns; what is then still unknown is said to be unknown ([`Who::known`]), and lowers what is raised.
//!
//! Bounded: [`RUNNING_MAX`] processes, forgotten when not touched for longest, and counted. Ended ones are kept for what
//! comes late, [`ENDED_MAX`] of them, so that a storm of short processes pushes no living one out.

mod class;
mod who;

use std::collections::VecDeque;
use std::sync::Arc;

use fleetmend_event::Fact;
use fleetmend_event::table::{ProcessEvent, ProcessEventKind, ProcessSnapshot};

pub(crate) use class::{
    Classes, base_name, classify, is_debugger, is_fileless, is_trusted_path, is_writable_path,
};
pub(crate) use who::{Columns, Who};

use crate::recent::Recent;

/// Most processes that are known, ended ones included.
const RUNNING_MAX: usize = 32_768;
/// Most processes that have ended and are known all the same.
const ENDED_MAX: usize = 4_096;
/// Most ancestors that are named.
const CHAIN_MAX: usize = 12;

/// A process as far as its descent is concerned.
struct Node {
    start: u64,
    ppid: u32,
    comm: Arc<str>,
    exe: Option<Arc<str>>,
    /// What its program is.
    own: Classes,
    /// What its ancestors, and its own earlier programs, are.
    above: Classes,
    uid: u32,
    euid: Option<u32>,
    login_uid: Option<u32>,
    /// Whether it, or what it was forked from as the same program, ever had root's rights.
    was_root: bool,
    /// Whether every ancestor was known when it began.
    known: bool,
    /// Whether it ran a program since its fork.
    executed: bool,
    ended: bool,
    /// [`Lineage::losses`] when it was last heard of.
    losses: u32,
}

/// The state before a process changed, for comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) uid: u32,
    pub(crate) euid: Option<u32>,
    pub(crate) was_root: bool,
    /// Whether it had run a program since its fork.
    pub(crate) executed: bool,
    /// Whether nothing was lost since it was last heard of, in which it may have become another.
    pub(crate) sure: bool,
}

/// See the module.
pub(crate) struct Lineage {
    nodes: Recent<u32, Node>,
    ended: VecDeque<(u32, u64)>,
    /// How often events of processes were lost.
    losses: u32,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            nodes: Recent::new("lineage", RUNNING_MAX),
            ended: VecDeque::new(),
            losses: 0,
        }
    }
}

impl Lineage {
    /// Learns from a fact; for a fork or exec returns what the process was before.
    pub(crate) fn learn(&mut self, fact: &Fact) -> Option<Before> {
        match fact {
            Fact::ProcessEvent(event) => match event.kind {
                ProcessEventKind::Fork => self.forked(event),
                ProcessEventKind::Exec => self.executed(event),
                ProcessEventKind::Exit => {
                    self.exited(event.pid, event.start_boot_ns);
                    None
                }
            },
            Fact::ProcessSnapshot(snapshot) => {
                self.read(snapshot);
                None
            }
            _ => None,
        }
    }

    /// Learns that events of processes were lost: any of those that are known may have run another program since.
    pub(crate) fn lose(&mut self) {
        self.losses = self.losses.wrapping_add(1);
    }

    /// Whether what is known of the process is as new as the row: it is known, and runs the program that the row names.
    pub(crate) fn is_current(&self, row: &Columns<'_>) -> bool {
        self.nodes.get(&row.pid).is_some_and(|node| {
            node.start == row.start && row.exe.is_none_or(|exe| node.exe.as_deref() == Some(exe))
        })
    }

    /// Who did something, by the columns of its row.
    pub(crate) fn who<'a>(&'a self, row: Columns<'a>) -> Who<'a> {
        let node = self
            .nodes
            .get(&row.pid)
            .filter(|node| node.start == row.start && row.pid != 0);
        let mut who = Who {
            pid: row.pid,
            start: row.start,
            comm: row.comm,
            exe: row.exe,
            uid: row.uid,
            euid: row.euid,
            login_uid: row.login_uid,
            unit: row.unit,
            container: row.container,
            own: Classes::NONE,
            above: Classes::NONE,
            known: false,
        };
        if let Some(node) = node {
            who.exe = who.exe.or(node.exe.as_deref());
            who.login_uid = who.login_uid.or(node.login_uid);
            who.euid = who.euid.or(node.euid);
            // An exec that is told after the act, or was lost: the row's own path is the later word.
            let same = row.exe.is_none() || row.exe == node.exe.as_deref();
            who.own = if same { node.own } else { own_by(&row) };
            who.above = if same { node.above } else { node.above | node.own };
            // The row's path tells whether it ran another program in what was lost; without one nothing does.
            who.known = node.known && (row.exe.is_some() || node.losses == self.losses);
            return who;
        }
        who.own = own_by(&row);
        let (above, known) = self.above(row.ppid, row.parent_comm, row.parent_exe);
        who.above = above;
        who.known = known;
        who
    }

    /// Command names from the process to its eldest known ancestor.
    pub(crate) fn chain(&self, who: &Who<'_>, ppid: Option<u32>) -> String {
        let mut names = vec![who.comm.to_owned()];
        let mut next = match self.nodes.get(&who.pid).filter(|node| node.start == who.start) {
            Some(node) => Some(node.ppid),
            None => ppid,
        };
        while let Some(node) = next.and_then(|pid| self.nodes.get(&pid)) {
            if names.len() >= CHAIN_MAX {
                break;
            }
            names.push(node.comm.to_string());
            next = (node.ppid != 0).then_some(node.ppid);
        }
        names.join(" < ")
    }

    /// Pids and starts of the ancestors that are known, nearest first, at most `depth`.
    pub(crate) fn ancestors(&self, pid: u32, start: u64, depth: usize) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let mut next = self
            .nodes
            .get(&pid)
            .filter(|node| node.start == start)
            .map(|node| node.ppid);
        while let Some((pid, node)) = next.and_then(|pid| self.nodes.get(&pid).map(|node| (pid, node))) {
            if found.len() >= depth {
                break;
            }
            found.push((pid, node.start));
            next = (node.ppid != 0).then_some(node.ppid);
        }
        found
    }

    /// What the program of a process is, when it is known.
    pub(crate) fn own_of(&self, pid: u32, start: u64) -> Option<Classes> {
        let node = self.nodes.get(&pid).filter(|node| node.start == start)?;
        Some(node.own)
    }

    /// Whether process `pid` descends from `(ancestor, start)` as far as is known.
    pub(crate) fn descends(&self, pid: u32, ancestor: u32, start: u64) -> bool {
        let own_start = self.nodes.get(&pid).map_or(0, |node| node.start);
        self.ancestors(pid, own_start, CHAIN_MAX)
            .contains(&(ancestor, start))
    }

    /// Whether the process ever had root's rights, when it is known.
    pub(crate) fn was_root(&self, pid: u32, start: u64) -> Option<bool> {
        let node = self.nodes.get(&pid).filter(|node| node.start == start)?;
        Some(node.was_root)
    }

    /// Notes that a process has root's rights now.
    pub(crate) fn note_root(&mut self, pid: u32, start: u64) {
        if let Some(node) = self.live(pid, start) {
            node.was_root = true;
        }
    }

    /// Whether the process ran a program since its fork; `None` when it is not known.
    pub(crate) fn has_executed(&self, pid: u32, start: u64) -> Option<bool> {
        let node = self.nodes.get(&pid).filter(|node| node.start == start)?;
        Some(node.executed)
    }

    fn exited(&mut self, pid: u32, start: u64) {
        let Some(node) = self.live(pid, start).filter(|node| !node.ended) else {
            return;
        };
        node.ended = true;
        self.ended.push_back((pid, start));
        if self.ended.len() <= ENDED_MAX {
            return;
        }
        if let Some((pid, start)) = self.ended.pop_front() {
            let over = self
                .nodes
                .get(&pid)
                .is_some_and(|node| node.start == start && node.ended);
            if over {
                drop(self.nodes.remove(&pid));
            }
        }
    }

    fn live(&mut self, pid: u32, start: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&pid).filter(|node| node.start == start)
    }

    /// What is above a child of `ppid`, and whether all of it is known.
    fn above(&self, ppid: Option<u32>, comm: Option<&str>, exe: Option<&str>) -> (Classes, bool) {
        let told = if exe.is_some() || comm.is_some() {
            classify(exe, comm.unwrap_or_default(), std::iter::empty())
        } else {
            Classes::NONE
        };
        let Some(ppid) = ppid else {
            return (told, false);
        };
        if ppid == 0 {
            return (told, true);
        }
        if ppid == 2 {
            return (told | Classes::KERNEL, true);
        }
        let Some(node) = self.nodes.get(&ppid) else {
            return (told, false);
        };
        // Another program under the same number: an exec or a whole life was not seen.
        let same = exe.is_none_or(|exe| node.exe.as_deref().is_none_or(|known| known == exe));
        if same {
            (node.own | node.above, node.known)
        } else {
            (told | node.own | node.above, false)
        }
    }

    fn forked(&mut self, event: &ProcessEvent) -> Option<Before> {
        let exe = event.exe.as_deref();
        let (above, known) = self.above(
            Some(event.ppid),
            event.parent_comm.as_deref(),
            event.parent_exe.as_deref(),
        );
        let parent = self.nodes.get(&event.ppid);
        let before = parent.map(|node| Before {
            uid: node.uid,
            euid: node.euid,
            was_root: node.was_root,
            executed: node.executed,
            sure: node.losses == self.losses,
        });
        let inherited = parent.filter(|node| exe.is_none_or(|exe| node.exe.as_deref() == Some(exe)));
        let own = match inherited {
            Some(node) => node.own,
            None => classify(exe, &event.comm, std::iter::empty()),
        };
        let node = Node {
            start: event.start_boot_ns,
            ppid: event.ppid,
            comm: event.comm.as_str().into(),
            exe: inherited.map_or_else(|| exe.map(Arc::from), |node| node.exe.clone()),
            own,
            above,
            uid: event.uid,
            euid: event.euid,
            login_uid: event.login_uid.or_else(|| parent.and_then(|node| node.login_uid)),
            was_root: is_root(event.uid, event.euid) || parent.is_some_and(|node| node.was_root),
            known,
            executed: false,
            ended: false,
            losses: self.losses,
        };
        self.put(event.pid, node);
        before
    }

    fn executed(&mut self, event: &ProcessEvent) -> Option<Before> {
        let exe = event.exe.as_deref();
        let own = classify(exe, &event.comm, event.args.iter().map(String::as_str))
            | contained(event.container_id.as_deref(), exe);
        // Where the effective user is not told, a program of the system may have been a set-user-ID one.
        let script = own.any(Classes::SHELL | Classes::INTERPRETER);
        let untold = event.euid.is_none() && !script && exe.is_none_or(is_trusted_path);
        let root = untold || is_root(event.uid, event.euid);
        let losses = self.losses;
        if let Some(node) = self.live(event.pid, event.start_boot_ns) {
            let before = Before {
                uid: node.uid,
                euid: node.euid,
                was_root: node.was_root,
                executed: node.executed,
                sure: node.losses == losses,
            };
            node.losses = losses;
            node.above |= node.own;
            node.own = own;
            if node.comm.as_ref() != event.comm {
                node.comm = event.comm.as_str().into();
            }
            node.exe = exe.map(Arc::from);
            node.uid = event.uid;
            node.euid = event.euid;
            node.login_uid = event.login_uid.or(node.login_uid);
            // A program that was started without root's rights has none to fall back to.
            node.was_root = root;
            node.executed = true;
            node.ended = false;
            return Some(before);
        }
        let (above, known) = self.above(
            Some(event.ppid),
            event.parent_comm.as_deref(),
            event.parent_exe.as_deref(),
        );
        let login_uid = event
            .login_uid
            .or_else(|| self.nodes.get(&event.ppid).and_then(|node| node.login_uid));
        let node = Node {
            start: event.start_boot_ns,
            ppid: event.ppid,
            comm: event.comm.as_str().into(),
            exe: exe.map(Arc::from),
            own,
            above,
            uid: event.uid,
            euid: event.euid,
            login_uid,
            was_root: root,
            known,
            executed: true,
            ended: false,
            losses: self.losses,
        };
        self.put(event.pid, node);
        None
    }

    /// What the inventory says of a process whose beginning was not seen.
    fn read(&mut self, row: &ProcessSnapshot) {
        if row.state == "X" {
            // Where the event of its end was lost.
            self.exited(row.pid, row.start_boot_ns);
            return;
        }
        let known = self.live(row.pid, row.start_boot_ns).map(|node| node.known);
        if known == Some(true) {
            return;
        }
        let (above, all) = match row.pid {
            1 | 2 => (Classes::NONE, true),
            _ => self.above(Some(row.ppid), None, None),
        };
        if let Some(node) = self.live(row.pid, row.start_boot_ns) {
            node.above |= above;
            node.known = all;
            return;
        }
        let exe = row.exe.as_deref();
        let mut own = classify(exe, &row.comm, row.command_line.split(' '));
        if row.pid == 2 || row.ppid == 2 {
            own |= Classes::KERNEL;
        }
        if row.pid == 1 {
            own |= Classes::INIT;
        }
        own |= contained(row.container_id.as_deref(), exe);
        if row.exe_deleted && exe.is_some_and(|exe| !is_trusted_path(exe)) {
            own |= Classes::FILELESS;
        }
        let node = Node {
            start: row.start_boot_ns,
            ppid: row.ppid,
            comm: row.comm.as_str().into(),
            exe: exe.map(Arc::from),
            own,
            above,
            uid: row.uid,
            euid: None,
            login_uid: None,
            // Only the real user is told: a set-user-ID program may be one with root's rights.
            was_root: true,
            known: all,
            executed: true,
            ended: false,
            losses: self.losses,
        };
        self.put(row.pid, node);
    }

    fn put(&mut self, pid: u32, node: Node) {
        drop(self.nodes.remove(&pid));
        self.nodes.touch(pid, || node);
    }
}

fn is_root(uid: u32, euid: Option<u32>) -> bool {
    euid.unwrap_or(uid) == 0 || uid == 0
}

/// Whether a program is one of a container's own. The runtime is in the container's group before it runs the first.
fn contained(container: Option<&str>, exe: Option<&str>) -> Classes {
    let runtime = |exe: &str| {
        exe.starts_with("/memfd:runc")
            || exe.starts_with("/memfd:crun")
            || classify(Some(exe), "", std::iter::empty()).any(Classes::CONTAINER_RUNTIME)
    };
    if container.is_none() || exe.is_some_and(runtime) {
        Classes::NONE
    } else {
        Classes::CONTAINED
    }
}

fn own_by(row: &Columns<'_>) -> Classes {
    classify(row.exe, row.comm, row.command_line.unwrap_or_default().split(' '))
}
