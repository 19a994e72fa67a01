//! The mutually authenticated listener: who is let in, what the others read, what the audit says.

use fleetmend_identity::{LiveIdentity, TrustedTime, tls};
use fleetmend_testkit::{TestFleet, wait_for};
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use super::*;
use crate::enrol::{EnrolConfig, Enroller};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    fleet: TestFleet,
    enroller: Enroller,
    address: SocketAddr,
    _end: oneshot::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Scene {
    async fn new(handshake_timeout: Duration) -> Self {
        let fleet = TestFleet::new().unwrap();
        let file = fleet.folder().join("control.sqlite");
        let pool = fleetmend_control::Control::sqlite(&file).await.unwrap();
        let enroller = Enroller::open(pool, fleet.authority().clone(), EnrolConfig::default())
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ListenerLimits {
            connections_max: 8,
            handshake_timeout,
            ..ListenerLimits::default()
        };
        let config = enroller.carrier_tls().unwrap();
        let (accepting, mut incoming) = TlsAccepting::new(listener, config, limits, enroller.audit().clone());
        let (end, ended) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(accepting.run(async move { drop(ended.await) }));
        tasks.spawn(async move {
            // Whoever is let in is greeted with its own name.
            while let Some(Ok(mut connection)) = incoming.next().await {
                let host = connection
                    .connect_info()
                    .peer
                    .and_then(|peer| peer.host())
                    .unwrap();
                connection.write_all(host.as_bytes()).await.unwrap();
                connection.shutdown().await.unwrap();
            }
        });
        Self {
            fleet,
            enroller,
            address,
            _end: end,
            _tasks: tasks,
        }
    }

    async fn call(&self, config: Arc<ClientConfig>) -> io::Result<Vec<u8>> {
        let calling = async {
            let stream = TcpStream::connect(self.address).await?;
            let mut stream = TlsConnector::from(config)
                .connect(tls::server_name(), stream)
                .await?;
            // As HTTP/2 does, before the server's verdict is known.
            stream.write_all(&[b'x'; 32 * 1024]).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, calling)
            .await
            .expect("the call hung")
    }

    async fn call_as(&self, host: &LiveIdentity) -> io::Result<Vec<u8>> {
        self.call(self.fleet.host_tls(host).unwrap()).await
    }

    async fn refused_as(&self, host: &LiveIdentity) -> TlsFault {
        let error = self.call_as(host).await.unwrap_err();
        TlsFault::find(&error).unwrap_or_else(|| panic!("the refusal was not told: {error:?}"))
    }

    async fn audited(&self, code: &str) {
        let found = async || {
            let rows = self.enroller.audit().newest(100).await.unwrap();
            rows.iter()
                .filter(|row| row.kind == "handshake" && row.detail.starts_with(code))
                .count()
        };
        wait_for(PATIENCE, found, |count| *count > 0).await.unwrap();
    }

    async fn still_serves(&self) {
        let host = self.fleet.host().unwrap();
        assert_eq!(
            self.call_as(&host).await.unwrap(),
            host.current().host().as_bytes()
        );
    }
}

#[tokio::test]
async fn a_host_is_let_in_under_the_name_in_its_certificate() {
    Scene::new(PATIENCE).await.still_serves().await;
}

#[tokio::test]
async fn a_wrong_ca_is_told_and_audited_and_stops_nobody_else() {
    let scene = Scene::new(PATIENCE).await;
    assert_eq!(
        scene.refused_as(&scene.fleet.wrong_ca_host().unwrap()).await,
        TlsFault::OursUnknown
    );
    scene.audited("peer_certificate_unknown").await;
    scene.still_serves().await;
}

#[tokio::test]
async fn an_expired_certificate_is_told_and_audited_and_stops_nobody_else() {
    let scene = Scene::new(PATIENCE).await;
    assert_eq!(
        scene.refused_as(&scene.fleet.expired_host().unwrap()).await,
        TlsFault::OursExpired
    );
    scene.audited("peer_certificate_expired").await;
    scene.still_serves().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_told_and_audited_and_stops_nobody_else() {
    let scene = Scene::new(PATIENCE).await;
    let host = scene.fleet.host().unwrap();
    scene.call_as(&host).await.unwrap();
    let peer = host.current().peer().clone();
    scene
        .enroller
        .revocations()
        .revoke(host.current().host(), peer.key);
    assert_eq!(scene.refused_as(&host).await, TlsFault::OursRevoked);
    scene.audited("peer_certificate_revoked").await;
    scene.still_serves().await;
}

#[tokio::test]
async fn a_caller_without_certificate_is_told_and_audited() {
    let scene = Scene::new(PATIENCE).await;
    let host = scene.fleet.host().unwrap();
    let mut bare = (*scene.fleet.host_tls(&host).unwrap()).clone();
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = scene.call(Arc::new(bare)).await.unwrap_err();
    assert_eq!(TlsFault::find(&error), Some(TlsFault::OursMissing));
    scene.audited("peer_certificate_missing").await;
    scene.still_serves().await;
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
async fn plain_text_is_audited_and_answered_with_nothing() {
    let scene = Scene::new(PATIENCE).await;
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.len() < 32, "{answer:?}");
    scene.audited("not_tls").await;
    scene.still_serves().await;
}

#[tokio::test]
async fn callers_who_say_nothing_are_dropped_and_free_their_places() {
    let scene = Scene::new(Duration::from_millis(200)).await;
    // As many as the listener takes at once.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(scene.address).await.unwrap());
    }
    for stream in &mut silent {
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
    }
    scene.audited("handshake_timeout").await;
}

#[tokio::test]
async fn a_client_of_another_fleet_does_not_talk_to_this_collector() {
    let scene = Scene::new(PATIENCE).await;
    let other = TestFleet::new().unwrap();
    let config = tls::client_for_host(&other.host().unwrap(), &TrustedTime::system()).unwrap();
    let error = scene.call(config).await.unwrap_err();
    assert_eq!(TlsFault::find(&error), Some(TlsFault::TheirsUnknown));
    scene.still_serves().await;
}
