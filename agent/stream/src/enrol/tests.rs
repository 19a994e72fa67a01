//! The host's side against collectors that are honest, hostile, silent or not there.

mod collector;
mod ways;

use fleetmend_event::TimeMicros;
use fleetmend_identity::TimeSource;
use fleetmend_identity::tls::TlsFault;
use fleetmend_testkit::wait_for;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::Status;

use super::*;
use crate::connector::ConnectError;
use crate::network::Dialer;
use collector::{Collector, Manner};

const PATIENCE: Duration = Duration::from_secs(20);
const DAY_MS: i64 = 24 * 3_600_000;

struct Host {
    folder: tempfile::TempDir,
    time: Arc<TrustedTime>,
}

impl Host {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            time: TrustedTime::system(),
        }
    }

    async fn enroll(&self, token: &EnrolmentToken) -> Result<HostIdentity, EnrolError> {
        enroll(
            &Dialer::direct(),
            token,
            self.folder.path(),
            HostFacts::default(),
            &self.time,
        )
        .await
    }

    async fn enrolled_at(&self, collector: &Collector) -> LiveIdentity {
        let identity = self.enroll(&collector.token()).await.unwrap();
        LiveIdentity::new(identity, Some(self.folder.path().to_owned()))
    }

    async fn renew(&self, identity: &LiveIdentity, collector: &Collector) -> Result<(), EnrolError> {
        let address = collector.carrier.to_string();
        renew(&Dialer::direct(), identity, &address, &self.time).await
    }

    fn written(&self) -> Option<HostIdentity> {
        HostIdentity::load(self.folder.path()).unwrap()
    }
}

#[tokio::test]
async fn a_host_enrols_and_finds_itself_again_after_a_restart() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enroll(&collector.token()).await.unwrap();
    assert_eq!(identity.host(), collector.host);
    let again = host.written().unwrap();
    assert_eq!((again.host(), again.peer()), (identity.host(), identity.peer()));
    assert_eq!(again.collectors(), [collector.carrier.to_string()]);
    assert_eq!(again.enrolment(), collector.enrolment.to_string());
    let second = host.enroll(&collector.token()).await.unwrap();
    assert_eq!(second.key().fingerprint(), identity.key().fingerprint());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_collectors_words_and_changes_nothing() {
    let (collector, host) = (Collector::start().await, Host::new());
    collector.behave(Manner::Refuses(Status::permission_denied(
        "this token was already used; make a new one",
    )));
    let error = host.enroll(&collector.token()).await.unwrap_err();
    assert!(
        matches!(error, EnrolError::Refused { retry: false, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("already used; make a new one"),
        "{error}"
    );
    assert!(!error.is_worth_retrying());
    assert!(host.written().is_none());
}

#[tokio::test]
async fn a_collector_under_another_root_gets_no_secret() {
    let (collector, other, host) = (Collector::start().await, Collector::start().await, Host::new());
    let lured = EnrolmentToken::new(
        &other.enrolment.to_string(),
        collector.fleet.root().fingerprint(),
        collector.token().secret().clone(),
    );
    let error = host.enroll(&lured.unwrap()).await.unwrap_err();
    assert_eq!(error.fault(), Some(TlsFault::TheirsUnknown));
    assert!(
        error.to_string().contains("compare the root's fingerprint"),
        "{error}"
    );
    assert!(!error.is_worth_retrying());
    assert!(host.written().is_none());
}

#[tokio::test]
async fn answers_that_do_not_fit_are_not_accepted() {
    let (collector, host) = (Collector::start().await, Host::new());
    for manner in [Manner::SwapsKey, Manner::SwapsBundle] {
        collector.behave(manner.clone());
        let error = host.enroll(&collector.token()).await.unwrap_err();
        assert!(matches!(error, EnrolError::Answer(_)), "{manner:?}: {error:?}");
    }
    collector.behave(Manner::SwapsHost);
    assert!(matches!(
        host.enroll(&collector.token()).await,
        Err(EnrolError::OtherHost)
    ));
    assert!(host.written().is_none());

    collector.behave(Manner::Honest);
    let identity = host.enrolled_at(&collector).await;
    let before = identity.current().peer().serial.clone();
    for manner in [Manner::SwapsKey, Manner::SwapsBundle, Manner::SwapsHost] {
        collector.behave(manner.clone());
        let error = host.renew(&identity, &collector).await.unwrap_err();
        assert!(
            matches!(error, EnrolError::Answer(_) | EnrolError::Identity(_)),
            "{manner:?}: {error:?}"
        );
    }
    assert_eq!(identity.current().peer().serial, before);
    assert_eq!(host.written().unwrap().peer().serial, before);
}

#[tokio::test]
async fn a_collector_that_is_not_there_or_speaks_plain_text_is_told_apart() {
    let (collector, host) = (Collector::start().await, Host::new());
    let root = collector.fleet.root().fingerprint();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = EnrolmentToken::new(&address, root, collector.token().secret().clone()).unwrap();
    let speak = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let (error, _stream) = tokio::join!(host.enroll(&plain), speak);
    let error = error.unwrap_err();
    assert_eq!(error.fault(), Some(TlsFault::NotTls), "{error:?}");
    assert!(error.to_string().contains("check the port"), "{error}");

    drop(listener);
    let error = host.enroll(&plain).await.unwrap_err();
    assert!(
        matches!(error, EnrolError::Connect(ConnectError::Unreachable { .. })),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&address) && error.is_worth_retrying(),
        "{error}"
    );
}

#[tokio::test]
async fn a_renewal_replaces_the_certificate_and_keeps_the_key() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enrolled_at(&collector).await;
    let before = identity.current();
    host.renew(&identity, &collector).await.unwrap();
    let after = identity.current();
    assert_ne!(after.peer().serial, before.peer().serial);
    assert_eq!(after.key().fingerprint(), before.key().fingerprint());
    assert_eq!(host.written().unwrap().peer().serial, after.peer().serial);
}

#[tokio::test]
async fn a_refused_certificate_is_told_even_through_http2() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enrolled_at(&collector).await;
    let current = identity.current();
    collector
        .fleet
        .revocations()
        .revoke(current.host(), current.peer().key);
    // The alert races with the request: every outcome of the race says the same.
    for _ in 0..20 {
        let error = host.renew(&identity, &collector).await.unwrap_err();
        assert_eq!(error.fault(), Some(TlsFault::OursRevoked), "{error:?}");
        assert!(error.to_string().contains("revoked"), "{error}");
        assert!(!error.is_worth_retrying());
    }
}

#[tokio::test]
async fn a_host_that_slept_past_the_end_recovers_by_itself() {
    let (collector, host) = (Collector::start().await, Host::new());
    collector.issue_from(TimeMicros::now().plus_millis(-30 * DAY_MS));
    let identity = host.enrolled_at(&collector).await;
    let error = host.renew(&identity, &collector).await.unwrap_err();
    assert_eq!(error.fault(), Some(TlsFault::OursExpired));
    assert!(error.is_worth_retrying());

    collector.issue_from(TimeMicros::now());
    let (end, ended) = oneshot::channel::<()>();
    let keeping = Box::pin(keep(
        Dialer::direct(),
        Vec::new(),
        identity.clone(),
        host.time.clone(),
        async move { drop(ended.await) },
    ));
    let watching = async {
        let until = async || identity.current().peer().not_after;
        wait_for(PATIENCE, until, |until| *until > TimeMicros::now())
            .await
            .unwrap();
        end.send(()).unwrap();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(keeping, watching) })
        .await
        .expect("keeper did not end");
    assert!(identity.current().peer().not_after > TimeMicros::now());
    assert_eq!(host.time.now().1, TimeSource::Collector);
    host.renew(&identity, &collector).await.unwrap();
}

#[tokio::test]
async fn a_replayed_time_is_not_taken_over() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enrolled_at(&collector).await;
    collector.behave(Manner::ReplaysTime);
    assert!(matches!(
        ask_time(&Dialer::direct(), &identity, &host.time).await,
        Err(EnrolError::Time(_))
    ));
    assert_eq!(host.time.now().1, TimeSource::System);
    collector.behave(Manner::Honest);
    ask_time(&Dialer::direct(), &identity, &host.time).await.unwrap();
    assert_eq!(host.time.now().1, TimeSource::Collector);
}

#[tokio::test]
async fn the_keeper_renews_what_is_due_and_ends_when_told() {
    let (collector, host) = (Collector::start().await, Host::new());
    // Issued six of its seven days ago: due, and still valid.
    collector.issue_from(TimeMicros::now().plus_millis(-6 * DAY_MS));
    let identity = host.enrolled_at(&collector).await;
    let before = identity.current().peer().serial.clone();
    collector.issue_from(TimeMicros::now());
    let (end, ended) = oneshot::channel::<()>();
    let keeping = Box::pin(keep(
        Dialer::direct(),
        Vec::new(),
        identity.clone(),
        host.time.clone(),
        async move { drop(ended.await) },
    ));
    let watching = async {
        let serial = async || identity.current().peer().serial.clone();
        wait_for(PATIENCE, serial, |serial| *serial != before)
            .await
            .unwrap();
        end.send(()).unwrap();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(keeping, watching) })
        .await
        .expect("keeper did not end");
    assert_ne!(host.written().unwrap().peer().serial, before);
}

/// The clocks of a host whose battery is empty.
struct Year2000;

impl fleetmend_identity::time::Clocks for Year2000 {
    fn wall(&self) -> TimeMicros {
        TimeMicros(946_684_800_000_000)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn boot_id(&self) -> String {
        "this boot".to_owned()
    }
}

#[tokio::test]
async fn the_keeper_asks_the_time_when_the_clock_is_before_the_certificate() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enrolled_at(&collector).await;
    let file = host.folder.path().join("trusted-time");
    let time = Arc::new(TrustedTime::open_with(file, Box::new(Year2000)).unwrap());
    let address = collector.carrier.to_string();
    let error = renew(&Dialer::direct(), &identity, &address, &time)
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Some(TlsFault::TheirsExpired), "{error:?}");
    let (end, ended) = oneshot::channel::<()>();
    let keeping = Box::pin(keep(
        Dialer::direct(),
        Vec::new(),
        identity.clone(),
        time.clone(),
        async move { drop(ended.await) },
    ));
    let watching = async {
        let source = async || time.now().1;
        wait_for(PATIENCE, source, |source| *source == TimeSource::Collector)
            .await
            .unwrap();
        end.send(()).unwrap();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(keeping, watching) })
        .await
        .expect("keeper did not end");
    renew(&Dialer::direct(), &identity, &address, &time)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_doubt_has_the_keeper_renew_what_is_not_due() {
    let (collector, host) = (Collector::start().await, Host::new());
    let identity = host.enrolled_at(&collector).await;
    let before = identity.current().peer().serial.clone();
    let mut keeper = Keeper::new(identity.clone(), host.time.clone(), 0.5);
    let network = keep::Network {
        configured: Vec::new(),
        dialer: Dialer::direct(),
        identity: identity.clone(),
        time: host.time.clone(),
    };
    keeper.turn(&network).await;
    assert_eq!(identity.current().peer().serial, before);
    keeper.doubt();
    keeper.turn(&network).await;
    assert_ne!(identity.current().peer().serial, before);
}

#[tokio::test]
async fn a_certificate_that_was_issued_too_far_ahead_is_recovered() {
    let (collector, host) = (Collector::start().await, Host::new());
    collector.issue_from(TimeMicros::now().plus_millis(365 * DAY_MS));
    let identity = host.enrolled_at(&collector).await;
    collector.issue_from(TimeMicros::now());
    let mut keeper = Keeper::new(identity.clone(), host.time.clone(), 0.5);
    let network = keep::Network {
        configured: Vec::new(),
        dialer: Dialer::direct(),
        identity: identity.clone(),
        time: host.time.clone(),
    };
    keeper.turn(&network).await;
    assert!(identity.current().peer().not_before <= TimeMicros::now());
    host.renew(&identity, &collector).await.unwrap();
}
