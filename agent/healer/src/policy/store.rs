//! The installed policy: verified when it comes and again at every start, never replaced by an older one.

use std::path::{Path, PathBuf};

use fleetmend_event::HostId;
use fleetmend_identity::{Context, FleetId, SignatureError, Signed, TrustAnchors, files};

use super::{HostScope, Policy};

const POLICY_FILE: &str = "policy.json";

/// A policy was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is nothing to verify it with.
    #[error("there is no trust bundle on this host; enrol it as root first")]
    NoAnchors,
    /// What is there is not to be trusted.
    #[error("the trust bundle of this host cannot be read: {0}")]
    Anchors(String),
    /// Signature or form.
    #[error("the policy was refused: {0}")]
    Signature(#[from] SignatureError),
    /// Its content.
    #[error("the policy was refused: {0}")]
    Content(String),
    /// It is for other hosts.
    #[error("the policy is not for this host: {0}")]
    Scope(String),
    /// It is older than the one installed.
    #[error("the policy has version {found}, lower than {installed}, which was installed before")]
    Older {
        /// Its version.
        found: u64,
        /// Highest version that was installed.
        installed: u64,
    },
    /// Same version, other content.
    #[error("another policy of version {0} is installed; a change needs a higher version")]
    SameVersion(u64),
    /// It could not be kept.
    #[error("the policy could not be kept")]
    Keep(#[source] fleetmend_identity::IdentityError),
}

/// Who this host is, from files that root owns.
#[derive(Debug, Clone, Default)]
pub struct WhoWeAre {
    /// Keys whose signatures count; none before the host was enrolled as root.
    pub anchors: Option<TrustAnchors>,
    /// The fleet.
    pub fleet: Option<FleetId>,
    /// The host.
    pub host: Option<HostId>,
    /// Version of the trust bundle that the anchors are of.
    pub bundle_version: Option<u64>,
}

/// The policy in force and its file.
#[derive(Debug)]
pub struct PolicyStore {
    path: PathBuf,
    us: WhoWeAre,
    current: Option<Policy>,
    version_floor: u64,
    fault: Option<String>,
}

impl PolicyStore {
    /// Opens the policy kept in `state_dir`; one that no longer verifies is not in force, and says why.
    ///
    /// `version_floor` is the highest version that the ledger knows of: an older file put back is refused.
    pub fn open(state_dir: &Path, us: WhoWeAre, version_floor: u64) -> Self {
        let mut store = Self {
            path: state_dir.join(POLICY_FILE),
            us: WhoWeAre::default(),
            current: None,
            version_floor,
            fault: None,
        };
        store.judge_again(us);
        store
    }

    /// Takes over who this host is, and judges the kept policy by it: one that a retired root signed is not in
    /// force any more, here as after the next start.
    pub fn judge_again(&mut self, us: WhoWeAre) {
        self.us = us;
        self.current = None;
        self.fault = None;
        match files::read_private(&self.path) {
            Ok(None) => {}
            Ok(Some(bytes)) => match self.verify(&bytes) {
                Ok(policy) => {
                    self.version_floor = policy.version;
                    self.current = Some(policy);
                }
                Err(error) => self.fault = Some(error.to_string()),
            },
            Err(error) => self.fault = Some(error.to_string()),
        }
    }

    /// Version of the trust bundle by which policies are judged.
    pub fn bundle_version(&self) -> Option<u64> {
        self.us.bundle_version
    }

    /// The policy in force, expired or not.
    pub fn current(&self) -> Option<&Policy> {
        self.current.as_ref()
    }

    /// Takes over who this host is: it may have been enrolled since the start.
    pub fn know(&mut self, us: WhoWeAre) {
        self.us = us;
    }

    /// Why the kept policy is not in force.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Verifies an envelope; it becomes the policy in force when it is not older. True when it changed.
    ///
    /// # Errors
    /// [`InstallError`] says why it was refused; the policy before stays in force.
    pub fn install(&mut self, envelope: &[u8]) -> Result<bool, InstallError> {
        let policy = self.verify(envelope)?;
        if let Some(current) = self
            .current
            .as_ref()
            .filter(|current| current.version == policy.version)
        {
            return if *current == policy {
                Ok(false)
            } else {
                Err(InstallError::SameVersion(policy.version))
            };
        }
        files::write_private(&self.path, envelope).map_err(InstallError::Keep)?;
        self.version_floor = policy.version;
        self.current = Some(policy);
        self.fault = None;
        Ok(true)
    }

    fn verify(&self, envelope: &[u8]) -> Result<Policy, InstallError> {
        let anchors = self.us.anchors.as_ref().ok_or(InstallError::NoAnchors)?;
        let policy = Signed::<Policy>::from_bytes(envelope)?.verify(anchors, Context::Policy)?;
        if let Some(fault) = policy.fault() {
            return Err(InstallError::Content(fault));
        }
        self.covers_us(&policy.scope)?;
        if policy.version < self.version_floor {
            return Err(InstallError::Older {
                found: policy.version,
                installed: self.version_floor,
            });
        }
        Ok(policy)
    }

    fn covers_us(&self, scope: &HostScope) -> Result<(), InstallError> {
        match scope {
            HostScope::Fleet { fleet } if self.us.fleet.as_ref() == Some(fleet) => Ok(()),
            HostScope::Fleet { fleet } => Err(InstallError::Scope(format!("it is for the fleet {fleet}"))),
            HostScope::Hosts { hosts } => match self.us.host {
                Some(host) if hosts.contains(&host) => Ok(()),
                Some(host) => Err(InstallError::Scope(format!("it does not name {host}"))),
                None => Err(InstallError::Scope(
                    "it names hosts, and this host's id is not known here".to_owned(),
                )),
            },
        }
    }
}
