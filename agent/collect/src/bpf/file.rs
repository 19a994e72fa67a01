//! Family `file`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{FileEvent, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec = absent(Family::File, FileEvent::NAME, FileEvent::ID, Lane::Events);
