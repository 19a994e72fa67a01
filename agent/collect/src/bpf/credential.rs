//! Family `credential`: none in this build.

use fleetmend_ebpf::Family;
use fleetmend_event::Lane;
use fleetmend_event::table::{CredentialEvent, Table};

use super::spec::{FamilySpec, absent};

pub(super) static SPEC: FamilySpec = absent(
    Family::Credential,
    CredentialEvent::NAME,
    CredentialEvent::ID,
    Lane::Critical,
);
