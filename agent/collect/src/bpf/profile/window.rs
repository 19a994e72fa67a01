//! One while in which calls are counted: attach, wait, detach, read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use fleetmend_ebpf::abi::resource::{ProfileKey, ProfileSequence, SEQUENCE_BYTES, profile_settings};
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Exactness, Gap, GapStage, SyscallProfile, Table};

use crate::bpf::enrich::text;
use crate::bpf::error::FamilyError;
use crate::bpf::family::map_error;
use crate::bpf::spec::Maps;
use crate::process::{Inventory, ProcessKey};

const PROGRAM: &str = "on_call";
const TRACEPOINT: &str = "sys_enter";
/// `BPF_ANY`.
const ANY: u64 = 0;

/// Why calls are counted.
#[derive(Debug)]
pub(super) enum Occasion {
    /// Of every process, now and then.
    Sample,
    /// Of these.
    Suspects(Vec<ProcessKey>),
}

impl Occasion {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Occasion::Sample => "sample",
            Occasion::Suspects(_) => "suspect",
        }
    }
}

/// The object with its maps.
pub(super) struct Programs {
    object: Ebpf,
    own_pid: u32,
    settings: Array<MapData, [u32; 2]>,
    suspects: HashMap<MapData, u32, u64>,
    sequences: HashMap<MapData, u32, [u8; SEQUENCE_BYTES]>,
    calls: HashMap<MapData, [u8; 8], u64>,
    unplaced: PerCpuArray<MapData, u64>,
    /// What `unplaced` was at the end of the window before.
    unplaced_before: u64,
}

impl Programs {
    pub(super) fn load(btf: &Btf, own_pid: u32) -> Result<Self, FamilyError> {
        let mut object = EbpfLoader::new()
            .btf(Some(btf))
            .load(fleetmend_ebpf::profile_object())
            .map_err(|source| FamilyError::Object {
                family: "profile",
                source: Box::new(source),
            })?;
        program(&mut object)
            .and_then(RawTracePoint::load)
            .map_err(refused)?;
        let mut maps = Maps(&mut object);
        macro_rules! map {
            ($type:ty, $name:literal) => {
                <$type>::try_from(maps.take($name)?).map_err(map_error($name))?
            };
        }
        Ok(Self {
            settings: map!(Array<MapData, [u32; 2]>, "PROFILE_SETTINGS"),
            suspects: map!(HashMap<MapData, u32, u64>, "SUSPECTS"),
            sequences: map!(HashMap<MapData, u32, [u8; SEQUENCE_BYTES]>, "SEQUENCES"),
            calls: map!(HashMap<MapData, [u8; 8], u64>, "CALLS"),
            unplaced: map!(PerCpuArray<MapData, u64>, "UNPLACED"),
            unplaced_before: 0,
            object,
            own_pid,
        })
    }

    /// Counts calls for so long.
    pub(super) fn window(&mut self, occasion: &Occasion, length: Duration) -> Result<Taken, FamilyError> {
        let suspects: &[ProcessKey] = match occasion {
            Occasion::Sample => &[],
            Occasion::Suspects(keys) => keys,
        };
        let taken = self.count(suspects, length);
        for key in suspects {
            // Two of them may have had one number, or the first failed to be put there.
            if let Err(error) = self.suspects.remove(&key.pid) {
                tracing::debug!(%error, "a suspect is not there to be taken out");
            }
        }
        taken
    }

    /// Counts the calls of these, or of all when there are none.
    fn count(&mut self, suspects: &[ProcessKey], length: Duration) -> Result<Taken, FamilyError> {
        for key in suspects {
            self.suspects
                .insert(key.pid, key.start_boot_ns, ANY)
                .map_err(map_error("SUSPECTS"))?;
        }
        let settings = profile_settings(!suspects.is_empty(), self.own_pid);
        self.settings
            .set(0, settings, ANY)
            .map_err(map_error("PROFILE_SETTINGS"))?;
        let from = TimeMicros::now();
        let began = Instant::now();
        let link = program(&mut self.object)
            .and_then(|program| program.attach(TRACEPOINT))
            .map_err(refused)?;
        std::thread::sleep(length);
        program(&mut self.object)
            .and_then(|program| program.detach(link))
            .map_err(refused)?;
        let span = began.elapsed();
        self.read(from, span)
    }

    /// Takes what was counted out of the maps.
    fn read(&mut self, from: TimeMicros, span: Duration) -> Result<Taken, FamilyError> {
        let mut counts: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
        let calls: Vec<([u8; 8], u64)> = self.calls.iter().flatten().collect();
        for (key, count) in calls {
            if let Ok(key) = ProfileKey::parse(&key) {
                counts.entry(key.pid).or_default().insert(key.call, count);
            }
            self.calls.remove(&key).map_err(map_error("CALLS"))?;
        }
        let sequences: Vec<(u32, [u8; SEQUENCE_BYTES])> = self.sequences.iter().flatten().collect();
        for (pid, _) in &sequences {
            self.sequences.remove(pid).map_err(map_error("SEQUENCES"))?;
        }
        let unplaced = self.unplaced.get(&0, 0).map_err(map_error("UNPLACED"))?;
        let unplaced = unplaced
            .iter()
            .fold(0_u64, |sum, count| sum.saturating_add(*count));
        let before = std::mem::replace(&mut self.unplaced_before, unplaced);
        Ok(Taken {
            from,
            span,
            counts,
            sequences,
            unplaced: unplaced.saturating_sub(before),
        })
    }
}

fn program(object: &mut Ebpf) -> Result<&mut RawTracePoint, ProgramError> {
    object
        .program_mut(PROGRAM)
        .ok_or_else(|| ProgramError::InvalidName {
            name: PROGRAM.to_owned(),
        })?
        .try_into()
}

fn refused(source: ProgramError) -> FamilyError {
    FamilyError::Program {
        program: PROGRAM,
        hook: format!("raw_tp {TRACEPOINT}"),
        source,
    }
}

/// What one window counted.
pub(super) struct Taken {
    from: TimeMicros,
    span: Duration,
    counts: BTreeMap<u32, BTreeMap<u32, u64>>,
    sequences: Vec<(u32, [u8; SEQUENCE_BYTES])>,
    unplaced: u64,
}

impl Taken {
    /// Processes that found no place: how many is not known.
    pub(super) fn gap(&self) -> Option<Gap> {
        (self.unplaced > 0).then(|| Gap {
            time: TimeMicros::now(),
            table: SyscallProfile::NAME.to_owned(),
            lane: SyscallProfile::LANE,
            from_time: self.from,
            to_time: TimeMicros::now(),
            count: 1,
            exactness: Exactness::AtLeast,
            stage: GapStage::Kernel,
            reason: "map_full".to_owned(),
        })
    }

    /// One row for each process.
    pub(super) fn rows(mut self, inventory: &Inventory, occasion: &str) -> Vec<SyscallProfile> {
        let span_us = u64::try_from(self.span.as_micros()).unwrap_or(u64::MAX);
        let time = TimeMicros::now();
        let mut rows = Vec::new();
        for (pid, bytes) in std::mem::take(&mut self.sequences) {
            let Ok(head) = ProfileSequence::parse(&bytes) else {
                continue;
            };
            let key = ProcessKey::new(pid, head.start_ns);
            let counted = self.counts.remove(&pid).unwrap_or_default();
            rows.push(SyscallProfile {
                time,
                span_us,
                pid,
                start_boot_ns: key.start_boot_ns,
                comm: text(&head.comm),
                exe: inventory.get(key).and_then(|process| process.program.exe.clone()),
                occasion: occasion.to_owned(),
                calls: counted.keys().copied().collect(),
                counts: counted.values().copied().collect(),
                sequence: head.order(&bytes).unwrap_or_default(),
                dropped: u64::from(head.dropped),
            });
        }
        rows
    }
}
