//! Whether a grant's scope covers a target.

use std::path::Path;

use super::Sight;
use crate::glob;
use crate::policy::{Grant, Place, ProcessScope};
use crate::procfs::ProcessSight;

/// Whether the grant covers the target as it is seen.
pub(super) fn covers(grant: &Grant, sight: &Sight) -> bool {
    match (grant, sight) {
        (Grant::ThrottleProcess { scope, .. }, Sight::Process(process)) => covers_process(scope, process),
        (Grant::KillProcess { scope, .. }, Sight::Process(process)) => covers_process(scope, process),
        (Grant::FreeDisk { .. }, Sight::Folder { path, .. }) => !places_for(grant, path).is_empty(),
        (Grant::RestartUnit { units, .. }, Sight::Unit(unit)) => {
            units.iter().any(|pattern| glob::matches(pattern, &unit.id))
        }
        _ => false,
    }
}

/// Places of the grant that lie at or below `path`; which of them are on its filesystem is seen when they are
/// opened.
pub fn places_for<'g>(grant: &'g Grant, path: &Path) -> Vec<&'g Place> {
    match grant {
        Grant::FreeDisk { places, .. } => places
            .iter()
            .filter(|place| place.path.starts_with(path))
            .collect(),
        _ => Vec::new(),
    }
}

fn covers_process(scope: &ProcessScope, process: &ProcessSight) -> bool {
    let in_group = |prefix: &String| {
        process
            .cgroups
            .iter()
            .any(|(_, path)| Path::new(path).starts_with(prefix))
    };
    let groups = scope.cgroup_prefixes.is_empty() || scope.cgroup_prefixes.iter().any(in_group);
    let is_program = |pattern: &String| {
        process
            .executable
            .as_deref()
            .is_some_and(|exe| glob::matches(pattern, exe))
    };
    let programs = scope.executables.is_empty() || scope.executables.iter().any(is_program);
    let says_something = !(scope.cgroup_prefixes.is_empty() && scope.executables.is_empty());
    says_something && groups && programs
}
