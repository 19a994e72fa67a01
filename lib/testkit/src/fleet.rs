//! A fleet that exists for one test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::authority::HOST_LIFETIME;
use fleetmend_identity::host::Grant;
use fleetmend_identity::{
    CollectorAuthority, FleetRoot, HostIdentity, HostKey, IdentityError, LiveIdentity, Revocations,
    TrustedTime, tls,
};
use rustls::{ClientConfig, ServerConfig};

/// A root, one collector and as many hosts as are asked for, all with real keys and certificates.
#[derive(Debug)]
pub struct TestFleet {
    root: FleetRoot,
    authority: Arc<CollectorAuthority>,
    revocations: Revocations,
    folder: tempfile::TempDir,
}

impl TestFleet {
    /// A new fleet called `lab`, its root and its collector's keys in a temporary folder.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = FleetRoot::create(&folder.path().join("root"), "lab".parse()?)?;
        let authority =
            CollectorAuthority::create(&folder.path().join("collector"), &root, "collector-1".parse()?)?;
        Ok(Self {
            root,
            authority: Arc::new(authority),
            revocations: Revocations::default(),
            folder,
        })
    }

    /// Its root.
    pub fn root(&self) -> &FleetRoot {
        &self.root
    }

    /// Its collector's authority.
    pub fn authority(&self) -> &Arc<CollectorAuthority> {
        &self.authority
    }

    /// What [`TestFleet::carrier_tls`] looks up.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Its folder, deleted with the fleet. `root/` and `collector/` hold the keys; the rest is the test's.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An enrolled host with a new id.
    pub fn host(&self) -> Result<LiveIdentity, IdentityError> {
        self.host_issued(HostId::random(), TimeMicros::now())
    }

    /// A host whose certificate ended weeks ago.
    pub fn expired_host(&self) -> Result<LiveIdentity, IdentityError> {
        let long_ago = TimeMicros::now().plus_millis(-30 * 24 * 3_600_000);
        self.host_issued(HostId::random(), long_ago)
    }

    /// A host with this id, whose certificate was issued at this time and holds for seven days.
    pub fn host_issued(&self, host: HostId, issued: TimeMicros) -> Result<LiveIdentity, IdentityError> {
        self.host_of(&self.authority, host, issued, HOST_LIFETIME)
    }

    /// A host with a certificate of another fleet that has the same name, which trusts this one's collector:
    /// its handshakes get as far as the collector's refusal.
    pub fn wrong_ca_host(&self) -> Result<LiveIdentity, IdentityError> {
        let other = FleetRoot::in_memory(self.root.fleet().clone())?;
        let other = CollectorAuthority::in_memory(&other, self.authority.name().clone())?;
        self.host_of(&other, HostId::random(), TimeMicros::now(), HOST_LIFETIME)
    }

    fn host_of(
        &self,
        issuer: &CollectorAuthority,
        host: HostId,
        issued: TimeMicros,
        lifetime: Duration,
    ) -> Result<LiveIdentity, IdentityError> {
        let key = Arc::new(HostKey::generate()?);
        let issued = issuer.issue_host(&key.request()?, host, issued, lifetime)?;
        let grant = Grant {
            chain: issued
                .chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            bundle: self.authority.signed_bundle().clone(),
            collectors: Vec::new(),
            enrolment: "127.0.0.1:1".to_owned(),
        };
        Ok(LiveIdentity::new(
            HostIdentity::accept(key, self.root.fingerprint(), grant)?,
            None,
        ))
    }

    /// The collector's side of the carrier listener.
    pub fn carrier_tls(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        tls::server_for_hosts(&self.authority, &self.revocations, &TrustedTime::system())
    }

    /// The collector's side of the enrolment listener.
    pub fn enrolment_tls(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        tls::server_for_enrolment(&self.authority, &TrustedTime::system())
    }

    /// The host's side of the carrier listener.
    pub fn host_tls(&self, host: &LiveIdentity) -> Result<Arc<ClientConfig>, IdentityError> {
        tls::client_for_host(host, &TrustedTime::system())
    }
}
