//! One family in the kernel: its object loaded, its programs attached, its ring and counters open.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use fleetmend_ebpf::abi::{Counter, ListenerSeed};
use fleetmend_ebpf::{Family, Probe};

use super::diagnose::{Diagnosis, diagnose};
use super::error::FamilyError;

/// `BPF_NOEXIST`: leave an entry that is there.
const NO_EXIST: u64 = 1;

/// What the kernel counted for a family, all processors together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) delivered: u64,
    pub(crate) ring_full: u64,
}

/// A family that runs. Dropping it detaches its programs.
pub(crate) struct LoadedFamily {
    pub(crate) family: Family,
    pub(crate) ring: RingBuf<MapData>,
    counts: PerCpuArray<MapData, u64>,
    programs: Vec<RawFd>,
    /// Programs that the kernel refused, when it took others.
    pub(crate) missing: Vec<(Probe, Diagnosis)>,
    /// Owns the programs and their links.
    object: Ebpf,
}

impl LoadedFamily {
    /// Loads `object` and attaches what the kernel takes of it.
    ///
    /// # Errors
    /// When the object is damaged, its maps are refused, or none of its programs is taken.
    pub(crate) fn load(
        family: Family,
        object: &[u8],
        ring_bytes: u32,
        btf: &Btf,
    ) -> Result<Self, FamilyError> {
        let mut object = EbpfLoader::new()
            .btf(Some(btf))
            .map_max_entries("RING", ring_bytes)
            .load(object)
            .map_err(|source| FamilyError::Object {
                family: family.as_str(),
                source: Box::new(source),
            })?;
        let ring = RingBuf::try_from(take_map(&mut object, "RING")?).map_err(|source| FamilyError::Map {
            map: "RING",
            source: Box::new(source),
        })?;
        let counts =
            PerCpuArray::try_from(take_map(&mut object, "COUNTS")?).map_err(|source| FamilyError::Map {
                map: "COUNTS",
                source: Box::new(source),
            })?;
        let mut programs = Vec::new();
        let mut missing = Vec::new();
        let mut first_error = None;
        for probe in family.programs() {
            match attach(&mut object, *probe, btf) {
                Ok(fd) => programs.push(fd),
                Err(source) => {
                    let Probe { program, tracepoint } = *probe;
                    let error = FamilyError::Program {
                        program,
                        tracepoint,
                        source,
                    };
                    missing.push((*probe, diagnose(&error)));
                    first_error = first_error.or(Some(error));
                }
            }
        }
        match first_error {
            Some(error) if programs.is_empty() => Err(error),
            _ => Ok(Self {
                family,
                ring,
                counts,
                programs,
                missing,
                object,
            }),
        }
    }

    /// Whether the program of this name runs.
    pub(crate) fn has(&self, program: &str) -> bool {
        !self.missing.iter().any(|(probe, _)| probe.program == program)
    }

    /// What the kernel has counted since the load.
    pub(crate) fn counts(&self) -> Result<Counts, MapError> {
        let sum = |counter: Counter| -> Result<u64, MapError> {
            Ok(self
                .counts
                .get(&(counter as u32), 0)?
                .iter()
                .fold(0, |sum, value| sum.saturating_add(*value)))
        };
        // Seen last: an event between the readings is then seen but not yet delivered, never the reverse.
        let (ring_full, delivered) = (sum(Counter::RingFull)?, sum(Counter::Delivered)?);
        Ok(Counts {
            seen: sum(Counter::Seen)?,
            delivered,
            ring_full,
        })
    }

    /// Times that the kernel skipped a program because it ran on that processor already. Kernels since 5.12 say so;
    /// before, it counts as never. Costs a file for each program.
    pub(crate) fn skipped(&self) -> u64 {
        let of = |fd: &RawFd| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines()
                .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
        };
        self.programs.iter().filter_map(of).sum()
    }

    /// Tells the network family who listened before it was loaded.
    pub(crate) fn seed_listeners(&mut self, seeds: &[ListenerSeed]) -> Result<(), FamilyError> {
        let fault = |source: MapError| FamilyError::Map {
            map: "LISTENERS",
            source: Box::new(source),
        };
        let map = take_map(&mut self.object, "LISTENERS")?;
        let mut listeners: HashMap<MapData, [u8; 8], [u8; 64]> = HashMap::try_from(map).map_err(fault)?;
        for seed in seeds {
            // What the probe has seen itself meanwhile is newer.
            match listeners.insert(seed.key(), seed.value(), NO_EXIST) {
                Ok(()) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                }
                Err(source) => return Err(fault(source)),
            }
        }
        Ok(())
    }
}

fn take_map(object: &mut Ebpf, name: &'static str) -> Result<Map, FamilyError> {
    object.take_map(name).ok_or(FamilyError::Map {
        map: name,
        source: Box::new(MapError::InvalidName {
            name: name.to_owned(),
        }),
    })
}

fn attach(object: &mut Ebpf, probe: Probe, btf: &Btf) -> Result<RawFd, ProgramError> {
    let program = object
        .program_mut(probe.program)
        .ok_or_else(|| ProgramError::InvalidName {
            name: probe.program.to_owned(),
        })?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(probe.tracepoint, btf)?;
    program.attach()?;
    Ok(program.fd()?.as_fd().as_raw_fd())
}
