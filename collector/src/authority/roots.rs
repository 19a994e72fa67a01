//! The folders of the fleet root and of its successor.
//!
//! The successor is made in a folder beside the root's. When the old root is retired the two exchange their places
//! in one step, and the old one is given a name that says so; a crash in between is finished by asking again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fleetmend_identity::TrustBundle;
use fleetmend_identity::authority::Stage;
use fleetmend_identity::files;
use fleetmend_identity::name::FleetId;
use fleetmend_identity::root::FleetRoot;

use crate::init::make_root;

/// Opens the new root in `folder`; the first stage makes it.
pub(super) fn successor(folder: &Path, fleet: &FleetId, stage: Stage) -> Result<FleetRoot> {
    if stage == Stage::Introduce {
        return make_root(folder, fleet).context("make the new fleet root");
    }
    if !folder.exists() {
        bail!(
            "there is no new root in {}; take the stage introduce first, or name its folder with --new-root",
            folder.display()
        );
    }
    FleetRoot::open(folder).context("open the new fleet root")
}

fn is_listed(folder: &Path, bundle: &TrustBundle) -> Option<bool> {
    let root = FleetRoot::open(folder).ok()?;
    Some(bundle.roots.iter().any(|entry| entry.key == root.public()))
}

/// Whether the retired root already left its place: only what comes after is to be done.
pub(super) fn are_exchanged(root: &Path, next: &Path, bundle: &TrustBundle) -> bool {
    bundle.roots.len() == 1 && is_listed(root, bundle) == Some(true) && is_listed(next, bundle) != Some(true)
}

/// After the old root was retired: puts the new one into its place and returns where the old one is now. Nothing
/// when that was done before.
pub(super) fn settle(root: &Path, next: &Path, bundle: &TrustBundle) -> Result<Option<PathBuf>> {
    if is_listed(root, bundle) == Some(false) && is_listed(next, bundle) == Some(true) {
        files::exchange(root, next).context("put the new root into the place of the old one")?;
    }
    if is_listed(next, bundle) != Some(false) {
        return Ok(None);
    }
    let old = FleetRoot::open(next).context("open the retired root")?;
    let retired = root.with_extension(format!("retired-{}", old.fingerprint().short()));
    std::fs::rename(next, &retired)
        .with_context(|| format!("move the retired root to {}", retired.display()))?;
    Ok(Some(retired))
}
