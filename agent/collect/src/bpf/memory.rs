//! Family `memory`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{MemoryEvent, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec =
    absent(Family::Memory, MemoryEvent::NAME, MemoryEvent::ID, Lane::Critical);
