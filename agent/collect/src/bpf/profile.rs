//! Profiles of system calls, on a small duty cycle and of suspects.
//!
//! A hook on every call costs every program some 60 ns a call while it is attached, so it is attached for
//! [`ProfileConfig::sample_ms`] of every [`ProfileConfig::interval_s`], and for [`SUSPECT_WINDOWS`] windows of
//! [`SUSPECT_WINDOW`] for a process that somebody suspects, and really detached in between. The program is loaded before
//! the sandbox is entered; attaching it later is the one thing of bpf(2) beside reading maps that the sandbox leaves.
//!
//! Task: `syscall-profile`, a thread. Rows: [`SyscallProfile`]. Bounded: 256 processes a window and 8,192 pairs of
//! process and call; what finds no place is in the row's `dropped`, or, of whole processes, in a gap with reason
//! `map_full`.

mod window;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use aya::Btf;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use self::window::{Occasion, Programs};
use super::diagnose::{Diagnosis, SWITCHED_OFF, diagnose};
use super::error::FamilyError;
use super::metric;
use super::outlet::Outlet;
use crate::pace::{Pace, PaceHandle};
use crate::process::{Inventory, ProcessKey};

/// Length of a window for suspects.
const SUSPECT_WINDOW: Duration = Duration::from_millis(400);
/// Windows that a suspicion is worth.
const SUSPECT_WINDOWS: u32 = 5;
/// Time from one window for suspects to the next.
const SUSPECT_REST: Duration = Duration::from_millis(600);
/// Processes that are suspect at once; the map in the kernel has twice the room.
const SUSPECTS_MAX: usize = 32;
/// How soon a suspicion, and the end, are noticed.
const LOOK: Duration = Duration::from_millis(200);
/// Name in `probe_status`.
const PROBE: &str = "bpf.profile";

/// How often system calls are profiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileConfig {
    /// Whether profiles are taken at all.
    pub enabled: bool,
    /// Time between two samples, in seconds.
    pub interval_s: u64,
    /// Length of a sample, in milliseconds.
    pub sample_ms: u64,
}

impl Default for ProfileConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // A third of a percent of the time: 60 ns a call become 0.2 on the average.
            interval_s: 30,
            sample_ms: 100,
        }
    }
}

impl ProfileConfig {
    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if self.interval_s == 0 {
            faults.push(("profile.interval_s".to_owned(), "must be at least 1".to_owned()));
        }
        if self.sample_ms == 0 || self.sample_ms > 1_000 {
            faults.push((
                "profile.sample_ms".to_owned(),
                "must be from 1 to 1000: every call of every program is slower meanwhile".to_owned(),
            ));
        }
        faults
    }
}

/// Asks for profiles of processes; clones ask the same profiler.
#[derive(Debug, Clone)]
pub struct ProfileHandle(Option<SyncSender<ProcessKey>>);

impl ProfileHandle {
    /// A handle that asks nobody.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Asks that the process be profiled soon. Never waits: where too many were asked for, this one is counted and
    /// left out.
    pub fn suspect(&self, pid: u32, start_boot_ns: u64) {
        let Some(sender) = &self.0 else { return };
        if sender.try_send(ProcessKey::new(pid, start_boot_ns)).is_err() {
            metrics::counter!(metric::SUSPECTS_DROPPED).increment(1);
        }
    }
}

/// A process that is suspect, and the windows it is still worth.
#[derive(Debug)]
struct Suspicion {
    key: ProcessKey,
    windows: u32,
}

/// The program in the kernel, loaded and not attached.
pub(crate) struct Profiler {
    config: ProfileConfig,
    programs: Result<Programs, Diagnosis>,
    asked: Receiver<ProcessKey>,
    handle: ProfileHandle,
}

impl Profiler {
    /// Loads the program. Never fails: what the kernel refuses is told in the status.
    pub(crate) fn load(config: ProfileConfig, btf: Result<&Btf, &FamilyError>, own_pid: u32) -> Self {
        let (sender, asked) = sync_channel(SUSPECTS_MAX);
        let programs = if config.enabled {
            btf.map_err(diagnose)
                .and_then(|btf| Programs::load(btf, own_pid).map_err(|error| diagnose(&error)))
        } else {
            Err(Diagnosis {
                reason: SWITCHED_OFF.to_owned(),
                hint: "set bpf.profile.enabled = true to switch it on".to_owned(),
            })
        };
        Self {
            config,
            programs,
            asked,
            handle: ProfileHandle(Some(sender)),
        }
    }

    /// For whoever suspects processes.
    pub(crate) fn handle(&self) -> ProfileHandle {
        self.handle.clone()
    }

    /// Starts the thread `syscall-profile`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn run(
        self,
        tasks: &Tasks,
        sender: Sender<Fact>,
        inventory: Inventory,
        pace: PaceHandle,
    ) -> std::io::Result<()> {
        let outlet = Outlet::new(sender, "syscall-profile");
        let mut rounds = Rounds::new(self, outlet, inventory, pace);
        tasks.spawn_thread("syscall-profile", TaskKind::BestEffort, move |token| {
            while !token.is_cancelled() {
                rounds.round(Instant::now());
                std::thread::sleep(LOOK);
            }
            Ok(())
        })
    }
}

/// What the thread does again and again.
pub(crate) struct Rounds {
    profiler: Profiler,
    outlet: Outlet,
    inventory: Inventory,
    pace: PaceHandle,
    suspects: Vec<Suspicion>,
    next_sample: Instant,
    next_suspect: Instant,
    next_status: Instant,
    windows: u64,
    rows: u64,
    lost: u64,
    failure: Option<String>,
}

impl Rounds {
    pub(crate) fn new(profiler: Profiler, outlet: Outlet, inventory: Inventory, pace: PaceHandle) -> Self {
        let now = Instant::now();
        Self {
            next_sample: now + Duration::from_secs(profiler.config.interval_s.max(1)),
            profiler,
            outlet,
            inventory,
            pace,
            suspects: Vec::new(),
            next_suspect: now,
            next_status: now,
            windows: 0,
            rows: 0,
            lost: 0,
            failure: None,
        }
    }

    /// One look at what is due.
    pub(crate) fn round(&mut self, now: Instant) {
        while let Ok(key) = self.profiler.asked.try_recv() {
            self.suspect(key);
        }
        if !self.suspects.is_empty() && now >= self.next_suspect {
            self.next_suspect = now + SUSPECT_REST + SUSPECT_WINDOW;
            let keys: Vec<ProcessKey> = self.suspects.iter().map(|suspect| suspect.key).collect();
            self.window(Occasion::Suspects(keys), SUSPECT_WINDOW);
            for suspect in &mut self.suspects {
                suspect.windows -= 1;
            }
            self.suspects.retain(|suspect| suspect.windows > 0);
        } else if now >= self.next_sample {
            self.next_sample = now + Duration::from_secs(self.profiler.config.interval_s.max(1));
            // Over the agent's budget samples are the first to go; suspects are not.
            if self.pace.get() < Pace::Executions {
                self.window(
                    Occasion::Sample,
                    Duration::from_millis(self.profiler.config.sample_ms),
                );
            }
        }
        if now >= self.next_status {
            self.next_status = now + Duration::from_secs(60);
            self.outlet.send(self.status().into());
        }
        self.outlet.flush_gaps();
    }

    fn suspect(&mut self, key: ProcessKey) {
        if let Some(known) = self.suspects.iter_mut().find(|suspect| suspect.key == key) {
            known.windows = SUSPECT_WINDOWS;
        } else if self.suspects.len() < SUSPECTS_MAX {
            self.suspects.push(Suspicion {
                key,
                windows: SUSPECT_WINDOWS,
            });
        } else {
            metrics::counter!(metric::SUSPECTS_DROPPED).increment(1);
        }
    }

    fn window(&mut self, occasion: Occasion, length: Duration) {
        let Ok(programs) = &mut self.profiler.programs else {
            return;
        };
        self.windows += 1;
        let name = occasion.as_str();
        metrics::counter!(metric::PROFILE_WINDOWS, "occasion" => name).increment(1);
        let taken = match programs.window(&occasion, length) {
            Ok(taken) => taken,
            Err(error) => {
                let Diagnosis { reason, .. } = diagnose(&error);
                if self.failure.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "system calls cannot be profiled");
                    self.next_status = Instant::now();
                }
                self.failure = Some(reason);
                return;
            }
        };
        self.failure = None;
        if let Some(gap) = taken.gap() {
            self.lost += 1;
            self.outlet.send_gap(gap);
        }
        for row in taken.rows(&self.inventory, name) {
            self.rows += 1;
            if !self.outlet.send(row.into()) {
                self.lost += 1;
            }
        }
    }

    fn status(&self) -> ProbeStatus {
        let (state, reason, hint) = match (&self.profiler.programs, &self.failure) {
            (Err(Diagnosis { reason, hint }), _) => (ProbeState::Broken, reason.clone(), hint.clone()),
            (Ok(_), Some(reason)) => (ProbeState::Broken, reason.clone(), String::new()),
            (Ok(_), None) => (ProbeState::Real, String::new(), String::new()),
        };
        ProbeStatus {
            time: TimeMicros::now(),
            probe: PROBE.to_owned(),
            state,
            reason,
            hint,
            seen: self.windows,
            delivered: self.rows,
            lost: self.lost,
        }
    }
}
