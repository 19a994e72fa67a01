//! Files that only root may have written: the trust bundle, the host's id, the lock.
//!
//! `enroll` writes the trust bundle. When the fleet's keys are rotated, the bundles after it come over the socket
//! and are kept in [`CHAIN_FILE`], each signed by a root of the one before it and the first by one of the bundle of
//! enrolment. The chain is verified whole from there each time, so that a new enrolment counts by itself: bundles
//! that do not follow from it are passed over. What is kept is as short as still leads to the newest.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use fleetmend_event::HostId;
use fleetmend_identity::{Signed, TrustBundle, files};

use crate::engine::Options;
use crate::error::{OpenError, TrustError};
use crate::policy::WhoWeAre;

/// In the state folder: a JSON array of signed bundles, oldest first, mode 0600.
pub(crate) const CHAIN_FILE: &str = "trust-chain.json";
/// Bundles that are kept: one for each change of the root since the host enrolled, and the newest. About 3 KiB each.
const CHAIN_MAX: usize = 64;

/// What is trusted, and by what it came to be.
struct Trust {
    enrolled: TrustBundle,
    present: TrustBundle,
    chain: Vec<Signed<TrustBundle>>,
}

impl Trust {
    /// `None` before the host was enrolled as root.
    fn read(options: &Options) -> Result<Option<Self>, OpenError> {
        if !is_ours(&options.trust_bundle)? {
            return Ok(None);
        }
        let (_, enrolled) = TrustBundle::read(&options.trust_bundle)?;
        let path = options.state_dir.join(CHAIN_FILE);
        // A chain that cannot be read is no reason to believe in older keys again: it is an error, not an empty one.
        let kept = if is_ours(&path)? {
            parse_chain(&files::read_private(&path)?.unwrap_or_default()).map_err(|reason| {
                fleetmend_identity::IdentityError::Content {
                    path,
                    what: "chain of trust bundles; enrol this host anew as root, and remove the file",
                    reason,
                }
            })?
        } else {
            Vec::new()
        };
        let (present, chain) = shortest(&enrolled, kept);
        Ok(Some(Self {
            enrolled,
            present,
            chain,
        }))
    }
}

/// The bundles in a chain file. Nothing is trusted yet.
pub(crate) fn parse_chain(bytes: &[u8]) -> Result<Vec<Signed<TrustBundle>>, String> {
    let chain: Vec<Signed<TrustBundle>> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if chain.len() > CHAIN_MAX {
        return Err(format!("it has more than {CHAIN_MAX} bundles"));
    }
    Ok(chain)
}

/// What `chain` leads to from `enrolled`, and the fewest of its bundles that do.
fn shortest(
    enrolled: &TrustBundle,
    chain: Vec<Signed<TrustBundle>>,
) -> (TrustBundle, Vec<Signed<TrustBundle>>) {
    let (mut present, mut kept, mut rest) = (enrolled.clone(), Vec::new(), chain);
    loop {
        let farthest = rest.iter().enumerate().rev().find_map(|(index, signed)| {
            let next = present.open_newer(signed).ok().flatten()?;
            Some((index, next))
        });
        let Some((index, next)) = farthest else {
            return (present, kept);
        };
        let after = rest.split_off(index.saturating_add(1));
        kept.extend(rest.pop());
        (present, rest) = (next, after);
    }
}

/// Believes a bundle that follows from the one in force, and keeps it. False when it is the one in force.
pub(crate) fn advance(options: &Options, bundle: &[u8]) -> Result<bool, TrustError> {
    let unreadable = |error: OpenError| TrustError::Anchors(format!("{:#}", anyhow::Error::from(error)));
    let trust = Trust::read(options)
        .map_err(unreadable)?
        .ok_or(TrustError::NoAnchors)?;
    let signed = Signed::<TrustBundle>::from_bytes(bundle)?;
    let Some(_) = trust.present.open_newer(&signed)? else {
        return Ok(false);
    };
    let mut chain = trust.chain;
    chain.push(signed);
    let (_, chain) = shortest(&trust.enrolled, chain);
    if chain.len() > CHAIN_MAX {
        return Err(TrustError::TooMany(CHAIN_MAX));
    }
    let bytes = serde_json::to_vec(&chain).map_err(|error| TrustError::Anchors(error.to_string()))?;
    files::write_private(&options.state_dir.join(CHAIN_FILE), &bytes).map_err(TrustError::Keep)?;
    Ok(true)
}

/// Reads who this host is; what is not there yet is none, what others own or may change is refused.
pub(crate) fn who_we_are(options: &Options) -> Result<WhoWeAre, OpenError> {
    let mut us = WhoWeAre::default();
    if let Some(trust) = Trust::read(options)? {
        us.anchors = Some(trust.present.anchors());
        us.bundle_version = Some(trust.present.version);
        us.fleet = Some(trust.present.fleet);
    } else {
        tracing::warn!(path = %options.trust_bundle.display(), "there is no trust bundle: no policy can be installed");
    }
    let Some(path) = options.host_file.as_deref() else {
        return Ok(us);
    };
    if is_ours(path)? {
        let bytes = files::read_trusted(path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        us.host = text.trim().parse::<HostId>().ok();
        if us.host.is_none() {
            tracing::error!(path = %path.display(), "file does not hold a host id: policies for hosts are refused");
        }
    }
    Ok(us)
}

/// Whether the file is there; one that belongs to somebody else is an error.
fn is_ours(path: &Path) -> Result<bool, OpenError> {
    let fault = |action, source| OpenError::File {
        action,
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(fault("inspect", error)),
        Ok(found) if found.uid() == rustix::process::geteuid().as_raw() => Ok(true),
        Ok(found) => {
            let reason = format!(
                "it belongs to uid {}, and must belong to the healer's",
                found.uid()
            );
            Err(fault("trust", std::io::Error::other(reason)))
        }
    }
}

/// Keeps a second healer off the same state.
pub(crate) fn hold(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join("lock");
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = opened.map_err(|source| OpenError::File {
        action: "open",
        path: path.clone(),
        source,
    })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(OpenError::Held(path)),
    }
}
