//! Replacing a collector's online keys, and with them, when asked, the fleet root.
//!
//! | stage | bundle lists | collector uses | signed by |
//! |---|---|---|---|
//! | before | old | old | old root |
//! | [`Stage::Introduce`] | old and new | old | old root |
//! | [`Stage::Switch`] | old and new | new | new root |
//! | [`Stage::Retire`] | new | new | new root |
//!
//! Where a rotation is stands in the files themselves, so that a stage that was taken and not reported is found
//! out by asking for it again. A host takes a bundle over together with a certificate; a host that has seen the
//! bundle of a stage therefore holds a certificate that outlasts the next stage. Who has seen which is known to
//! the enrolment tables, not here: the caller asks them before each stage.

use std::path::Path;

use fleetmend_event::TimeMicros;

use super::CollectorAuthority;
use super::material::{CROSS_MAX, Generation, HISTORY_MAX, Material};
use crate::{Context, FleetRoot, IdentityError, TrustBundle};

/// One step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The new keys are made and the bundle lists them beside the old ones.
    Introduce,
    /// The collector uses the new keys.
    Switch,
    /// The bundle lists the new ones alone.
    Retire,
}

/// What is being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationKind {
    /// Online key and issuing certificate.
    Online,
    /// These and the fleet root.
    Root,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationState {
    /// None is under way.
    Idle,
    /// Old and new are listed, the old is used.
    Introduced(RotationKind),
    /// Old and new are listed, the new is used.
    Switched(RotationKind),
}

/// What a stage did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// It was taken: this is the version of the bundle now.
    Done(u64),
    /// It had been taken before; nothing was changed.
    Already(u64),
}

impl CollectorAuthority {
    /// How far a rotation in `folder` is.
    pub fn rotation(folder: &Path) -> Result<RotationState, IdentityError> {
        state_of(&Material::read(folder)?)
    }

    /// Takes a stage of a rotation of the authority in `folder`. `root` is the fleet's present root, and `successor`
    /// the new one when the root is replaced too.
    ///
    /// Crash-safe and idempotent: see the module.
    pub fn rotate(
        folder: &Path,
        stage: Stage,
        root: &FleetRoot,
        successor: Option<&FleetRoot>,
        now: TimeMicros,
    ) -> Result<Rotated, IdentityError> {
        let material = Material::read(folder)?;
        let bundle = material.opened()?;
        let asked = if successor.is_some() {
            RotationKind::Root
        } else {
            RotationKind::Online
        };
        let state = state_of(&material)?;
        if let RotationState::Introduced(kind) | RotationState::Switched(kind) = state
            && kind != asked
        {
            return refuse(match kind {
                RotationKind::Online => "a rotation of the online key is under way; finish it first",
                RotationKind::Root => "a rotation of the fleet root is under way; finish it first",
            });
        }
        let done = match (stage, state) {
            (Stage::Introduce, RotationState::Idle) => introduced(material, &bundle, root, successor, now)?,
            (Stage::Switch, RotationState::Introduced(_)) => {
                switched(material, &bundle, successor.unwrap_or(root), now)?
            }
            (Stage::Retire, RotationState::Switched(_)) => {
                retired(material, &bundle, successor.unwrap_or(root), now)?
            }
            (Stage::Switch, RotationState::Idle) => {
                return refuse("nothing was introduced; take the stage introduce first");
            }
            (Stage::Retire, RotationState::Introduced(_)) => {
                return refuse("the collector still uses the old keys; take the stage switch first");
            }
            (Stage::Introduce, _) | (Stage::Switch, _) | (Stage::Retire, RotationState::Idle) => {
                return Ok(Rotated::Already(bundle.version));
            }
        };
        done.replace(folder)?;
        Ok(Rotated::Done(done.opened()?.version))
    }
}

fn refuse<T>(reason: &str) -> Result<T, IdentityError> {
    Err(IdentityError::Rotation(reason.to_owned()))
}

fn state_of(material: &Material) -> Result<RotationState, IdentityError> {
    let bundle = material.opened()?;
    let name = &material.active.check(&bundle)?.name;
    let entries = bundle
        .collectors
        .iter()
        .filter(|entry| entry.name == *name)
        .count();
    let kind = if bundle.roots.len() > 1 {
        RotationKind::Root
    } else {
        RotationKind::Online
    };
    Ok(match (entries, &material.next) {
        (1, _) => RotationState::Idle,
        (_, Some(_)) => RotationState::Introduced(kind),
        (_, None) => RotationState::Switched(kind),
    })
}

fn introduced(
    mut material: Material,
    bundle: &TrustBundle,
    root: &FleetRoot,
    successor: Option<&FleetRoot>,
    now: TimeMicros,
) -> Result<Material, IdentityError> {
    let name = material.active.check(bundle)?.name.clone();
    let mut next = bundle.clone();
    if let Some(successor) = successor {
        if successor.fleet() != &bundle.fleet {
            return refuse("the new root is of another fleet");
        }
        if bundle.roots.iter().any(|entry| entry.key == successor.public()) {
            return refuse("the new root is the present one");
        }
        next.roots.push(successor.entry());
        // The newest first: the oldest fall off.
        let vouched = [root.vouch(successor, now)?, root.certificate().clone()];
        material.cross.splice(0..0, vouched);
        material.cross.truncate(CROSS_MAX);
    }
    let made = Generation::make(successor.unwrap_or(root), &name, now)?;
    next.collectors.push(made.entry(name));
    material.next = Some(made);
    sign(material, bundle, next, root, now)
}

fn switched(
    mut material: Material,
    bundle: &TrustBundle,
    root: &FleetRoot,
    now: TimeMicros,
) -> Result<Material, IdentityError> {
    let Some(made) = material.next.take() else {
        return refuse("there are no new keys");
    };
    made.check(bundle)?;
    // The private half of the old keys is not needed any more: what they signed is verified by the bundle.
    material.active = made;
    sign(material, bundle, bundle.clone(), root, now)
}

fn retired(
    material: Material,
    bundle: &TrustBundle,
    root: &FleetRoot,
    now: TimeMicros,
) -> Result<Material, IdentityError> {
    let kept = material.active.check(bundle)?.clone();
    let mut next = bundle.clone();
    next.roots.retain(|entry| entry.key == root.public());
    next.collectors
        .retain(|entry| entry.name != kept.name || entry.online_key == kept.online_key);
    sign(material, bundle, next, root, now)
}

/// Makes `next` the present bundle, one version on, signed by `root`, which both bundles must list.
fn sign(
    mut material: Material,
    bundle: &TrustBundle,
    mut next: TrustBundle,
    root: &FleetRoot,
    now: TimeMicros,
) -> Result<Material, IdentityError> {
    let lists = |bundle: &TrustBundle| bundle.roots.iter().any(|entry| entry.key == root.public());
    if !lists(bundle) || !lists(&next) {
        let found: Vec<String> = bundle
            .roots
            .iter()
            .map(|entry| entry.key.fingerprint().short())
            .collect();
        return refuse(&format!(
            "the root {} is not one of the fleet's, which are {}",
            root.fingerprint().short(),
            found.join(", ")
        ));
    }
    next.version = bundle.version.saturating_add(1);
    next.created = now;
    let signed = root.sign(Context::Bundle, &next)?;
    bundle.open_successor(&signed)?;
    let before = std::mem::replace(&mut material.bundle, signed);
    material.history.push(before);
    let surplus = material.history.len().saturating_sub(HISTORY_MAX);
    material.history.drain(..surplus);
    Ok(material)
}
