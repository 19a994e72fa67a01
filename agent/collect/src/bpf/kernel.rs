//! Family `kernel`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{KernelEvent, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec =
    absent(Family::Kernel, KernelEvent::NAME, KernelEvent::ID, Lane::Critical);
