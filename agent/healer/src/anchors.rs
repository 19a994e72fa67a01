//! Files that only root may have written: the trust bundle, the host's id, the lock.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use fleetmend_event::HostId;
use fleetmend_identity::{TrustBundle, files};

use crate::engine::Options;
use crate::error::OpenError;
use crate::policy::WhoWeAre;

/// Reads who this host is; what is not there yet is none, what others own or may change is refused.
pub(crate) fn who_we_are(options: &Options) -> Result<WhoWeAre, OpenError> {
    let mut us = WhoWeAre::default();
    if is_ours(&options.trust_bundle)? {
        let (_, bundle) = TrustBundle::read(&options.trust_bundle)?;
        us.anchors = Some(bundle.anchors());
        us.fleet = Some(bundle.fleet);
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
