//! Configuration, folders, and the identity's files.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use agent_spool::inspect::{self, InspectError};
use fleetmend_identity::{HostIdentity, IdentityError};
use nix::unistd::{Uid, User};

use super::report::{Check, chain};
use crate::config::AgentConfig;

/// Bits that let others write.
const OTHERS_WRITE: u32 = 0o022;
const MIB: u64 = 1024 * 1024;
/// With less room than this on the disk a warning is due, whatever the quotas are.
const FREE_BYTES_MIN: u64 = 64 * MIB;
const RUN_AS_ROOT: &str = "run this as root, or as the user that the agent runs as";

/// The configuration, and what it says of itself.
pub(super) fn configuration(path: &Path) -> (Check, Option<AgentConfig>) {
    match AgentConfig::load(path) {
        Ok(config) => (
            Check::ok("configuration", format!("{}: no faults", path.display())),
            Some(config),
        ),
        Err(faults) => (
            Check::failed(
                "configuration",
                faults.to_string(),
                "mend it; `fleetmend-agent config check` says whether it is well",
            ),
            None,
        ),
    }
}

/// The state folder and the spool.
pub(super) fn state(config: &AgentConfig) -> Vec<Check> {
    vec![folder("state folder", &config.state_dir), spool(config)]
}

fn folder(name: &'static str, path: &Path) -> Check {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(name, path, &error),
    };
    let (mode, owner) = (metadata.mode() & 0o7777, user(metadata.uid()));
    let shown = path.display();
    if !metadata.is_dir() {
        return Check::failed(
            name,
            format!("{shown} is not a folder"),
            "move it away, and start the agent again",
        );
    }
    if mode & OTHERS_WRITE != 0 {
        return Check::failed(
            name,
            format!(
                "{shown} may be written by others than {owner} (mode {mode:04o}): its keys could be replaced"
            ),
            format!("chmod go-w {shown}"),
        );
    }
    Check::ok(name, format!("{shown}, of {owner}, mode {mode:04o}"))
}

fn unreadable(name: &'static str, path: &Path, error: &io::Error) -> Check {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Check::failed(
            name,
            format!("{shown} is not there"),
            "start the service once, which makes it (systemctl start fleetmend-agent), or correct state_dir",
        ),
        io::ErrorKind::PermissionDenied => {
            Check::failed(name, format!("{shown} may not be read by this user"), RUN_AS_ROOT)
        }
        _ => Check::failed(name, format!("{shown}: {error}"), "look at the disk: dmesg"),
    }
}

fn user(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn spool(config: &AgentConfig) -> Check {
    let name = "spool";
    let path = &config.spool.folder;
    let report = match inspect::inspect(path) {
        Ok(report) => report,
        Err(InspectError::Absent { .. }) => {
            return Check::ok(
                name,
                format!("{} is not there yet; the agent makes it", path.display()),
            );
        }
        Err(InspectError::Denied { path }) => {
            return unreadable(name, &path, &io::ErrorKind::PermissionDenied.into());
        }
        Err(error) => {
            return Check::failed(
                name,
                chain(&error),
                "correct spool.folder, or move what lies there away",
            );
        }
    };
    let faults = report.faults();
    if faults > 0 {
        return Check::warning(
            name,
            format!("{}: {faults} damaged or missing ranges", path.display()),
            "fleetmend-agent spool verify shows them; the agent sets them aside at its next start and reports the gaps",
        );
    }
    let quotas = [
        config.spool.critical_quota,
        config.spool.events_quota,
        config.spool.metrics_quota,
    ];
    let quota: u64 = quotas.iter().map(|quota| quota.get()).sum();
    let (used, free) = (report.bytes(), free_bytes(path));
    let needed = quota.saturating_sub(used);
    let seen = format!(
        "{}, whole, {} of {} MiB used",
        path.display(),
        used / MIB,
        quota / MIB
    );
    match free {
        Some(free) if free < FREE_BYTES_MIN || free < needed => Check::warning(
            name,
            format!(
                "{seen}; its disk has {} MiB left where the spool may need {}",
                free / MIB,
                needed / MIB
            ),
            "make room, or lower the quotas in section spool: on a full disk the oldest metrics are shed first, and each loss is a gap row",
        ),
        _ => Check::ok(name, seen),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// The identity, when there is one that can be used.
pub(super) fn identity(config: &AgentConfig) -> (Check, Option<HostIdentity>) {
    let name = "identity";
    let path = config.identity_dir();
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (not_enrolled(), None),
        Err(error) => return (unreadable(name, &path, &error), None),
    };
    if metadata.mode() & OTHERS_WRITE != 0 {
        return (folder(name, &path), None);
    }
    let identity = match HostIdentity::load(&path) {
        Ok(Some(identity)) => identity,
        Ok(None) => return (not_enrolled(), None),
        Err(error) => {
            let next = if is_denied(&error) {
                RUN_AS_ROOT
            } else {
                "mend the file as said; when it is lost, remove the folder and enrol again with a new token: the host then gets a new id"
            };
            return (Check::failed(name, chain(&error), next), None);
        }
    };
    let foreign = owned_by_another(config, &path);
    let seen = format!(
        "host {} of fleet {}, key and certificate in {}",
        identity.host(),
        identity.fleet(),
        path.display()
    );
    let check = match foreign {
        Some((file, owner, agent)) => Check::failed(
            name,
            format!(
                "{seen}; {file} belongs to {owner}, and the agent runs as {agent}, which may not read it"
            ),
            format!("chown -R {agent}: {}", path.display()),
        ),
        None => Check::ok(name, seen),
    };
    (check, Some(identity))
}

/// The file of the trusted time cannot be used.
pub(super) fn trusted_time(error: &IdentityError) -> Check {
    let next = if is_denied(error) {
        RUN_AS_ROOT
    } else {
        "mend the file as said, or remove it: the time is then asked of the collector"
    };
    Check::failed("trusted time", chain(error), next)
}

fn is_denied(error: &IdentityError) -> bool {
    matches!(error, IdentityError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

fn not_enrolled() -> Check {
    Check::failed(
        "identity",
        "this host is not enrolled",
        "get a token where the collector is managed (fleetmend token create), then here, as root: fleetmend-agent enroll",
    )
}

/// A file that the owner of the state folder, as whom the agent runs, may not read.
fn owned_by_another(config: &AgentConfig, folder: &Path) -> Option<(String, String, String)> {
    let agent = std::fs::metadata(&config.state_dir).ok()?.uid();
    if agent == 0 {
        return None;
    }
    ["host.key", "identity.json"].iter().find_map(|file| {
        let owner = std::fs::metadata(folder.join(file)).ok()?.uid();
        (owner != agent).then(|| ((*file).to_owned(), user(owner), user(agent)))
    })
}
