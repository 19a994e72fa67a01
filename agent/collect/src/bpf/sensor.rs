//! Loading the families, and starting what drains them.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aya::Btf;
use fleetmend_ebpf::Family;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use tokio::sync::mpsc::Sender;

use super::config::BpfConfig;
use super::diagnose::{Diagnosis, diagnose};
use super::drain::{Drain, probe_name};
use super::enrich::Enricher;
use super::error::FamilyError;
use super::family::LoadedFamily;
use super::listeners::listeners;
use super::memory::return_free_memory;
use super::namespace;
use super::outlet::Outlet;
use crate::PaceHandle;
use crate::process::{EventSource, Inventory, Observer};

/// How long the drain waits for the first reading of /proc, so that parents are known; the rings hold what comes
/// meanwhile.
const FIRST_READING: Duration = Duration::from_secs(5);
/// How soon the observer notices that it is to end.
const CANCEL_LOOK: Duration = Duration::from_millis(250);

/// What a family promises and keeps, apart from losses.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) state: ProbeState,
    pub(crate) reason: String,
    pub(crate) hint: String,
}

/// A family after the attempt to load it.
pub(crate) enum FamilyState {
    Loaded(Box<LoadedFamily>, Standing),
    Refused(ProbeStatus),
}

/// The probes in the kernel, loaded and not yet drained. Dropping it unloads them.
pub struct BpfSensor {
    config: BpfConfig,
    families: Vec<FamilyState>,
    /// Whether processes that begin are told by the kernel.
    execs_traced: bool,
    /// Who tells of processes when the kernel's probes do not.
    processes_from: EventSource,
    pace: PaceHandle,
}

impl BpfSensor {
    /// Loads every family that is switched on, each on its own, and says how each stands. Never fails: what the
    /// kernel refuses is DEGRADED or BROKEN in the rows. [`run`](Self::run) sends the same rows as facts.
    ///
    /// Takes some tens of milliseconds; needs the privileges named in the module. Call it before the sandbox is set.
    pub fn load(config: BpfConfig) -> (Self, Vec<ProbeStatus>) {
        Self::load_objects(config, Family::object)
    }

    /// As [`load`](Self::load), with other objects than the ones that were compiled in.
    pub(crate) fn load_objects(
        config: BpfConfig,
        object: impl Fn(Family) -> &'static [u8],
    ) -> (Self, Vec<ProbeStatus>) {
        let mut families = Vec::new();
        let mut execs_traced = false;
        let btf = Btf::from_sys_fs().map_err(|source| FamilyError::NoBtf { source });
        for family in Family::ALL.iter().copied() {
            let (wanted, ring_bytes) = match family {
                Family::Process => (config.process, config.process_ring_bytes),
                Family::Network => (config.network, config.network_ring_bytes),
            };
            let load = |btf| {
                LoadedFamily::load(family, object(family), ring_bytes, btf).map_err(|error| diagnose(&error))
            };
            let outcome = wanted.then(|| btf.as_ref().map_err(diagnose).and_then(load));
            let state = match outcome {
                Some(Ok(loaded)) => {
                    execs_traced |= family == Family::Process && loaded.has("on_exec");
                    FamilyState::Loaded(Box::new(loaded), Standing::default())
                }
                Some(Err(diagnosis)) => {
                    log(family, &diagnosis);
                    FamilyState::Refused(refusal(family, &diagnosis))
                }
                None => FamilyState::Refused(refusal(family, &switched_off(family))),
            };
            families.push(state);
        }
        for state in &mut families {
            if let FamilyState::Loaded(loaded, standing) = state {
                *standing = Standing::of(loaded, execs_traced);
            }
        }
        drop(btf);
        return_free_memory();
        let sensor = Self {
            config,
            families,
            execs_traced,
            processes_from: EventSource::Observer,
            pace: PaceHandle::default(),
        };
        let statuses = sensor.statuses();
        (sensor, statuses)
    }

    /// Whether processes that begin are told by the kernel; when not, /proc is read each second instead.
    pub fn traces_execs(&self) -> bool {
        self.execs_traced
    }

    /// Unloads the family of `probe`: another source stands in for it, or it is not wanted.
    pub(crate) fn give_up(&mut self, probe: &str, reason: String, hint: String) {
        for state in &mut self.families {
            let FamilyState::Loaded(loaded, _) = state else {
                continue;
            };
            if probe_name(loaded.family) != probe {
                continue;
            }
            self.execs_traced &= loaded.family != Family::Process;
            *state = FamilyState::Refused(ProbeStatus {
                time: TimeMicros::now(),
                probe: probe.to_owned(),
                state: ProbeState::Broken,
                reason,
                hint,
                seen: 0,
                delivered: 0,
                lost: 0,
            });
            return;
        }
    }

    /// Says that what processes do is told elsewhere: the observer then makes no events.
    pub(crate) fn processes_are_told(&mut self) {
        self.processes_from = EventSource::Kernel;
    }

    /// Follows `pace` instead of always delivering everything.
    #[must_use]
    pub fn at_pace(self, pace: PaceHandle) -> Self {
        Self { pace, ..self }
    }

    /// Starts the threads `sensor-drain` and `process-observer`, which fill `inventory` and send facts to `sender`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn run(mut self, tasks: &Tasks, sender: Sender<Fact>, inventory: Inventory) -> io::Result<()> {
        self.seed_listeners(&inventory);
        self.check_namespace(&inventory);
        let source = if self.execs_traced {
            EventSource::Kernel
        } else {
            self.processes_from
        };
        let observer = Observer::new(
            inventory.clone(),
            source,
            Outlet::new(sender.clone(), "process-observer"),
            self.pace.clone(),
        );
        let (ready, first_reading) = mpsc::sync_channel(1);
        tasks.spawn_thread("process-observer", TaskKind::Critical, move |token| {
            observe(observer, &token, &ready).map_err(Into::into)
        })?;
        let outlet = Outlet::new(sender, "sensor-drain");
        let Self {
            config,
            families,
            pace,
            ..
        } = self;
        tasks.spawn_thread("sensor-drain", TaskKind::Critical, move |token| {
            // Late or not, the rings must be emptied: without the reading some parents are unknown for a while.
            if first_reading.recv_timeout(FIRST_READING).is_err() {
                tracing::warn!("first reading of the processes is late");
            }
            Drain::new(families, Enricher::new(inventory), outlet, config, pace).run(|| token.is_cancelled());
            Ok(())
        })
    }

    /// Takes the sensor apart for a test that drains by hand.
    #[cfg(test)]
    pub(crate) fn into_drain(mut self, sender: Sender<Fact>, inventory: Inventory) -> Drain {
        self.seed_listeners(&inventory);
        self.check_namespace(&inventory);
        Drain::new(
            self.families,
            Enricher::new(inventory),
            Outlet::new(sender, "test"),
            self.config,
            self.pace,
        )
    }

    fn statuses(&self) -> Vec<ProbeStatus> {
        let row = |state: &FamilyState| match state {
            FamilyState::Refused(status) => status.clone(),
            FamilyState::Loaded(loaded, standing) => ProbeStatus {
                time: TimeMicros::now(),
                probe: probe_name(loaded.family),
                state: standing.state,
                reason: standing.reason.clone(),
                hint: standing.hint.clone(),
                seen: 0,
                delivered: 0,
                lost: 0,
            },
        };
        self.families.iter().map(row).collect()
    }

    fn check_namespace(&mut self, inventory: &Inventory) {
        let Some(diagnosis) = namespace::foreign(inventory.proc()) else {
            return;
        };
        let Diagnosis { reason, hint } = &diagnosis;
        tracing::warn!(reason, hint, "processes are told wrongly");
        for state in &mut self.families {
            state.degrade(&diagnosis);
        }
    }

    fn seed_listeners(&mut self, inventory: &Inventory) {
        for state in &mut self.families {
            let FamilyState::Loaded(loaded, standing) = state else {
                continue;
            };
            if loaded.family != Family::Network {
                continue;
            }
            if let Err(error) = loaded.seed_listeners(&listeners(inventory.proc())) {
                let diagnosis = diagnose(&error);
                log(Family::Network, &diagnosis);
                let Diagnosis { reason, hint } = diagnosis;
                let reason = format!("owners of sockets that listened before are not known: {reason}");
                *standing = Standing {
                    state: ProbeState::Degraded,
                    reason,
                    hint,
                };
            }
        }
    }
}

impl FamilyState {
    /// Says of a family that works, or is replaced by /proc, what else is wrong.
    fn degrade(&mut self, diagnosis: &Diagnosis) {
        let (state, reason, hint) = match self {
            Self::Loaded(_, standing) => (&mut standing.state, &mut standing.reason, &mut standing.hint),
            Self::Refused(status) => (&mut status.state, &mut status.reason, &mut status.hint),
        };
        if *state == ProbeState::Broken {
            return;
        }
        *state = ProbeState::Degraded;
        for (text, more) in [(reason, &diagnosis.reason), (hint, &diagnosis.hint)] {
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(more);
        }
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: ProbeState::Real,
            reason: String::new(),
            hint: String::new(),
        }
    }
}

impl Standing {
    fn of(loaded: &LoadedFamily, execs_traced: bool) -> Self {
        let Some((_, Diagnosis { hint, .. })) = loaded.missing.first() else {
            return Self::default();
        };
        let mut reasons: Vec<String> = loaded
            .missing
            .iter()
            .map(|(_, diagnosis)| diagnosis.reason.clone())
            .collect();
        if loaded.family == Family::Process && !execs_traced {
            reasons.push(PROC_INSTEAD.to_owned());
        }
        Self {
            state: ProbeState::Degraded,
            reason: reasons.join("; "),
            hint: hint.clone(),
        }
    }
}

const PROC_INSTEAD: &str = "source.processes says what stands in for it; short-lived processes may be missed";

/// Of processes there is always something to tell, if only what /proc shows.
fn refusal(family: Family, diagnosis: &Diagnosis) -> ProbeStatus {
    let (state, reason) = match family {
        Family::Process => (
            ProbeState::Degraded,
            format!("{}; {PROC_INSTEAD}", diagnosis.reason),
        ),
        Family::Network => (ProbeState::Broken, diagnosis.reason.clone()),
    };
    ProbeStatus {
        time: TimeMicros::now(),
        probe: probe_name(family),
        state,
        reason,
        hint: diagnosis.hint.clone(),
        seen: 0,
        delivered: 0,
        lost: 0,
    }
}

fn switched_off(family: Family) -> Diagnosis {
    Diagnosis {
        reason: "switched off by the configuration".to_owned(),
        hint: format!("set bpf.{} = true to switch it on", family.as_str()),
    }
}

fn log(family: Family, diagnosis: &Diagnosis) {
    let Diagnosis { reason, hint } = diagnosis;
    tracing::warn!(
        family = family.as_str(),
        reason,
        hint,
        "probes cannot be loaded as they should"
    );
}

/// Body of the observer's thread.
fn observe(
    mut observer: Observer,
    token: &CancellationToken,
    ready: &mpsc::SyncSender<()>,
) -> io::Result<()> {
    let first = observer.round();
    // The drain may have given up waiting.
    if ready.try_send(()).is_err() {
        tracing::debug!("nobody waits for the first reading any more");
    }
    first?;
    while !token.is_cancelled() {
        let rested = Instant::now();
        // The pace may change meanwhile.
        while rested.elapsed() < observer.interval() {
            if token.is_cancelled() {
                return Ok(());
            }
            std::thread::sleep(CANCEL_LOOK);
        }
        observer.round()?;
    }
    Ok(())
}
