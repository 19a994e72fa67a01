//! Family `signal`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{SignalEvent, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec = absent(Family::Signal, SignalEvent::NAME, SignalEvent::ID, Lane::Events);
