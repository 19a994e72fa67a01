//! What rows say beside their records: who did it, where that belongs, when it was on the wall clock.

use std::collections::HashMap;
use std::sync::Arc;

use fleetmend_ebpf::abi::{Act, UID_UNSET};
use fleetmend_event::table::Actor;

use super::bypass::Bypass;
use super::clock::BootClock;
use crate::process::{Inventory, Placement, Process, ProcessKey};

/// Sets of control groups whose placement is remembered.
const PLACEMENTS_MAX: usize = 512;
/// How long a placement is believed: a set's number may come to stand for another set.
const PLACEMENT_NS_MAX: u64 = 10_000_000_000;

/// See the module.
pub(crate) struct Enricher {
    pub(crate) inventory: Inventory,
    placements: HashMap<(u64, u64), (Arc<Placement>, u64)>,
    pub(crate) clock: BootClock,
    /// Programs whose calls no hook of calls sees.
    pub(crate) bypass: Bypass,
}

impl Enricher {
    pub(crate) fn new(inventory: Inventory) -> Self {
        Self {
            inventory,
            placements: HashMap::new(),
            clock: BootClock::now(),
            bypass: Bypass::default(),
        }
    }

    /// What runs, and what ended lately.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// A process by its number and when it began, as the kernel tells both.
    pub(crate) fn process(&self, pid: u32, start_ns: u64) -> Option<Process> {
        self.inventory.get(ProcessKey::new(pid, start_ns))
    }

    /// The error number of an act that failed.
    pub(crate) fn act_error(act: &Act) -> Option<i32> {
        i32::try_from(act.error).ok().filter(|error| *error != 0)
    }

    /// Who did it: the record's words, and what is known of the process.
    pub(crate) fn actor(&mut self, act: &Act) -> Actor {
        let key = ProcessKey::new(act.pid, act.start_ns);
        let parent_key = ProcessKey::new(act.ppid, act.parent_start_ns);
        let (process, parent) = (self.inventory.get(key), self.inventory.get(parent_key));
        let known = process.as_ref().and_then(|process| process.placement.clone());
        let placement = known.or_else(|| self.placement(act.pid, act.cgroup_set, act.cgroup_id, act.time_ns));
        let program = process.as_ref().map(|process| &process.program);
        let parent_program = parent.as_ref().map(|parent| &parent.program);
        Actor {
            pid: act.pid,
            start_boot_ns: key.start_boot_ns,
            ppid: Some(act.ppid),
            comm: text(&act.comm),
            exe: program.and_then(|program| program.exe.clone()),
            command_line: program
                .map(|program| program.command_line())
                .filter(|line| !line.is_empty()),
            parent_comm: parent_program.map(|program| program.comm.clone()),
            parent_exe: parent_program.and_then(|program| program.exe.clone()),
            uid: act.uid,
            euid: Some(act.euid),
            login_uid: login_uid(act.loginuid),
            cgroup: placement.as_ref().map(|placement| placement.cgroup.clone()),
            unit: placement.as_ref().and_then(|placement| placement.unit.clone()),
            container_id: placement
                .as_ref()
                .and_then(|placement| placement.container_id.clone()),
        }
    }

    /// Read once for all processes that share every control group; `None` when the process is gone and no other
    /// has told (the inventory then takes the parent's).
    pub(crate) fn placement(
        &mut self,
        pid: u32,
        set: u64,
        cgroup: u64,
        now_ns: u64,
    ) -> Option<Arc<Placement>> {
        if let Some((placement, read_at)) = self.placements.get(&(set, cgroup))
            && now_ns.saturating_sub(*read_at) < PLACEMENT_NS_MAX
        {
            return Some(Arc::clone(placement));
        }
        let placement = Arc::new(self.inventory.proc().placement(pid)?);
        if self.placements.len() >= PLACEMENTS_MAX {
            self.placements.clear();
        }
        self.placements
            .insert((set, cgroup), (Arc::clone(&placement), now_ns));
        Some(placement)
    }
}

/// The user of the login session, when one is set.
pub(crate) fn login_uid(uid: u32) -> Option<u32> {
    Some(uid).filter(|uid| *uid != UID_UNSET)
}

/// A NUL-ended name.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
