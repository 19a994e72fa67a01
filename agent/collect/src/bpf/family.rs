//! One family in the kernel: its object loaded, its duties kept in the first way that the kernel takes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{
    BtfTracePoint, FEntry, FExit, KProbe, Lsm, ProgramError, ProgramFd, RawTracePoint, TracePoint,
};
use aya::{Btf, Ebpf, EbpfLoader};
use fleetmend_ebpf::abi::{COUNTERS, Counter, DUTIES_MAX, settings};

use super::config::BpfConfig;
use super::diagnose::{Diagnosis, diagnose};
use super::error::FamilyError;
use super::spec::{At, Duty, FamilySpec, Hook, Maps, Way};
use super::tracefs::{self, Tracefs};

/// How often a program is offered again that the kernel was too busy to check.
const BUSY_TRIES: usize = 5;
/// Words of `struct duty_time`.
const TIME_WORDS: usize = 3;

/// What the kernel counted for a family, on one processor or on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts(pub(crate) [u64; COUNTERS]);

impl Counts {
    pub(crate) fn of(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or_default()
    }

    /// Everything that became of events: equal to what was seen once no program is under way.
    pub(crate) fn accounted(&self) -> u64 {
        let parts = [
            Counter::Delivered,
            Counter::RingFull,
            Counter::MapFull,
            Counter::Shed,
            Counter::Filtered,
            Counter::Aggregated,
        ];
        parts.iter().map(|part| self.of(*part)).sum()
    }

    fn add(mut self, other: Counts) -> Counts {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(more);
        }
        self
    }

    /// Every processor together.
    pub(crate) fn sum(each: &[Counts]) -> Counts {
        each.iter().copied().fold(Counts::default(), Counts::add)
    }
}

/// How often and how long the programs of a duty ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DutyTime {
    pub(crate) runs: u64,
    pub(crate) timed_runs: u64,
    pub(crate) timed_ns: u64,
}

impl DutyTime {
    /// Microseconds of all runs, estimated from those that were timed.
    pub(crate) fn total_us(&self) -> u64 {
        let total = u128::from(self.timed_ns) * u128::from(self.runs) / u128::from(self.timed_runs.max(1));
        u64::try_from(total / 1_000).unwrap_or(u64::MAX)
    }

    /// Mean nanoseconds of a run, of those that were timed.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a mean does not need more than 53 bits"
    )]
    pub(crate) fn mean_ns(&self) -> f64 {
        self.timed_ns as f64 / self.timed_runs.max(1) as f64
    }
}

/// How a duty is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) duty: &'static Duty,
    /// The way that serves; `None` when the kernel refused all of them.
    pub(crate) way: Option<&'static Way>,
    /// Why ways before that one, or all of them, do not serve.
    pub(crate) refused: Vec<(&'static Way, Diagnosis)>,
}

/// A family that runs. Dropping it detaches its programs.
pub(crate) struct LoadedFamily {
    pub(crate) spec: &'static FamilySpec,
    pub(crate) ring: RingBuf<MapData>,
    /// Ring of what must not wait behind a storm, where the family has one.
    pub(crate) critical: Option<RingBuf<MapData>>,
    counts: PerCpuArray<MapData, [u64; COUNTERS]>,
    times: PerCpuArray<MapData, [u64; TIME_WORDS * DUTIES_MAX]>,
    settings: Array<MapData, [u32; 2]>,
    own_pid: u32,
    programs: Vec<(&'static str, RawFd)>,
    pub(crate) duties: Vec<Kept>,
    /// Programs at tracepoints by name; closed before the programs go.
    events: Vec<OwnedFd>,
    /// Owns the programs and their links.
    object: Ebpf,
}

/// What loading needs beside the family.
pub(crate) struct Loader<'a> {
    pub(crate) config: &'a BpfConfig,
    pub(crate) btf: &'a Btf,
    pub(crate) tracefs: &'a mut Tracefs,
    /// Whose acts are not told; 0 for none.
    pub(crate) own_pid: u32,
}

impl LoadedFamily {
    /// Loads `object` and keeps each duty as the kernel allows.
    ///
    /// # Errors
    /// When the object is damaged, its maps are refused, or no duty can be kept.
    pub(crate) fn load(
        spec: &'static FamilySpec,
        object: &[u8],
        loader: &mut Loader<'_>,
    ) -> Result<Self, FamilyError> {
        let mut ebpf = EbpfLoader::new();
        ebpf.btf(Some(loader.btf))
            .map_max_entries("RING", loader.config.ring_bytes(spec.family));
        (spec.prepare)(&mut ebpf, loader.config);
        let mut object = ebpf.load(object).map_err(|source| FamilyError::Object {
            family: spec.family.as_str(),
            source: Box::new(source),
        })?;
        let mut maps = Maps(&mut object);
        let ring = RingBuf::try_from(maps.take("RING")?).map_err(map_error("RING"))?;
        let critical = maps.0.take_map("CRITICAL").map(RingBuf::try_from).transpose();
        let critical = critical.map_err(map_error("CRITICAL"))?;
        let counts = PerCpuArray::try_from(maps.take("COUNTS")?).map_err(map_error("COUNTS"))?;
        let times = PerCpuArray::try_from(maps.take("TIMES")?).map_err(map_error("TIMES"))?;
        let settings: Map = maps.take("SETTINGS")?;
        let mut family = Self {
            spec,
            ring,
            critical,
            counts,
            times,
            settings: Array::try_from(settings).map_err(map_error("SETTINGS"))?,
            own_pid: loader.own_pid,
            programs: Vec::new(),
            duties: Vec::new(),
            events: Vec::new(),
            object,
        };
        family.set_shed_level(0)?;
        let mut first_error = None;
        for duty in spec.duties {
            let (kept, error) = family.keep(duty, loader);
            first_error = first_error.or(error);
            family.duties.push(kept);
        }
        match first_error {
            Some(error) if family.duties.iter().all(|kept| kept.way.is_none()) => Err(error),
            _ => Ok(family),
        }
    }

    /// Tries the ways of a duty in order.
    fn keep(&mut self, duty: &'static Duty, loader: &mut Loader<'_>) -> (Kept, Option<FamilyError>) {
        let mut refused = Vec::new();
        let mut first_error = None;
        for way in duty.ways {
            match self.take(way, loader) {
                Ok(()) => {
                    let way = Some(way);
                    return (Kept { duty, way, refused }, None);
                }
                Err(error) => {
                    refused.push((way, diagnose(&error)));
                    first_error = first_error.or(Some(error));
                }
            }
        }
        let way = None;
        (Kept { duty, way, refused }, first_error)
    }

    /// Attaches every hook of a way, or none.
    fn take(&mut self, way: &'static Way, loader: &mut Loader<'_>) -> Result<(), FamilyError> {
        let (programs, events) = (self.programs.len(), self.events.len());
        let mut attached = 0;
        let mut missing = None;
        for hook in way.hooks {
            match self.attach(hook, loader) {
                Ok(()) => attached += 1,
                Err(error) if hook.optional => missing = missing.or(Some(error)),
                Err(error) => {
                    self.take_back(programs, events);
                    return Err(error);
                }
            }
        }
        match missing {
            Some(error) if attached == 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// Undoes what was loaded and attached since.
    fn take_back(&mut self, programs: usize, events: usize) {
        self.events.truncate(events);
        for (name, _) in self.programs.split_off(programs) {
            self.unload(name);
        }
    }

    fn unload(&mut self, name: &'static str) {
        let program = self.object.program_mut(name);
        let unloaded = program.map(|program| match program {
            aya::programs::Program::BtfTracePoint(one) => one.unload(),
            aya::programs::Program::RawTracePoint(one) => one.unload(),
            aya::programs::Program::TracePoint(one) => one.unload(),
            aya::programs::Program::FEntry(one) => one.unload(),
            aya::programs::Program::FExit(one) => one.unload(),
            aya::programs::Program::Lsm(one) => one.unload(),
            aya::programs::Program::KProbe(one) => one.unload(),
            _ => Ok(()),
        });
        match unloaded {
            None | Some(Ok(()) | Err(ProgramError::NotLoaded)) => {}
            Some(Err(error)) => {
                tracing::warn!(program = name, %error, "cannot unload a probe that is not needed");
            }
        }
    }

    fn attach(&mut self, hook: &Hook, loader: &mut Loader<'_>) -> Result<(), FamilyError> {
        if let At::Absent(path) = hook.at
            && !std::path::Path::new(path).exists()
        {
            return Ok(());
        }
        let loaded = self.programs.iter().any(|(name, _)| *name == hook.program);
        let attached = attach(&mut self.object, hook, loaded, loader);
        if attached.is_err() && !loaded {
            // It may be loaded by now, and another hook of it would be refused for that.
            self.unload(hook.program);
        }
        let (fd, event) = attached.map_err(|source| FamilyError::Program {
            program: hook.program,
            hook: format!("{} {}", hook.at.kind(), hook.at.name()),
            source,
        })?;
        self.events.extend(event);
        if !loaded {
            self.programs.push((hook.program, fd));
        }
        Ok(())
    }

    /// Whether anything is told by hooks of system calls, which some programs pass by.
    pub(crate) fn hooks_calls(&self) -> bool {
        let hooks = self
            .duties
            .iter()
            .filter_map(|kept| kept.way)
            .flat_map(|way| way.hooks);
        hooks.into_iter().any(|hook| match hook.at {
            At::Tracepoint(category, _) => category == "syscalls",
            At::Fentry(name) | At::Fexit(name) => name.starts_with("__x64_sys_"),
            _ => false,
        })
    }

    /// Whether a duty is kept.
    pub(crate) fn keeps(&self, duty: &str) -> bool {
        self.duties
            .iter()
            .any(|kept| kept.duty.name == duty && kept.way.is_some())
    }

    /// What the kernel has counted since the load, on each processor.
    pub(crate) fn counts(&self) -> Result<Vec<Counts>, MapError> {
        Ok(self
            .counts
            .get(&0, 0)?
            .iter()
            .map(|counts| Counts(*counts))
            .collect())
    }

    /// How long each duty took, all processors together.
    pub(crate) fn times(&self) -> Result<Vec<DutyTime>, MapError> {
        let mut times = vec![DutyTime::default(); self.spec.duties.len()];
        for words in self.times.get(&0, 0)?.iter() {
            for (time, words) in times.iter_mut().zip(words.as_chunks::<TIME_WORDS>().0) {
                let [runs, timed_runs, timed_ns] = *words;
                time.runs += runs;
                time.timed_runs += timed_runs;
                time.timed_ns += timed_ns;
            }
        }
        Ok(times)
    }

    /// Tells the programs how much to shed.
    pub(crate) fn set_shed_level(&mut self, level: u32) -> Result<(), FamilyError> {
        self.settings
            .set(0, settings(self.own_pid, level), 0)
            .map_err(map_error("SETTINGS"))
    }

    /// Times that the kernel skipped a program because it ran on that processor already. Kernels since 5.12 say so;
    /// before, it counts as never. Costs a file for each program.
    pub(crate) fn skipped(&self) -> u64 {
        let of = |(_, fd): &(&str, RawFd)| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines()
                .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
        };
        self.programs.iter().filter_map(of).sum()
    }

    /// The other maps of the object.
    pub(crate) fn maps(&mut self) -> Maps<'_> {
        Maps(&mut self.object)
    }
}

/// An error of a map by its name.
pub(crate) fn map_error(map: &'static str) -> impl Fn(MapError) -> FamilyError {
    move |source| FamilyError::Map {
        map,
        source: Box::new(source),
    }
}

/// Loads a program unless it is loaded, and attaches it.
fn attach(
    object: &mut Ebpf,
    hook: &Hook,
    loaded: bool,
    loader: &mut Loader<'_>,
) -> Result<(RawFd, Option<OwnedFd>), ProgramError> {
    let program = object
        .program_mut(hook.program)
        .ok_or_else(|| ProgramError::InvalidName {
            name: hook.program.to_owned(),
        })?;
    let raw = |fd: &ProgramFd| fd.as_fd().as_raw_fd();
    macro_rules! typed {
        ($type:ty, $load:expr, $attach:expr) => {{
            let program: &mut $type = program.try_into()?;
            if !loaded {
                again_while_busy(|| $load(program))?;
            }
            $attach(program)?;
            Ok((raw(program.fd()?), None))
        }};
    }
    let btf = loader.btf;
    match hook.at {
        At::BtfTracepoint(name) => typed!(
            BtfTracePoint,
            |program: &mut BtfTracePoint| program.load(name, btf),
            |program: &mut BtfTracePoint| program.attach()
        ),
        At::RawTracepoint(name) => typed!(
            RawTracePoint,
            |program: &mut RawTracePoint| program.load(),
            |program: &mut RawTracePoint| program.attach(name)
        ),
        At::Fentry(name) => typed!(
            FEntry,
            |program: &mut FEntry| program.load(name, btf),
            |program: &mut FEntry| program.attach()
        ),
        At::Fexit(name) => typed!(
            FExit,
            |program: &mut FExit| program.load(name, btf),
            |program: &mut FExit| program.attach()
        ),
        At::Lsm(name) => typed!(
            Lsm,
            |program: &mut Lsm| program.load(name, btf),
            |program: &mut Lsm| program.attach()
        ),
        At::Kprobe(name) => typed!(
            KProbe,
            |program: &mut KProbe| program.load(),
            |program: &mut KProbe| program.attach(name, 0)
        ),
        At::Absent(name) => Err(ProgramError::InvalidName {
            name: format!("{name} is there"),
        }),
        At::Tracepoint(category, name) => {
            let id = loader.tracefs.id(category, name).map_err(ProgramError::IOError)?;
            let program: &mut TracePoint = program.try_into()?;
            if !loaded {
                again_while_busy(|| program.load())?;
            }
            let fd = program.fd()?;
            let event = tracefs::attach(fd.as_fd(), id).map_err(ProgramError::IOError)?;
            Ok((raw(fd), Some(event)))
        }
    }
}

/// The verifier gives up with EAGAIN when a signal comes while it works: that says nothing about the program.
fn again_while_busy(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) && tries < BUSY_TRIES => {}
            outcome => return outcome,
        }
    }
}
