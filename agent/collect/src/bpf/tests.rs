//! The probes on the kernel that runs the tests. They need the privilege to load BPF programs.

mod connections;
mod credential;
mod deeds;
mod files;
mod kernel;
mod matrix;
mod memory;
mod processes;
mod resource;
mod sensor;
mod signal;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fleetmend_ebpf::Family;
use fleetmend_event::table::{
    ConnectionOwner, Gap, GapStage, NetworkEvent, NetworkEventKind, ProbeState, ProbeStatus, ProcessEvent,
    ProcessEventKind, Source,
};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::Tasks;
use tokio::sync::mpsc;

use super::diagnose::SWITCHED_OFF;
use super::drain::Drain;
use super::{BpfConfig, BpfSensor, Outlet};
use crate::masking::MASK;
use crate::process::{EventSource, Inventory, Observer, ProcessConfig, ProcessKey};

const DEADLINE: Duration = Duration::from_secs(20);
const CHANNEL: usize = 100_000;

/// Small enough to load several at once.
fn config() -> BpfConfig {
    BpfConfig {
        process_ring_bytes: 1 << 20,
        network_ring_bytes: 1 << 19,
        ..BpfConfig::default()
    }
}

/// Without the families that a test has no use for: verifiers of emulated machines take seconds for each.
fn only(wanted: &[Family]) -> BpfConfig {
    let wants = |family| wanted.contains(&family);
    BpfConfig {
        process: wants(Family::Process),
        network: wants(Family::Network),
        file: wants(Family::File),
        credential: wants(Family::Credential),
        memory: wants(Family::Memory),
        kernel: wants(Family::Kernel),
        signal: wants(Family::Signal),
        resource: wants(Family::Resource),
        ..config()
    }
}

/// A sensor that tells the deeds of this process too.
fn load(config: BpfConfig) -> (BpfSensor, Vec<ProbeStatus>) {
    BpfSensor::load_objects(config, 0, Family::object)
}

/// Whether this user may load probes; where CI runs, it has to.
fn may_load(statuses: &[ProbeStatus]) -> bool {
    let refused: Vec<&ProbeStatus> = statuses
        .iter()
        .filter(|status| status.state != ProbeState::Real && !status.reason.starts_with(SWITCHED_OFF))
        .collect();
    if refused.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "the kernel refused the probes: {refused:?}"
    );
    assert!(
        !nix::unistd::geteuid().is_root(),
        "the kernel refused the probes of root: {refused:?}"
    );
    println!("COULD NOT RUN: no privilege to load BPF programs: {refused:?}");
    false
}

/// A loaded sensor that is drained by hand.
struct Rig {
    drain: Drain,
    receiver: mpsc::Receiver<Fact>,
    facts: Vec<Fact>,
    inventory: Inventory,
    pace: crate::PaceHandle,
}

impl Rig {
    fn start(config: BpfConfig) -> Option<Rig> {
        let (sensor, statuses) = load(config);
        if !may_load(&statuses) {
            return None;
        }
        let inventory = Inventory::new(ProcessConfig::default());
        let pace = crate::PaceHandle::default();
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let mut observer = Observer::new(
            inventory.clone(),
            EventSource::Kernel,
            Outlet::new(sender.clone(), "test"),
            pace.clone(),
        );
        observer.round().unwrap();
        let drain = sensor.at_pace(pace.clone()).into_drain(sender, &inventory);
        Some(Rig {
            drain,
            receiver,
            facts: Vec::new(),
            inventory,
            pace,
        })
    }

    fn collect(&mut self) {
        self.drain.drain();
        while let Ok(fact) = self.receiver.try_recv() {
            self.facts.push(fact);
        }
    }

    /// Drains until a fact is what is wanted.
    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Fact) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            self.collect();
            if let Some(found) = self.facts.iter().find_map(&wanted) {
                return found;
            }
            assert!(
                Instant::now() < end,
                "{what} did not come; the last facts: {:#?}",
                self.facts.iter().rev().take(5).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes rows of what lies in maps, as the running sensor does each second.
    fn tick(&mut self) {
        self.drain.tick();
        self.drain.look_at_losses();
    }

    /// Does `marker`, waits until it is told, and says what came until then and was unwanted.
    fn silent(&mut self, what: &str, marker: impl Fn(&Fact) -> bool, unwanted: impl Fn(&Fact) -> bool) {
        self.wait_for(&format!("marker after {what}"), |fact| marker(fact).then_some(()));
        let told = self.facts.iter().find(|fact| unwanted(fact));
        assert!(told.is_none(), "{what} is to be silent: {told:#?}");
    }

    fn process(&mut self, pid: u32, kind: ProcessEventKind) -> ProcessEvent {
        self.wait_for(&format!("{kind} of {pid}"), |fact| match fact {
            Fact::ProcessEvent(row) if row.pid == pid && row.kind == kind => Some((**row).clone()),
            _ => None,
        })
    }

    fn network(&mut self, what: &str, wanted: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        self.wait_for(what, |fact| match fact {
            Fact::NetworkEvent(row) if wanted(row) => Some((**row).clone()),
            _ => None,
        })
    }
}

/// Runs a program to its end and returns its pid.
fn run(command: &mut Command) -> u32 {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}
