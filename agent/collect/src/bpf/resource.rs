//! Family `resource`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{SyscallProfile, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec = absent(
    Family::Resource,
    SyscallProfile::NAME,
    SyscallProfile::ID,
    Lane::Events,
);
