//! no_new_privs, capabilities, and who may look into us.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use super::SandboxError;

/// No program raises our privileges, and no process of our user reads our memory, where the TLS key is.
pub(super) fn forbid_new() -> Result<(), SandboxError> {
    let failed = |attribute| move |source| SandboxError::Attribute { attribute, source };
    prctl::set_no_new_privs().map_err(failed("no_new_privs"))?;
    prctl::set_dumpable(false).map_err(failed("dumpable"))
}

pub(super) fn are_final() -> Result<bool, SandboxError> {
    prctl::get_no_new_privs().map_err(|source| SandboxError::Attribute {
        attribute: "no_new_privs",
        source,
    })
}

/// Keeps what is both wanted and there; true when the bounding set could be emptied too.
pub(super) fn reduce(wanted: &[Capability]) -> Result<bool, SandboxError> {
    let failed = |set| move |source| SandboxError::Capabilities { set, source };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed("permitted"))?;
    let keep: CapsHashSet = wanted
        .iter()
        .copied()
        .filter(|one| permitted.contains(one))
        .collect();

    // Needs CAP_SETPCAP, which an agent started as its own user does not have; no_new_privs covers that case.
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed("bounding"))?;
    let may_empty = permitted.contains(&Capability::CAP_SETPCAP);
    if may_empty {
        for one in &bounding {
            caps::drop(None, CapSet::Bounding, *one).map_err(failed("bounding"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("ambient"))?;
    caps::set(None, CapSet::Effective, &keep).map_err(failed("effective"))?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed("inheritable"))?;
    caps::set(None, CapSet::Permitted, &keep).map_err(failed("permitted"))?;
    Ok(may_empty || bounding.is_empty())
}

pub(super) fn effective() -> Result<Vec<String>, SandboxError> {
    let set = "effective";
    let effective =
        caps::read(None, CapSet::Effective).map_err(|source| SandboxError::Capabilities { set, source })?;
    let mut names: Vec<String> = effective.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}
