//! Behaviour: detectors over several facts, with their ATT&CK techniques.
//!
//! [`crate::lineage`] says on whose behalf a process acts; [`crate::act`] judges what processes do to files,
//! credentials, memory, the kernel and each other; [`crate::flow`] judges what they do on the network. What they notice
//! goes through [`Raise`], the one place where a severity is lowered for what is not known, where what the
//! configuration expects is left out, and where equal causes are counted together.
//!
//! Invariants: nothing here waits, reads a file or asks the kernel; every map is bounded and says what it forgot;
//! counting is by address, session or program, never by process, so that work spread over many processes counts as
//! one; an act whose process is not known yet waits at most [`WAIT_NS`] for the events that tell of it.

mod catalogue;
mod raise;

use std::collections::VecDeque;

use fleetmend_event::Fact;
use fleetmend_event::table::{
    Finding, Gap, GapStage, NetworkEvent, ProcessEvent, ProcessEventKind, Table as _,
};

pub(crate) use catalogue::declare;
pub use catalogue::{Detection, detections};
pub(crate) use raise::{Raise, Sign, Told, program};

use crate::act::{Acts, columns};
use crate::config::BehaviourConfig;
use crate::flow::Flows;
use crate::lineage::Lineage;
use crate::tracker::FindingTracker;

/// How much later than an act a process event has to be, so that those of the act's process were seen before it.
const WAIT_NS: u64 = 100_000_000;
/// Most acts that wait.
const WAITING_MAX: usize = 512;

/// All detectors over several facts.
pub(crate) struct Behaviour {
    config: BehaviourConfig,
    lineage: Lineage,
    acts: Acts,
    flows: Flows,
    /// Acts of processes that are not known yet; the kernel's families are read one after the other.
    waiting: VecDeque<Fact>,
}

impl Behaviour {
    pub(crate) fn new(config: BehaviourConfig) -> Self {
        Self {
            flows: Flows::new(&config),
            acts: Acts::default(),
            lineage: Lineage::default(),
            waiting: VecDeque::new(),
            config,
        }
    }

    /// Looks at one fact; returns the rows that follow from it.
    pub(crate) fn observe(&mut self, fact: &Fact, tracker: &mut FindingTracker) -> Vec<Finding> {
        let mut rows = Vec::new();
        if !self.config.enabled {
            return rows;
        }
        if let Some(row) = columns(fact) {
            if !self.acts.concerns(fact) {
                return rows;
            }
            if !self.lineage.is_current(&row) && self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(fact.clone());
                return rows;
            }
            self.judge(fact, tracker, &mut rows);
            return rows;
        }
        let before = self.lineage.learn(fact);
        match fact {
            Fact::ProcessEvent(event) => {
                let mut raise = Raise::new(&self.config, &self.lineage, tracker, &mut rows);
                self.acts.process(event, before, &mut raise);
                if event.kind == ProcessEventKind::Exec {
                    self.flows.exec(event, &mut raise);
                }
                if event.kind == ProcessEventKind::Exit {
                    self.flows.exit(event);
                }
                if !self.waiting.is_empty() {
                    self.resume(event.boot_ns.saturating_sub(WAIT_NS), tracker, &mut rows);
                }
            }
            Fact::NetworkEvent(event) => {
                let mut raise = Raise::new(&self.config, &self.lineage, tracker, &mut rows);
                self.flows.network(event, &mut raise);
            }
            Fact::ProcessSnapshot(snapshot) => {
                let mut raise = Raise::new(&self.config, &self.lineage, tracker, &mut rows);
                self.acts.snapshot(snapshot, &mut raise);
                self.flows.snapshot(snapshot, &mut raise);
            }
            Fact::SyscallProfile(profile) => {
                let mut raise = Raise::new(&self.config, &self.lineage, tracker, &mut rows);
                self.acts.profile(profile, &mut raise);
            }
            Fact::Gap(gap) => self.miss(gap),
            Fact::LogRecord(record) => {
                let mut raise = Raise::new(&self.config, &self.lineage, tracker, &mut rows);
                self.flows.log(record, &mut raise);
            }
            _ => {}
        }
        rows
    }

    /// Learns what was lost before it came here: what rests on the events before it is no longer certain.
    fn miss(&mut self, gap: &Gap) {
        if !matches!(gap.stage, GapStage::Kernel | GapStage::Collect) {
            return;
        }
        if gap.table == ProcessEvent::NAME || gap.table == "*" {
            // Programs that are run are told even then.
            if !matches!(gap.reason.as_str(), "shed" | "budget") {
                self.lineage.lose();
            }
            self.acts.miss(gap.count);
        }
        if gap.table == NetworkEvent::NAME || gap.table == "*" {
            self.flows.miss();
        }
    }

    /// Judges what waited long enough, by what is known now. Called about once a second.
    pub(crate) fn tick(&mut self, tracker: &mut FindingTracker) -> Vec<Finding> {
        let mut rows = Vec::new();
        self.resume(u64::MAX, tracker, &mut rows);
        rows
    }

    /// Judges what waits and happened before `boot_ns`.
    fn resume(&mut self, boot_ns: u64, tracker: &mut FindingTracker, rows: &mut Vec<Finding>) {
        for _ in 0..self.waiting.len() {
            let Some(fact) = self.waiting.pop_front() else {
                return;
            };
            if happened(&fact) > boot_ns {
                self.waiting.push_back(fact);
            } else {
                self.judge(&fact, tracker, rows);
            }
        }
    }

    fn judge(&mut self, fact: &Fact, tracker: &mut FindingTracker, rows: &mut Vec<Finding>) {
        if let Some((pid, start)) = self.acts.gained(fact, &self.lineage) {
            self.lineage.note_root(pid, start);
        }
        let mut raise = Raise::new(&self.config, &self.lineage, tracker, rows);
        self.acts.act(fact, &mut raise);
    }
}

/// When an act happened, on the boot clock.
fn happened(fact: &Fact) -> u64 {
    match fact {
        Fact::FileEvent(row) => row.boot_ns,
        Fact::CredentialEvent(row) => row.boot_ns,
        Fact::MemoryEvent(row) => row.boot_ns,
        Fact::KernelEvent(row) => row.boot_ns,
        Fact::SignalEvent(row) => row.boot_ns,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
