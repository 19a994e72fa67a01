//! A collector with the real enroller, and an operator who rotates its keys.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use collector_ingest::enrol::{AuditKind, EnrolConfig, Enroller, HostFacts, Standing};
use fleetmend_control::Control;
use fleetmend_event::TimeMicros;
use fleetmend_identity::authority::{Rotated, Stage};
use fleetmend_identity::host::Grant;
use fleetmend_identity::tls::TlsFault;
use fleetmend_identity::{CollectorAuthority, FleetRoot, HostIdentity, HostKey, PeerIdentity, TrustedTime};
use rustls::{ClientConfig, ServerConfig};

use crate::clocks::{Truth, folder};
use crate::handshake::shake;

pub(crate) const ADDRESS: &str = "carrier.example:7444";

pub(crate) struct Collector {
    pub(crate) enroller: Enroller,
    pub(crate) truth: Truth,
    pub(crate) offset: Arc<AtomicI64>,
    carrier: Arc<ServerConfig>,
    enrolment: Arc<ServerConfig>,
    config: EnrolConfig,
    root: FleetRoot,
    pub(crate) new_root: Option<FleetRoot>,
    database: Control,
    folder: tempfile::TempDir,
}

impl Collector {
    pub(crate) async fn new(truth: &Truth) -> Self {
        let folder = folder();
        let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
        let place = folder.path().join("authority");
        CollectorAuthority::create(&place, &root, "c1".parse().unwrap()).unwrap();
        let authority = Arc::new(CollectorAuthority::open(&place).unwrap());
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        let config = EnrolConfig {
            collectors: vec![ADDRESS.to_owned()],
            // Twice the usual: the same turns in half the time.
            certificate_lifetime_s: 14 * 24 * 3600,
            ..EnrolConfig::default()
        };
        let offset = Arc::new(AtomicI64::new(0));
        let time = TrustedTime::over(Box::new(truth.machine(&offset)));
        let enroller = Enroller::open_with(pool.clone(), authority, config.clone(), time)
            .await
            .unwrap();
        Self {
            carrier: enroller.carrier_tls().unwrap(),
            enrolment: enroller.enrolment_tls().unwrap(),
            enroller,
            truth: truth.clone(),
            offset,
            config,
            root,
            new_root: None,
            database: pool,
            folder,
        }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("authority")
    }

    /// A handshake with the carrier listener, audited as that does.
    pub(crate) async fn carrier(
        &self,
        client: Arc<ClientConfig>,
        source: IpAddr,
    ) -> Result<PeerIdentity, TlsFault> {
        match shake(client, self.carrier.clone()) {
            Ok(peer) => {
                let peer = peer.expect("the carrier requires a certificate");
                self.enroller.audit().met(&peer);
                Ok(peer)
            }
            Err(fault) => {
                let audit = self.enroller.audit();
                audit
                    .refused(AuditKind::Handshake, source, None, fault.code())
                    .await;
                Err(fault)
            }
        }
    }

    /// A handshake with the enrolment listener.
    pub(crate) fn enrolment(&self, client: Arc<ClientConfig>) -> Result<(), TlsFault> {
        shake(client, self.enrolment.clone()).map(drop)
    }

    /// Enrols a new host.
    pub(crate) async fn enrol(&self, source: IpAddr, key: Arc<HostKey>) -> HostIdentity {
        let hour = Duration::from_hours(1);
        let token = self.enroller.issue_token("ada", hour, 1).await.unwrap();
        let request = key.request().unwrap();
        let enrolled = self
            .enroller
            .enrol(source, token.secret().expose(), &request, &HostFacts::default())
            .await
            .unwrap();
        let authority = self.enroller.authority();
        let grant = Grant {
            chain: enrolled
                .certificate
                .chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            bundle: authority.signed_bundle().clone(),
            collectors: self.config.collectors.clone(),
            enrolment: "enrolment.example:7443".to_owned(),
        };
        let between: Vec<_> = authority.history_since(0).into_iter().cloned().collect();
        HostIdentity::accept_through(key, token.root(), &between, grant).unwrap()
    }

    /// How many hosts have not seen the present bundle.
    pub(crate) async fn behind(&self) -> u64 {
        let version = self.enroller.authority().bundle().version;
        Standing::read(&self.database, &self.config, version, self.truth.now())
            .await
            .unwrap()
            .behind
    }

    /// Takes a stage of a rotation, of the root too when there is a new one.
    pub(crate) async fn rotate(&self, stage: Stage) -> u64 {
        let now: TimeMicros = self.truth.now();
        let place = self.place();
        let rotated =
            CollectorAuthority::rotate(&place, stage, &self.root, self.new_root.as_ref(), now).unwrap();
        let Rotated::Done(version) = rotated else {
            panic!("{stage:?} had been taken before");
        };
        self.enroller.look_after().await.unwrap();
        assert_eq!(self.enroller.authority().bundle().version, version);
        version
    }

    /// After the old root was retired the new one is the root.
    pub(crate) fn settle(&mut self) {
        if let Some(root) = self.new_root.take() {
            self.root = root;
        }
    }
}
