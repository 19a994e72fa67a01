//! Enrolment over its real listener: TLS, gRPC, the control database on both engines.

mod hostile;
mod leave;
mod rotated;
mod tokens;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fleetmend_control::ControlConfig;
use fleetmend_identity::host::Grant;
use fleetmend_identity::{HostIdentity, HostKey, PeerKind, Signed};
use fleetmend_proto::v1::enrolment_client::EnrolmentClient;
use fleetmend_proto::{PROTOCOL_VERSION, v1};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::postgres::Ending;
use fleetmend_testkit::{PostgresServer, TestControl, TestFleet, on_postgresql_too, wait_for};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::listener::Caller;

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_hours(1);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Scene {
    control: TestControl,
    fleet: TestFleet,
    enroller: Enroller,
    address: SocketAddr,
    tasks: Tasks,
}

impl Scene {
    async fn new() -> Self {
        Self::with(EnrolConfig::default()).await
    }

    async fn with(config: EnrolConfig) -> Self {
        let (control, fleet) = (TestControl::new().unwrap(), TestFleet::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = EnrolConfig {
            address: address.to_string(),
            ..config
        };
        // As a collector opens it, so that a rotation is found in its folder.
        let authority = CollectorAuthority::open(&fleet.folder().join("collector")).unwrap();
        let enroller = Enroller::open(control.open().await.unwrap(), Arc::new(authority), config)
            .await
            .unwrap();
        let tasks = Tasks::new();
        serve(enroller.clone(), listener, &tasks).unwrap();
        Self {
            control,
            fleet,
            enroller,
            address,
            tasks,
        }
    }

    async fn token(&self) -> EnrolmentToken {
        self.enroller.issue_token("ada", HOUR, 1).await.unwrap()
    }

    fn tls(&self) -> Arc<ClientConfig> {
        tls::client_for_enrolment(self.fleet.root().fingerprint(), &TrustedTime::system()).unwrap()
    }

    async fn ask(&self, token: &EnrolmentToken, key: &HostKey) -> Result<v1::EnrollResponse, Status> {
        let request = v1::EnrollRequest {
            protocol: PROTOCOL_VERSION,
            secret: Bytes::copy_from_slice(token.secret().expose()),
            csr: key.request().unwrap().into(),
            hostname: "web-1".to_owned(),
            machine_id_digest: String::new(),
        };
        let mut client = EnrolmentClient::new(channel(self.address, self.tls()).await);
        client.enroll(request).await.map(tonic::Response::into_inner)
    }

    async fn audit_of(&self, code: &str) -> Vec<AuditRow> {
        let rows = self.enroller.audit().newest(1000).await.unwrap();
        rows.into_iter()
            .filter(|row| row.detail.starts_with(code))
            .collect()
    }

    /// Nothing else stopped: another host can still enrol.
    async fn still_serves(&self) {
        self.ask(&self.token().await, &HostKey::generate().unwrap())
            .await
            .unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.begin("test ended");
    }
}

async fn channel(address: SocketAddr, tls: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tokio_rustls::TlsConnector::from(tls)
                .connect(tls::server_name(), stream)
                .await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://collector")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_token_makes_a_host_with_a_certificate_under_the_pinned_root() {
    let scene = Scene::new().await;
    let key = Arc::new(HostKey::generate().unwrap());
    let answer = scene.ask(&scene.token().await, &key).await.unwrap();
    let grant = Grant {
        chain: answer
            .chain
            .iter()
            .map(|certificate| certificate.to_vec())
            .collect(),
        bundle: Signed::from_bytes(answer.trust_bundle.as_bytes()).unwrap(),
        collectors: answer.collectors,
        enrolment: scene.address.to_string(),
    };
    let identity = HostIdentity::accept(key.clone(), scene.fleet.root().fingerprint(), grant).unwrap();
    assert_eq!(identity.host().as_bytes().as_slice(), answer.host_id.as_ref());
    assert_eq!(identity.collectors(), ["localhost:7444"]);
    let hosts = scene.enroller.hosts().await.unwrap();
    assert_eq!(
        (hosts.len(), hosts[0].host, hosts[0].key),
        (1, identity.host(), key.fingerprint())
    );
    assert_eq!(
        (hosts[0].hostname.as_str(), hosts[0].serial.as_str()),
        ("web-1", identity.peer().serial.as_str())
    );
    assert_eq!(scene.enroller.tokens().await.unwrap()[0].uses_left, 0);
}

#[tokio::test]
async fn a_reused_token_is_refused_audited_and_stops_nobody_else() {
    let scene = Scene::new().await;
    let token = scene.token().await;
    scene.ask(&token, &HostKey::generate().unwrap()).await.unwrap();
    let refusal = scene
        .ask(&token, &HostKey::generate().unwrap())
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(
        refusal.message().contains("already used") && refusal.message().contains("token create"),
        "{refusal}"
    );
    let rows = scene.audit_of("token_used").await;
    assert_eq!(
        (rows.len(), rows[0].refused, rows[0].source.as_deref()),
        (1, true, Some("127.0.0.1"))
    );
    let text = token.expose();
    assert!(!format!("{:?}", scene.enroller.audit().newest(100).await.unwrap()).contains(text.as_str()));
    scene.still_serves().await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_the_same_key_with_the_same_host_id() {
    let scene = Scene::new().await;
    let (token, key) = (scene.token().await, HostKey::generate().unwrap());
    let first = scene.ask(&token, &key).await.unwrap();
    let second = scene.ask(&token, &key).await.unwrap();
    assert_eq!(first.host_id, second.host_id);
    let third = scene.ask(&scene.token().await, &key).await.unwrap();
    assert_eq!(first.host_id, third.host_id);
    assert_eq!(scene.enroller.hosts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn one_token_asked_for_by_many_at_once_makes_one_host() {
    let scene = Scene::new().await;
    let token = scene.token().await;
    let request = |key: HostKey| key.request().unwrap();
    let requests: Vec<_> = (0..16).map(|_| request(HostKey::generate().unwrap())).collect();
    let facts = HostFacts::default();
    let asked = requests
        .iter()
        .map(|csr| scene.enroller.enrol(HERE, token.secret().expose(), csr, &facts));
    let outcomes = futures::future::join_all(asked).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        1,
        "{outcomes:?}"
    );
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(
        refused
            .clone()
            .all(|refusal| matches!(refusal, Refusal::TokenUsed)),
        "{outcomes:?}"
    );
    assert_eq!(scene.enroller.hosts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn unknown_expired_and_revoked_tokens_are_told_apart() {
    let scene = Scene::new().await;
    let key = HostKey::generate().unwrap();
    let root = scene.fleet.root().fingerprint();
    let invented = EnrolmentToken::new("a:1", root, TokenSecret::generate()).unwrap();
    assert!(
        scene
            .ask(&invented, &key)
            .await
            .unwrap_err()
            .message()
            .contains("does not know")
    );
    let expired = scene
        .enroller
        .issue_token("ada", Duration::ZERO, 1)
        .await
        .unwrap();
    assert!(
        scene
            .ask(&expired, &key)
            .await
            .unwrap_err()
            .message()
            .contains("expired")
    );
    let revoked = scene.token().await;
    assert!(scene.enroller.revoke_token(&token_id(&revoked)).await.unwrap());
    assert!(
        scene
            .ask(&revoked, &key)
            .await
            .unwrap_err()
            .message()
            .contains("revoked")
    );
    for code in ["token_unknown", "token_expired", "token_revoked"] {
        assert_eq!(scene.audit_of(code).await.len(), 1, "{code}");
    }
    assert!(scene.enroller.hosts().await.unwrap().is_empty());
    scene.still_serves().await;
}

#[tokio::test]
async fn a_revoked_host_gets_no_certificate_any_more_and_stays_revoked_over_a_restart() {
    let scene = Scene::new().await;
    let key = HostKey::generate().unwrap();
    let request = key.request().unwrap();
    let facts = HostFacts::default();
    let token = scene.token().await;
    let enrolled = scene
        .enroller
        .enrol(HERE, token.secret().expose(), &request, &facts)
        .await
        .unwrap();
    let peer = enrolled.certificate.peer.clone();
    let closing = scene.enroller.revocations().clone();
    let told = async {
        tokio::join!(
            closing.revoked(&peer),
            scene.enroller.revoke_host(enrolled.host, "stolen")
        )
    };
    assert!(
        tokio::time::timeout(PATIENCE, told)
            .await
            .expect("open streams were not told")
            .1
            .unwrap()
    );

    let refusal = scene.ask(&scene.token().await, &key).await.unwrap_err();
    assert!(refusal.message().contains("this host was revoked"), "{refusal}");
    assert!(matches!(
        scene.enroller.renew(HERE, &peer, &request).await,
        Err(Refusal::HostRevoked)
    ));
    assert!(matches!(
        scene.enroller.recover(HERE, enrolled.host, &request).await,
        Err(Refusal::HostRevoked)
    ));
    assert!(
        !scene
            .enroller
            .revoke_host(HostId::random(), "nobody")
            .await
            .unwrap()
    );

    let authority = scene.fleet.authority().clone();
    let again = Enroller::open(
        scene.control.open().await.unwrap(),
        authority,
        EnrolConfig::default(),
    )
    .await
    .unwrap();
    assert!(again.revocations().current().contains(&peer));
    scene.still_serves().await;
}

#[tokio::test]
async fn a_host_renews_with_its_own_key_only() {
    let scene = Scene::new().await;
    let (key, other) = (HostKey::generate().unwrap(), HostKey::generate().unwrap());
    let facts = HostFacts::default();
    let token = scene.token().await;
    let request = key.request().unwrap();
    let enrolled = scene
        .enroller
        .enrol(HERE, token.secret().expose(), &request, &facts)
        .await
        .unwrap();
    let renewed = scene
        .enroller
        .renew(HERE, &enrolled.certificate.peer, &request)
        .await
        .unwrap();
    assert_eq!(renewed.peer.kind, PeerKind::Host(enrolled.host));
    assert_ne!(renewed.peer.serial, enrolled.certificate.peer.serial);
    assert_eq!(
        scene.enroller.hosts().await.unwrap()[0].serial,
        renewed.peer.serial
    );
    let swapped = scene
        .enroller
        .renew(HERE, &renewed.peer, &other.request().unwrap())
        .await;
    assert!(matches!(swapped, Err(Refusal::OtherKey)));
    let stolen = scene
        .enroller
        .recover(HERE, enrolled.host, &other.request().unwrap())
        .await;
    assert!(matches!(stolen, Err(Refusal::OtherKey)));
    assert_eq!(scene.audit_of("other_key").await.len(), 2);
}

#[tokio::test]
async fn an_expired_host_recovers_within_the_grace_and_not_after() {
    let short = EnrolConfig {
        certificate_lifetime_s: 0,
        ..EnrolConfig::default()
    };
    let scene = Scene::with(short.clone()).await;
    let key = HostKey::generate().unwrap();
    let request = key.request().unwrap();
    let token = scene.token().await;
    let facts = HostFacts::default();
    let enrolled = scene
        .enroller
        .enrol(HERE, token.secret().expose(), &request, &facts)
        .await
        .unwrap();
    let recovered = scene
        .enroller
        .recover(HERE, enrolled.host, &request)
        .await
        .unwrap();
    assert_eq!(recovered.peer.kind, PeerKind::Host(enrolled.host));
    assert_eq!(
        scene
            .audit_of("serial")
            .await
            .iter()
            .filter(|row| row.kind == "recovered")
            .count(),
        1
    );

    let unforgiving = EnrolConfig {
        recovery_grace_s: 0,
        ..short
    };
    let authority = scene.fleet.authority().clone();
    let strict = Enroller::open(scene.control.open().await.unwrap(), authority, unforgiving)
        .await
        .unwrap();
    let late = async || {
        strict
            .recover(HERE, enrolled.host, &request)
            .await
            .err()
            .map(|refusal| refusal.code())
    };
    wait_for(PATIENCE, late, |code| *code == Some("too_late"))
        .await
        .unwrap();
    assert!(matches!(
        strict.recover(HERE, HostId::random(), &request).await,
        Err(Refusal::HostUnknown)
    ));
}

#[test]
fn enrolment_on_postgresql_too() {
    on_postgresql_too("enrol::", "enrol::tests::enrolment_on_postgresql_too").unwrap();
}

#[tokio::test]
async fn a_host_revoked_on_one_collector_is_refused_by_the_other_at_once() {
    let scene = Scene::new().await;
    let (key, facts, token) = (
        HostKey::generate().unwrap(),
        HostFacts::default(),
        scene.token().await,
    );
    let request = key.request().unwrap();
    let secret = token.secret().expose();
    let host = scene
        .enroller
        .enrol(HERE, secret, &request, &facts)
        .await
        .unwrap();
    let database = scene.control.open().await.unwrap();
    database.serve_signals(&scene.tasks);
    let authority = scene.fleet.authority().clone();
    let other = Enroller::open(database, authority, EnrolConfig::default())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve(other.clone(), listener, &scene.tasks).unwrap();
    let peer = host.certificate.peer.clone();
    let closed = other.revocations().revoked(&peer);
    scene.enroller.revoke_host(host.host, "stolen").await.unwrap();
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    let refused = other.renew(HERE, &peer, &request).await.unwrap_err();
    assert!(matches!(refused, Refusal::HostRevoked), "{refused}");
}

#[tokio::test]
async fn while_the_database_is_away_hosts_are_judged_by_what_was_last_read() {
    let server = PostgresServer::start().unwrap();
    let mut config = ControlConfig::of(server.url("postgres"));
    config.password_file = Some(server.password_file());
    let fleet = TestFleet::new().unwrap();
    let database = Control::open(&config, "/".as_ref()).await.unwrap();
    let authority = fleet.authority().clone();
    let enroller = Enroller::open(database, authority, EnrolConfig::default())
        .await
        .unwrap();
    let token = enroller.issue_token("ada", HOUR, 2).await.unwrap();
    let (secret, facts) = (token.secret().expose(), HostFacts::default());
    let request = HostKey::generate().unwrap().request().unwrap();
    let revoked = enroller.enrol(HERE, secret, &request, &facts).await.unwrap();
    enroller.revoke_host(revoked.host, "stolen").await.unwrap();
    let request = HostKey::generate().unwrap().request().unwrap();
    let host = enroller.enrol(HERE, secret, &request, &facts).await.unwrap();
    let peer = &host.certificate.peer;
    server.stop(Ending::Immediate).unwrap();
    let known = enroller.revocations().current();
    assert!(known.contains(&revoked.certificate.peer) && !known.contains(peer));
    enroller.carrier_tls().unwrap();
    let refused = enroller.renew(HERE, peer, &request).await.unwrap_err();
    assert_eq!(Status::from(refused).code(), Code::Unavailable);
    server.restart().unwrap();
    let renew = async || enroller.renew(HERE, peer, &request).await.is_ok();
    wait_for(PATIENCE, renew, |renewed| *renewed).await.unwrap();
}
