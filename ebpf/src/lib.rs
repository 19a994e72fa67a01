//! The kernel's half of the sensor: one CO-RE object per probe family, and the records that they write.
//!
//! Each family is a C file of its own (`process.bpf.c`, `network.bpf.c`, …) compiled by the build script into an
//! object that loads on any kernel with BTF, because every access to a kernel struct is moved to that kernel's
//! layout at load time. A kernel that refuses one object, or one program of it, still runs the others. Which programs
//! do which duty, and what is tried when one is refused, is the agent's table (`agent-collect`).
//!
//! Invariants:
//! - an object has the maps of `probe.h`: a ring `RING`, per-CPU counters `COUNTS` (places in [`abi::Counter`]), times
//!   `TIMES`, and `SETTINGS`;
//! - an event is counted as seen exactly once, and then as exactly one of filtered, aggregated, delivered, lost or shed;
//! - records are little-endian, have no implicit padding, and are read by [`abi`] field by field: bytes that are
//!   too short or of an unknown kind are an error, never a panic;
//! - [`abi::VERSION`] changes with any layout.
//!
//! The C files and their objects are GPL-2.0-only (see `LICENSE` here), the rest is Apache-2.0.
//! Nothing here runs: loading and draining are the agent's (`agent-collect`).

pub mod abi;

/// Bytes that start on an eight-byte boundary, as an ELF parser wants them.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// A group of probes in one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Exec, fork and exit of processes.
    Process,
    /// Connect, listen, accept and close of TCP sockets.
    Network,
    /// What is done to files.
    File,
    /// Changes of users, groups and capabilities.
    Credential,
    /// Acts on memory, of the process itself or of another.
    Memory,
    /// Changes of the kernel's own state.
    Kernel,
    /// Signals, and kills for lack of memory.
    Signal,
    /// What processes use: calls, waits, the disk, the network.
    Resource,
}

impl Family {
    /// Every family.
    pub const ALL: &'static [Family] = &[
        Family::Process,
        Family::Network,
        Family::File,
        Family::Credential,
        Family::Memory,
        Family::Kernel,
        Family::Signal,
        Family::Resource,
    ];

    /// The word that stands for the family in status rows; also the name of its files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Process => "process",
            Family::Network => "network",
            Family::File => "file",
            Family::Credential => "credential",
            Family::Memory => "memory",
            Family::Kernel => "kernel",
            Family::Signal => "signal",
            Family::Resource => "resource",
        }
    }

    /// The compiled object; `None` when this build has none.
    pub fn object(self) -> Option<&'static [u8]> {
        let of =
            |(name, object): &(&str, &'static Aligned<[u8]>)| (*name == self.as_str()).then_some(&object.0);
        OBJECTS.iter().find_map(of)
    }
}

/// Name of the object that profiles system calls. It is no family: it hands no records over, and is attached for
/// short whiles only.
const PROFILE: &str = "profile";

/// The object that profiles system calls.
pub fn profile_object() -> &'static [u8] {
    let found = OBJECTS.iter().find(|(name, _)| *name == PROFILE);
    found.map(|(_, object)| &object.0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_belongs_to_a_family() {
        assert!(profile_object().starts_with(b"\x7fELF"));
        for (name, object) in OBJECTS {
            let is_family = Family::ALL.iter().any(|family| family.as_str() == *name);
            assert!(is_family || *name == PROFILE, "{name}");
            assert!(object.0.starts_with(b"\x7fELF"), "{name}");
        }
        assert!(Family::Process.object().is_some());
    }
}
