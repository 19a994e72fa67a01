//! Loading the families, and starting what drains them.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aya::Btf;
use fleetmend_ebpf::Family;
use fleetmend_event::table::{ProbeState, ProbeStatus};
use fleetmend_event::{Fact, TimeMicros};
use fleetmend_shutdown::{CancellationToken, TaskKind, Tasks};
use tokio::sync::mpsc::Sender;

use super::board::SensorBoard;
use super::config::BpfConfig;
use super::diagnose::{Diagnosis, SWITCHED_OFF, diagnose};
use super::drain::Drain;
use super::enrich::Enricher;
use super::error::FamilyError;
use super::family::{LoadedFamily, Loader};
use super::namespace;
use super::outlet::Outlet;
use super::process::EXEC;
use super::profile::{ProfileHandle, Profiler};
use super::source::{PROC_INSTEAD, Source, append, probe_name};
use super::spec::SPECS;
use super::tracefs::Tracefs;
use crate::PaceHandle;
use crate::process::{EventSource, Inventory, Observer};

/// How long the drain waits for the first reading of /proc, so that parents are known; the rings hold what comes
/// meanwhile.
const FIRST_READING: Duration = Duration::from_secs(5);
/// How soon the observer notices that it is to end.
const CANCEL_LOOK: Duration = Duration::from_millis(250);

/// The probes in the kernel, loaded and not yet drained. Dropping it unloads them.
pub struct BpfSensor {
    config: BpfConfig,
    sources: Vec<Source>,
    /// Families that do not run, with their rows.
    refused: Vec<ProbeStatus>,
    board: SensorBoard,
    /// Taken when its thread begins.
    profiler: Option<Profiler>,
    /// Whether the probes tell the programs that processes begin.
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
        Self::load_objects(config, namespace::own_pid(Path::new("/proc")), Family::object)
    }

    /// As [`load`](Self::load), with other objects than the ones that were compiled in, and with another process whose
    /// own acts are not told; 0 for none.
    pub(crate) fn load_objects(
        config: BpfConfig,
        own_pid: u32,
        object: impl Fn(Family) -> Option<&'static [u8]>,
    ) -> (Self, Vec<ProbeStatus>) {
        let mut sources = Vec::new();
        let mut refused = Vec::new();
        let btf = Btf::from_sys_fs().map_err(|source| FamilyError::NoBtf { source });
        let mut tracefs = Tracefs::default();
        for spec in SPECS {
            let family = spec.family;
            let Some(object) = object(family) else { continue };
            if !config.wants(family) {
                refused.push(refusal(family, &switched_off(family)));
                continue;
            }
            let load = |btf| {
                let mut loader = Loader {
                    config: &config,
                    btf,
                    tracefs: &mut tracefs,
                    own_pid,
                };
                LoadedFamily::load(spec, object, &mut loader).map_err(|error| diagnose(&error))
            };
            match btf.as_ref().map_err(diagnose).and_then(load) {
                Ok(loaded) => {
                    let handler = (spec.handler)(&config);
                    sources.push(Source::new(Box::new(loaded), handler, &config));
                }
                Err(diagnosis) => {
                    log(family, &diagnosis);
                    refused.push(refusal(family, &diagnosis));
                }
            }
        }
        let profiler = Profiler::load(config.profile.clone(), btf.as_ref(), own_pid);
        drop(btf);
        let traces =
            |source: &Source| source.loaded.spec.family == Family::Process && source.loaded.keeps(EXEC);
        let sensor = Self {
            config,
            processes_from: EventSource::Observer,
            execs_traced: sources.iter().any(traces),
            sources,
            refused,
            board: SensorBoard::default(),
            profiler: Some(profiler),
            pace: PaceHandle::default(),
        };
        let statuses = sensor.statuses();
        (sensor, statuses)
    }

    /// What the sensor says of itself once it runs.
    pub fn board(&self) -> SensorBoard {
        self.board.clone()
    }

    /// For whoever suspects processes: the system calls of those are profiled soon.
    pub fn profile_handle(&self) -> ProfileHandle {
        self.profiler
            .as_ref()
            .map_or(ProfileHandle::none(), Profiler::handle)
    }

    /// Whether the probes tell the programs that processes begin. Where they do not, a second source may
    /// ([`crate::source`]); when none does, the observer makes events of what it reads in /proc.
    pub fn traces_execs(&self) -> bool {
        self.execs_traced
    }

    /// Unloads the family whose row is called `probe`, which is BROKEN from then on for `reason`: another source was
    /// chosen for what it tells, or none. Nothing happens when it does not run.
    pub(crate) fn give_up(&mut self, probe: &str, reason: String, hint: String) {
        let named = |source: &Source| probe_name(source.loaded.spec.family) == probe;
        let Some(index) = self.sources.iter().position(named) else {
            return;
        };
        let source = self.sources.remove(index);
        self.execs_traced &= source.loaded.spec.family != Family::Process;
        self.refused.push(ProbeStatus {
            time: TimeMicros::now(),
            probe: probe.to_owned(),
            state: ProbeState::Broken,
            reason,
            hint,
            seen: 0,
            delivered: 0,
            lost: 0,
        });
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

    /// Starts the threads `sensor-drain`, `process-observer` and `syscall-profile`, which fill `inventory` and send facts to `sender`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn run(mut self, tasks: &Tasks, sender: Sender<Fact>, inventory: Inventory) -> io::Result<()> {
        let enricher = self.begin(&inventory);
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
        if let Some(profiler) = self.profiler.take() {
            profiler.run(tasks, sender.clone(), inventory, self.pace.clone())?;
        }
        let outlet = Outlet::new(sender, "sensor-drain");
        let mut drain = self.drain(enricher, outlet);
        tasks.spawn_thread("sensor-drain", TaskKind::Critical, move |token| {
            // Late or not, the rings must be emptied: without the reading some parents are unknown for a while.
            if first_reading.recv_timeout(FIRST_READING).is_err() {
                tracing::warn!("first reading of the processes is late");
            }
            drain.run(|| token.is_cancelled());
            Ok(())
        })
    }

    fn drain(self, enricher: Enricher, outlet: Outlet) -> Drain {
        let Self {
            sources,
            refused,
            config,
            pace,
            board,
            ..
        } = self;
        Drain::new(sources, refused, enricher, outlet, config, pace, board)
    }

    /// Takes the sensor apart for a test that drains by hand.
    #[cfg(test)]
    pub(crate) fn into_drain(mut self, sender: Sender<Fact>, inventory: &Inventory) -> Drain {
        let enricher = self.begin(inventory);
        self.drain(enricher, Outlet::new(sender, "test"))
    }

    /// How each duty is kept, with its family, for tests.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<(&'static str, super::family::Kept)> {
        let of = |source: &Source| {
            let family = source.loaded.spec.family.as_str();
            let kept = source.loaded.duties.iter().map(|kept| (family, kept.clone()));
            kept.collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of).collect()
    }

    fn statuses(&self) -> Vec<ProbeStatus> {
        let now = TimeMicros::now();
        let loaded = self.sources.iter().map(|source| source.status(now));
        loaded.chain(self.refused.iter().cloned()).collect()
    }

    /// What every family needs before its first record.
    fn begin(&mut self, inventory: &Inventory) -> Enricher {
        let mut enricher = Enricher::new(inventory.clone());
        for source in &mut self.sources {
            let begun = source.handler.begin(&mut source.loaded.maps(), &mut enricher);
            if let Err(error) = begun {
                let diagnosis = diagnose(&error);
                log(source.loaded.spec.family, &diagnosis);
                source.standing.degrade(&diagnosis);
            }
        }
        if let Some(diagnosis) = namespace::foreign(inventory.proc()) {
            let Diagnosis { reason, hint } = &diagnosis;
            tracing::warn!(reason, hint, "processes are told wrongly");
            for source in &mut self.sources {
                source.standing.degrade(&diagnosis);
            }
            for status in self
                .refused
                .iter_mut()
                .filter(|status| status.state != ProbeState::Broken)
            {
                append(&mut status.reason, reason);
                append(&mut status.hint, hint);
            }
        }
        enricher
    }
}

/// Of processes there is always something to tell, if only what /proc shows.
fn refusal(family: Family, diagnosis: &Diagnosis) -> ProbeStatus {
    let (state, reason) = match family {
        Family::Process => (
            ProbeState::Degraded,
            format!("{}; {PROC_INSTEAD}", diagnosis.reason),
        ),
        _ => (ProbeState::Broken, diagnosis.reason.clone()),
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
        reason: SWITCHED_OFF.to_owned(),
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
