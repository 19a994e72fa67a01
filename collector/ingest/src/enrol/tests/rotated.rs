//! Keys that are rotated under a running enroller.

use fleetmend_identity::authority::Stage;
use fleetmend_identity::{FleetRoot, LiveIdentity, TrustBundle};

use super::*;

impl Scene {
    /// Takes a stage towards `successor`, as the operator's command does.
    async fn rotate(&self, stage: Stage, successor: Option<&FleetRoot>) {
        let (folder, now) = (self.fleet.folder().join("collector"), TimeMicros::now());
        CollectorAuthority::rotate(&folder, stage, self.fleet.root(), successor, now).unwrap();
        self.enroller.look_after().await.unwrap();
    }

    async fn enrolled(&self, token: &EnrolmentToken) -> HostIdentity {
        let key = Arc::new(HostKey::generate().unwrap());
        let answer = self.ask(token, &key).await.unwrap();
        let grant = Grant {
            chain: answer.chain.iter().map(|der| der.to_vec()).collect(),
            bundle: Signed::from_bytes(answer.trust_bundle.as_bytes()).unwrap(),
            collectors: Vec::new(),
            enrolment: self.address.to_string(),
        };
        let between: Vec<Signed<TrustBundle>> = answer
            .trust_bundles_between
            .iter()
            .map(|text| Signed::from_bytes(text.as_bytes()).unwrap())
            .collect();
        HostIdentity::accept_through(key, token.root(), &between, grant).unwrap()
    }

    async fn behind(&self) -> u64 {
        let version = self.enroller.authority().bundle().version;
        let database = self.control.open().await.unwrap();
        let config = EnrolConfig::default();
        let standing = Standing::read(&database, &config, version, TimeMicros::now()).await;
        standing.unwrap().behind
    }

    /// A handshake over memory with the configuration that the carrier listener has had from the beginning.
    async fn meets(&self, carrier: &Arc<ServerConfig>, host: &LiveIdentity) -> bool {
        let client = tls::client_for_host(host, &TrustedTime::system()).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = async {
            let stream = tokio_rustls::TlsAcceptor::from(carrier.clone())
                .accept(near)
                .await
                .ok()?;
            PeerIdentity::of_chain(stream.get_ref().1.peer_certificates()).ok()
        };
        let client = async {
            tokio_rustls::TlsConnector::from(client)
                .connect(tls::server_name(), far)
                .await
                .is_ok()
        };
        let (peer, connected) = tokio::join!(server, client);
        let met = peer.filter(|_| connected);
        if let Some(peer) = &met {
            self.enroller.audit().met(peer);
        }
        met.is_some()
    }
}

#[tokio::test]
async fn a_root_is_rotated_under_running_listeners_and_old_tokens_still_enrol() {
    let scene = Scene::new().await;
    let carrier = scene.enroller.carrier_tls().unwrap();
    let (old, successor) = (
        scene.token().await,
        FleetRoot::in_memory("lab".parse().unwrap()).unwrap(),
    );
    let before = LiveIdentity::new(scene.enrolled(&scene.token().await).await, None);
    assert!(scene.meets(&carrier, &before).await);
    for stage in [Stage::Introduce, Stage::Switch, Stage::Retire] {
        scene.rotate(stage, Some(&successor)).await;
    }
    assert_eq!(
        scene.enroller.authority().root_fingerprint(),
        successor.fingerprint()
    );
    // The listener has never been restarted, and the token pins a root that is retired.
    let late = LiveIdentity::new(scene.enrolled(&old).await, None);
    assert_eq!(late.current().root(), successor.fingerprint());
    assert_eq!(late.current().bundle().version, 4);
    assert!(scene.meets(&carrier, &late).await);
    assert!(!scene.meets(&carrier, &before).await);

    let current = before.current();
    let request = v1::RecoverRequest {
        host_id: Bytes::copy_from_slice(current.host().as_bytes()),
        csr: current.key().request().unwrap().into(),
        bundle_version: current.bundle().version,
    };
    let pinned = tls::client_for_enrolment(current.root(), &TrustedTime::system()).unwrap();
    let mut client = EnrolmentClient::new(channel(scene.address, pinned).await);
    let answer = client.recover(request).await.unwrap().into_inner();
    // What lies between its version and the newest, and not more.
    assert_eq!(answer.trust_bundles_between.len(), 2);
    let rows = scene.audit_of("bundle: version 4").await;
    assert_eq!(rows.first().map(|row| row.kind.as_str()), Some("authority"));
}

#[tokio::test]
async fn a_host_counts_as_having_seen_a_bundle_when_it_shows_what_came_with_it() {
    let scene = Scene::new().await;
    let carrier = scene.enroller.carrier_tls().unwrap();
    let host = LiveIdentity::new(scene.enrolled(&scene.token().await).await, None);
    assert_eq!(scene.behind().await, 1, "an answer may be lost");
    assert!(scene.meets(&carrier, &host).await);
    scene.enroller.look_after().await.unwrap();
    assert_eq!(scene.behind().await, 0);

    scene.rotate(Stage::Introduce, None).await;
    assert!(scene.meets(&carrier, &host).await);
    scene.enroller.look_after().await.unwrap();
    assert_eq!(
        scene.behind().await,
        1,
        "its certificate came with the bundle before"
    );
    let current = host.current();
    let caller = Caller {
        address: scene.address,
        peer: Some(Arc::new(current.peer().clone())),
        calls: crate::listener::Calls::default(),
    };
    let request = v1::RenewRequest {
        csr: current.key().request().unwrap().into(),
        bundle_version: 1,
    };
    let answer = scene.enroller.renew_call(&caller, request).await.unwrap();
    let chain = answer.chain.iter().map(|der| der.to_vec()).collect();
    let bundle = Signed::from_bytes(answer.trust_bundle.as_bytes()).unwrap();
    host.replace(current.renewed_through(chain, &[], bundle).unwrap())
        .unwrap();
    scene.enroller.look_after().await.unwrap();
    assert_eq!(scene.behind().await, 1, "it was sent, and not shown");
    assert!(scene.meets(&carrier, &host).await);
    scene.enroller.look_after().await.unwrap();
    assert_eq!(scene.behind().await, 0);

    assert!(scene.enroller.revoke_host(current.host(), "gone").await.unwrap());
    scene.rotate(Stage::Switch, None).await;
    assert_eq!(scene.behind().await, 0, "nobody waits for a revoked host");
}
