//! Real handshakes over an in-memory pipe: who gets in, and what the others are told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, TimeMicros};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::authority::HOST_LIFETIME;
use crate::host::Grant;
use crate::{
    CollectorAuthority, Fingerprint, FleetRoot, HostIdentity, HostKey, LiveIdentity, PeerIdentity,
    Revocations, TrustedTime,
};

struct Fleet {
    root: FleetRoot,
    authority: Arc<CollectorAuthority>,
    revocations: Revocations,
}

impl Fleet {
    fn new(name: &str) -> Self {
        let root = FleetRoot::in_memory(name.parse().unwrap()).unwrap();
        let authority = Arc::new(CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap());
        Self {
            root,
            authority,
            revocations: Revocations::default(),
        }
    }

    fn host_at(&self, now: TimeMicros) -> LiveIdentity {
        let key = Arc::new(HostKey::generate().unwrap());
        let request = key.request().unwrap();
        let issued = self
            .authority
            .issue_host(&request, HostId::random(), now, HOST_LIFETIME)
            .unwrap();
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
        LiveIdentity::new(
            HostIdentity::accept(key, self.root.fingerprint(), grant).unwrap(),
            None,
        )
    }

    fn host(&self) -> LiveIdentity {
        self.host_at(TimeMicros::now())
    }

    fn carrier(&self) -> Arc<ServerConfig> {
        server_for_hosts(&self.authority, &self.revocations, &TrustedTime::system()).unwrap()
    }

    fn enrolment(&self) -> Arc<ServerConfig> {
        server_for_enrolment(&self.authority, &TrustedTime::system()).unwrap()
    }
}

fn as_host(identity: &LiveIdentity) -> Arc<ClientConfig> {
    client_for_host(identity, &TrustedTime::system()).unwrap()
}

/// What each side saw: the server the peer it let in, the client the byte it was answered with.
struct Met {
    server: io::Result<Option<PeerIdentity>>,
    client: io::Result<()>,
}

impl Met {
    fn server_fault(&self) -> TlsFault {
        TlsFault::find(self.server.as_ref().expect_err("the server let the peer in")).unwrap()
    }

    fn client_fault(&self) -> TlsFault {
        TlsFault::find(self.client.as_ref().expect_err("the client was served")).unwrap()
    }
}

async fn serve(config: Arc<ServerConfig>, pipe: DuplexStream) -> io::Result<Option<PeerIdentity>> {
    let mut stream = TlsAcceptor::from(config).accept(pipe).await?;
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| PeerIdentity::of_chain(Some(chain)).unwrap());
    stream.write_all(b"!").await?;
    stream.shutdown().await?;
    Ok(peer)
}

async fn call(config: Arc<ClientConfig>, pipe: DuplexStream) -> io::Result<()> {
    let mut stream = TlsConnector::from(config).connect(server_name(), pipe).await?;
    stream.read_u8().await.map(|_| ())
}

async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Met {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let both = async { tokio::join!(serve(server, near), call(client, far)) };
    let (server, client) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("handshake hung");
    Met { server, client }
}

#[tokio::test]
async fn an_enrolled_host_gets_in_under_its_own_name() {
    let fleet = Fleet::new("lab");
    let host = fleet.host();
    let met = meet(fleet.carrier(), as_host(&host)).await;
    assert_eq!(met.server.unwrap().unwrap(), *host.current().peer());
    met.client.unwrap();
}

#[tokio::test]
async fn a_wrong_ca_is_refused_by_both_sides_even_under_the_same_fleet_name() {
    let (fleet, other) = (Fleet::new("lab"), Fleet::new("lab"));
    let stranger = other.host();
    let met = meet(fleet.carrier(), as_host(&stranger)).await;
    assert_eq!(met.client_fault(), TlsFault::TheirsUnknown);

    // The same stranger, made to trust the collector's fleet, still holds a certificate of the other one.
    let confused = Arc::new(HostKey::generate().unwrap());
    let now = TimeMicros::now();
    let issued = other
        .authority
        .issue_host(&confused.request().unwrap(), HostId::random(), now, HOST_LIFETIME)
        .unwrap();
    let grant = Grant {
        chain: issued
            .chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        bundle: fleet.authority.signed_bundle().clone(),
        collectors: Vec::new(),
        enrolment: "127.0.0.1:1".to_owned(),
    };
    let confused = HostIdentity::accept(confused, fleet.root.fingerprint(), grant).unwrap();
    let met = meet(fleet.carrier(), as_host(&LiveIdentity::new(confused, None))).await;
    assert_eq!(met.server_fault(), TlsFault::TheirsUnknown);
    assert_eq!(met.client_fault(), TlsFault::OursUnknown);
    assert!(
        met.client_fault()
            .to_string()
            .contains("enrolled in another fleet")
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_the_host_is_told_so() {
    let fleet = Fleet::new("lab");
    let month_ago = TimeMicros::now().plus_millis(-30 * 24 * 3_600_000);
    let met = meet(fleet.carrier(), as_host(&fleet.host_at(month_ago))).await;
    assert_eq!(met.server_fault(), TlsFault::TheirsExpired);
    assert_eq!(met.client_fault(), TlsFault::OursExpired);
}

#[tokio::test]
async fn a_revoked_host_is_refused_at_the_next_handshake_and_its_streams_are_told() {
    let fleet = Fleet::new("lab");
    let (good, bad) = (fleet.host(), fleet.host());
    let peer = bad.current().peer().clone();
    assert!(meet(fleet.carrier(), as_host(&bad)).await.server.is_ok());
    let revocations = fleet.revocations.clone();
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::join!(revocations.revoked(&peer), async {
            fleet.revocations.revoke(bad.current().host(), peer.key);
        })
    });
    told.await.expect("an open stream was not told");
    let met = meet(fleet.carrier(), as_host(&bad)).await;
    assert_eq!(met.server_fault(), TlsFault::TheirsRevoked);
    assert_eq!(met.client_fault(), TlsFault::OursRevoked);
    assert!(meet(fleet.carrier(), as_host(&good)).await.server.is_ok());
}

#[tokio::test]
async fn no_certificate_and_a_collectors_own_certificate_do_not_open_the_carrier() {
    let fleet = Fleet::new("lab");
    let nobody = client_for_enrolment(fleet.root.fingerprint(), &TrustedTime::system()).unwrap();
    // The carrier does not show its root, so the pinned client would not go on: let it trust the bundle.
    let met = meet(fleet.carrier(), nobody).await;
    assert_eq!(met.client_fault(), TlsFault::TheirsUnknown);

    let trusting = fleet.host();
    let mut bare = (*as_host(&trusting)).clone();
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let met = meet(fleet.carrier(), Arc::new(bare)).await;
    assert_eq!(met.server_fault(), TlsFault::TheirsMissing);
    assert_eq!(met.client_fault(), TlsFault::OursMissing);

    let (own, key) = fleet
        .authority
        .issue_own(TimeMicros::now(), HOST_LIFETIME)
        .unwrap();
    let key = provider()
        .key_provider
        .load_private_key(rustls_pki_types::PrivateKeyDer::Pkcs8(key))
        .unwrap();
    let mut posing = (*as_host(&trusting)).clone();
    posing.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::new(own.chain, key),
    ));
    let met = meet(fleet.carrier(), Arc::new(posing)).await;
    assert_eq!(met.server_fault(), TlsFault::TheirsUnfit);
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_enrolment_listener_is_known_by_the_pinned_root_alone() {
    let (fleet, other) = (Fleet::new("lab"), Fleet::new("lab"));
    let pinned = |root: Fingerprint| client_for_enrolment(root, &TrustedTime::system()).unwrap();
    let met = meet(fleet.enrolment(), pinned(fleet.root.fingerprint())).await;
    met.client.unwrap();
    assert!(met.server.unwrap().is_none());
    let met = meet(other.enrolment(), pinned(fleet.root.fingerprint())).await;
    assert_eq!(met.client_fault(), TlsFault::TheirsUnknown);
    assert!(
        met.client_fault()
            .to_string()
            .contains("compare the root's fingerprint")
    );
}

#[tokio::test]
async fn a_host_cannot_pose_as_a_collector() {
    let fleet = Fleet::new("lab");
    let (host, posing) = (fleet.host(), fleet.host());
    let identity = posing.current();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key().to_tls())
        .unwrap();
    let met = meet(Arc::new(server), as_host(&host)).await;
    assert_eq!(met.client_fault(), TlsFault::TheirsUnfit);
}

#[tokio::test]
async fn plain_text_is_recognised_as_such_by_both_sides() {
    let fleet = Fleet::new("lab");
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        &[0xff; 300],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(garbage).await.unwrap();
        let error = serve(fleet.carrier(), far).await.unwrap_err();
        assert_eq!(TlsFault::find(&error), Some(TlsFault::NotTls), "{error}");
    }
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = call(as_host(&fleet.host()), far).await.unwrap_err();
    assert_eq!(TlsFault::find(&error), Some(TlsFault::NotTls), "{error}");
}

#[tokio::test]
async fn a_connection_is_never_resumed() {
    let fleet = Fleet::new("lab");
    let (server, client) = (fleet.carrier(), as_host(&fleet.host()));
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let client = TlsConnector::from(client.clone());
        let (served, called) = tokio::join!(serve(server.clone(), near), client.connect(server_name(), far));
        served.unwrap();
        let kind = called.unwrap().get_ref().1.handshake_kind();
        assert!(!matches!(kind, Some(rustls::HandshakeKind::Resumed)), "{kind:?}");
    }
}

#[tokio::test]
async fn a_listener_that_serves_garbage_still_serves_hosts() {
    let fleet = Fleet::new("lab");
    let config = fleet.carrier();
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(&[0; 64]).await.unwrap();
    assert!(serve(config.clone(), far).await.is_err());
    meet(config, as_host(&fleet.host())).await.client.unwrap();
}
