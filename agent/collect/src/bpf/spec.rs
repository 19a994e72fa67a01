//! What a family is: its duties, the ways to keep each, and what becomes of its records.
//!
//! A family is a file beside this one with a [`FamilySpec`] and a [`Handler`]; [`SPECS`] lists them, and nothing else
//! knows them by name.

use aya::maps::{Map, MapError};
use aya::{Ebpf, EbpfLoader};
use fleetmend_ebpf::Family;
use fleetmend_ebpf::abi::AbiError;
use fleetmend_event::{Fact, Lane};

use super::config::BpfConfig;
use super::enrich::Enricher;
use super::error::FamilyError;
use super::{credential, file, kernel, memory, network, process, resource, signal};

/// Every family, in the order in which they are loaded. Rings are read critical lane first.
pub(crate) static SPECS: &[&FamilySpec] = &[
    &process::SPEC,
    &network::SPEC,
    &file::SPEC,
    &credential::SPEC,
    &memory::SPEC,
    &kernel::SPEC,
    &signal::SPEC,
    &resource::SPEC,
];

/// One family.
pub(crate) struct FamilySpec {
    pub(crate) family: Family,
    /// Table of its rows, for gaps.
    pub(crate) table: &'static str,
    pub(crate) table_id: u16,
    pub(crate) lane: Lane,
    /// At most `abi::DUTIES_MAX`; a duty's place here is its number in the object.
    pub(crate) duties: &'static [Duty],
    /// What the hooks cannot know, as half a sentence.
    pub(crate) limits: &'static str,
    /// What is shed when the family is over its budget, the first to go first; a level's number in the object is its
    /// place here plus one. Empty: never sheds.
    pub(crate) shed: &'static [&'static str],
    /// Sizes of maps and such, before the object is loaded.
    pub(crate) prepare: for<'a> fn(&mut EbpfLoader<'a>, &'a BpfConfig),
    pub(crate) handler: fn(&BpfConfig) -> Box<dyn Handler>,
}

/// Something that a family tells.
#[derive(Debug)]
pub(crate) struct Duty {
    pub(crate) name: &'static str,
    /// Tried in order; the first that the kernel takes serves.
    pub(crate) ways: &'static [Way],
}

/// One way to keep a duty: all of its hooks together.
#[derive(Debug)]
pub(crate) struct Way {
    /// As status shows it.
    pub(crate) name: &'static str,
    pub(crate) hooks: &'static [Hook],
}

/// A program and where it is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) program: &'static str,
    pub(crate) at: At,
    /// Whether the way serves without it: calls that this architecture or kernel has not.
    pub(crate) optional: bool,
}

impl Hook {
    pub(crate) const fn new(program: &'static str, at: At) -> Self {
        Self {
            program,
            at,
            optional: false,
        }
    }

    /// A hook that a kernel may lack without a loss.
    pub(crate) const fn optional(program: &'static str, at: At) -> Self {
        Self {
            program,
            at,
            optional: true,
        }
    }
}

/// A place in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Tracepoint, with the types that the verifier knows.
    BtfTracepoint(&'static str),
    /// Tracepoint, with plain reads.
    RawTracepoint(&'static str),
    /// Tracepoint by category and name.
    Tracepoint(&'static str, &'static str),
    /// Beginning of a function.
    #[allow(dead_code, reason = "for families that this build may lack")]
    Fentry(&'static str),
    /// Return of a function.
    Fexit(&'static str),
    /// Security hook.
    #[allow(dead_code, reason = "for families that this build may lack")]
    Lsm(&'static str),
    /// Beginning of a function, by a breakpoint.
    #[allow(dead_code, reason = "for families that this build may lack")]
    Kprobe(&'static str),
    /// Nowhere: serves only where this file is absent, for the kernel has not what there would be to tell.
    Absent(&'static str),
}

impl At {
    /// What kind of hook, as words.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            At::BtfTracepoint(_) => "tp_btf",
            At::RawTracepoint(_) => "raw_tp",
            At::Tracepoint(..) => "tracepoint",
            At::Fentry(_) => "fentry",
            At::Fexit(_) => "fexit",
            At::Lsm(_) => "lsm",
            At::Kprobe(_) => "kprobe",
            At::Absent(_) => "absent",
        }
    }

    /// What it is attached to.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            At::BtfTracepoint(name)
            | At::RawTracepoint(name)
            | At::Tracepoint(_, name)
            | At::Fentry(name)
            | At::Fexit(name)
            | At::Lsm(name)
            | At::Kprobe(name)
            | At::Absent(name) => name,
        }
    }
}

/// What becomes of a family's records. Runs on the drain's thread: nothing here may wait.
pub(crate) trait Handler: Send {
    /// Once, before the first record: maps to fill or to keep.
    fn begin(&mut self, _maps: &mut Maps<'_>, _cx: &mut Enricher) -> Result<(), FamilyError> {
        Ok(())
    }

    /// Makes rows of a record.
    fn record(&mut self, bytes: &[u8], cx: &mut Enricher, out: &mut Vec<Fact>) -> Result<(), AbiError>;

    /// Whether records of this kind become rows also while the agent is over its own budget.
    fn wanted_at_slow_pace(&self, _kind: u16) -> bool {
        false
    }

    /// A record that is not wanted now: what runs is to be known all the same.
    fn follow(&mut self, _bytes: &[u8], _cx: &mut Enricher) {}

    /// About once a second: what lies in maps becomes rows. `out` is sent at once.
    fn tick(&mut self, _cx: &mut Enricher, _out: &mut Vec<Fact>) {}
}

/// The maps of a loaded object.
pub(crate) struct Maps<'a>(pub(super) &'a mut Ebpf);

impl Maps<'_> {
    /// Takes a map out of the object.
    pub(crate) fn take(&mut self, name: &'static str) -> Result<Map, FamilyError> {
        self.0.take_map(name).ok_or(FamilyError::Map {
            map: name,
            source: Box::new(MapError::InvalidName {
                name: name.to_owned(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use fleetmend_ebpf::abi::DUTIES_MAX;

    use super::*;

    #[test]
    fn every_family_is_listed_once_and_its_duties_fit() {
        let listed: Vec<Family> = SPECS.iter().map(|spec| spec.family).collect();
        assert_eq!(listed, Family::ALL);
        for spec in SPECS {
            assert!(spec.duties.len() <= DUTIES_MAX, "{}", spec.family.as_str());
            for duty in spec.duties {
                assert!(!duty.ways.is_empty(), "{}", duty.name);
                for way in duty.ways {
                    assert!(
                        way.hooks.iter().any(|hook| !hook.optional) || way.hooks.len() > 1,
                        "{}",
                        way.name
                    );
                }
            }
            assert_eq!(
                spec.duties.is_empty(),
                spec.family.object().is_none(),
                "{}",
                spec.family.as_str()
            );
        }
    }

    /// A duty is a number to the object, and the place in the list here.
    #[test]
    fn duties_have_the_numbers_of_their_objects() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ebpf/src");
        for spec in SPECS.iter().filter(|spec| spec.family.object().is_some()) {
            let family = spec.family.as_str();
            let source = std::fs::read_to_string(sources.join(format!("{family}.bpf.c"))).unwrap();
            let (_, rest) = source.split_once("enum duty {").expect(family);
            let (list, _) = rest.split_once('}').expect(family);
            let numbered: Vec<(String, usize)> = list
                .split("DUTY_")
                .skip(1)
                .enumerate()
                .map(|(place, entry)| {
                    let (entry, _) = entry.split_once(',').unwrap_or((entry, ""));
                    let (name, number) = match entry.split_once('=') {
                        Some((name, number)) => (name, number.trim().parse().expect(entry)),
                        None => (entry, place),
                    };
                    (name.trim().to_ascii_lowercase(), number)
                })
                .collect();
            assert_eq!(numbered.len(), spec.duties.len(), "{family}: {numbered:?}");
            for ((name, number), (place, duty)) in numbered.iter().zip(spec.duties.iter().enumerate()) {
                assert!(
                    duty.name.starts_with(name),
                    "{family}: {name} is not {}",
                    duty.name
                );
                assert_eq!(*number, place, "{family}: {name}");
            }
        }
    }
}
