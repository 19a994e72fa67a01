//! What may fail while a family is loaded.

use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::{BtfError, EbpfError};

/// A family could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FamilyError {
    /// The kernel does not describe its types.
    #[error("cannot read the kernel's types at /sys/kernel/btf/vmlinux")]
    NoBtf {
        /// Why.
        source: BtfError,
    },
    /// The object cannot be parsed, moved to this kernel's layout, or its maps were refused.
    #[error("cannot prepare the probes of family {family}")]
    Object {
        /// The family.
        family: &'static str,
        /// Why.
        source: Box<EbpfError>,
    },
    /// A map is missing, is of another kind, or cannot be used.
    #[error("cannot use map {map} of the probes")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: Box<MapError>,
    },
    /// The kernel refused a program.
    #[error("the kernel refused probe {program} on {hook}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Where it belongs.
        hook: String,
        /// Why.
        source: ProgramError,
    },
}
