//! Every call of the identity, over other ways than a plain IPv4 connection.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use fleetmend_testkit::ConnectProxy;
use fleetmend_testkit::connect::Manner;
use futures::future::BoxFuture;

use super::*;
use crate::config::StreamConfig;
use crate::network::{Resolve, TunnelFault};

/// A name that only this resolver knows.
struct Names(Vec<SocketAddr>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            assert_eq!(host, "collector.test");
            let with_port = |address: &SocketAddr| SocketAddr::new(address.ip(), port);
            Ok(self.0.iter().map(with_port).collect())
        })
    }
}

/// Enrols, renews, recovers and asks the time.
async fn every_call(dialer: &Dialer, collector: &Collector, enrolment: &str, carrier: &str) -> LiveIdentity {
    let host = Host::new();
    let root = collector.fleet.root().fingerprint();
    let token = EnrolmentToken::new(enrolment, root, collector.token().secret().clone()).unwrap();
    let token: EnrolmentToken = token.expose().parse().unwrap();
    let identity = enroll(
        dialer,
        &token,
        host.folder.path(),
        HostFacts::default(),
        &host.time,
    )
    .await
    .unwrap();
    assert_eq!(identity.enrolment(), enrolment);
    let identity = LiveIdentity::new(identity, None);
    renew(dialer, &identity, carrier, &host.time).await.unwrap();
    recover(dialer, &identity, &host.time).await.unwrap();
    ask_time(dialer, &identity, &host.time).await.unwrap();
    assert_eq!(host.time.now().1, TimeSource::Collector);
    identity
}

fn through(proxy: &ConnectProxy) -> StreamConfig {
    StreamConfig {
        proxy: Some(format!("http://{}", proxy.address())),
        ..StreamConfig::default()
    }
}

#[tokio::test]
async fn every_call_goes_over_ipv6() {
    let collector = Collector::start_on("[::1]:0").await;
    let (enrolment, carrier) = (collector.enrolment.to_string(), collector.carrier.to_string());
    assert!(enrolment.starts_with("[::1]:"), "{enrolment}");
    let identity = every_call(&Dialer::direct(), &collector, &enrolment, &carrier).await;
    assert_eq!(identity.current().collectors(), [carrier]);
}

#[tokio::test]
async fn a_name_with_a_dead_ipv6_address_is_reached_over_ipv4() {
    let collector = Collector::start().await;
    let names = Names(vec!["[::1]:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()]);
    let dialer = Dialer::direct().resolving_by(Arc::new(names));
    let enrolment = format!("collector.test:{}", collector.enrolment.port());
    let carrier = format!("collector.test:{}", collector.carrier.port());
    every_call(&dialer, &collector, &enrolment, &carrier).await;
}

#[tokio::test]
async fn every_call_goes_through_the_proxy_with_a_login() {
    let collector = Collector::start().await;
    // Only the proxy knows these names.
    let (enrolment, carrier) = ("enrol.test:7443", "carrier.test:7444");
    let proxy = ConnectProxy::start_at(
        "[::1]:0",
        &[(enrolment, collector.enrolment), (carrier, collector.carrier)],
    )
    .await
    .unwrap();
    // agent:open sesame
    proxy.set(Manner::For("Basic YWdlbnQ6b3BlbiBzZXNhbWU=".to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "open sesame\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = StreamConfig {
        proxy: Some(format!("http://agent@{}", proxy.address())),
        proxy_password_file: Some(password.clone()),
        ..StreamConfig::default()
    };
    every_call(&config.dialer().unwrap(), &collector, enrolment, carrier).await;
    assert_eq!(proxy.tunnels(), [enrolment, carrier, enrolment, enrolment]);

    std::fs::write(&password, "open barley\n").unwrap();
    let host = Host::new();
    let root = collector.fleet.root().fingerprint();
    let token = EnrolmentToken::new(enrolment, root, collector.token().secret().clone()).unwrap();
    let error = enroll(
        &config.dialer().unwrap(),
        &token,
        host.folder.path(),
        HostFacts::default(),
        &host.time,
    )
    .await
    .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("does not accept this host's user and password"),
        "{said}"
    );
    assert!(
        said.contains(enrolment) && said.contains(&proxy.address().to_string()),
        "{said}"
    );
    assert!(
        !said.contains("barley") && !format!("{error:?}").contains("barley"),
        "{error:?}"
    );
    assert!(!error.is_worth_retrying());
}

#[tokio::test]
async fn what_a_proxy_does_wrong_is_told_and_bounded() {
    let collector = Collector::start().await;
    let target = collector.enrolment.to_string();
    let proxy = ConnectProxy::start(&[]).await.unwrap();
    let dialer = through(&proxy).dialer().unwrap();
    let fault = async |manner: Manner| {
        proxy.set(manner);
        match dialer.dial(&target).await.unwrap_err() {
            ConnectError::Proxy { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    };
    let refused = fault(Manner::Says("403 Forbidden".to_owned())).await;
    assert!(
        matches!(&refused, TunnelFault::Refused { code: 403, .. }),
        "{refused}"
    );
    let login = fault(Manner::For("nobody".to_owned())).await;
    assert!(
        matches!(&login, TunnelFault::Login { given: false, .. }),
        "{login}"
    );
    assert!(matches!(fault(Manner::Endless).await, TunnelFault::TooLong));
    drop(proxy);
    let gone = dialer.dial(&target).await.unwrap_err();
    assert!(
        matches!(
            &gone,
            ConnectError::Proxy {
                fault: TunnelFault::Unreachable(_),
                ..
            }
        ),
        "{gone:?}"
    );
}

#[tokio::test]
async fn a_proxy_that_ends_tls_is_not_trusted() {
    let (collector, other) = (Collector::start().await, Collector::start().await);
    // It leads elsewhere: to somebody with another root.
    let name = collector.enrolment.to_string();
    let proxy = ConnectProxy::start(&[(&name, other.enrolment)]).await.unwrap();
    let dialer = through(&proxy).dialer().unwrap();
    let host = Host::new();
    let error = enroll(
        &dialer,
        &collector.token(),
        host.folder.path(),
        HostFacts::default(),
        &host.time,
    )
    .await
    .unwrap_err();
    assert_eq!(error.fault(), Some(TlsFault::TheirsUnknown));
}

#[tokio::test]
async fn excepted_addresses_go_past_the_proxy() {
    let collector = Collector::start().await;
    let proxy = ConnectProxy::start(&[]).await.unwrap();
    proxy.set(Manner::Says("403 Forbidden".to_owned()));
    let config = StreamConfig {
        no_proxy: vec!["127.0.0.0/8".to_owned()],
        ..through(&proxy)
    };
    let (enrolment, carrier) = (collector.enrolment.to_string(), collector.carrier.to_string());
    every_call(&config.dialer().unwrap(), &collector, &enrolment, &carrier).await;
    assert!(proxy.tunnels().is_empty());
}

#[tokio::test]
async fn a_certificate_is_renewed_where_the_stream_is_configured_to_go() {
    let (collector, host) = (Collector::start().await, Host::new());
    // Issued six of its seven days ago: due, and still valid.
    collector.issue_from(TimeMicros::now().plus_millis(-6 * DAY_MS));
    let identity = host.enrolled_at(&collector).await;
    collector.issue_from(TimeMicros::now());
    let before = identity.current().peer().serial.clone();
    // What enrolment named is known to nobody on this way.
    let configured = "configured.test:7444";
    let proxy = ConnectProxy::start(&[(configured, collector.carrier)])
        .await
        .unwrap();
    let keeping = keep(
        through(&proxy).dialer().unwrap(),
        vec![configured.to_owned()],
        identity.clone(),
        host.time.clone(),
        std::future::pending(),
    );
    let renewed = wait_for(
        PATIENCE,
        async || identity.current().peer().serial.clone(),
        |serial| *serial != before,
    );
    tokio::select! {
        () = Box::pin(keeping) => panic!("the keeper ended"),
        outcome = renewed => drop(outcome.unwrap()),
    }
    assert_eq!(proxy.tunnels(), [configured]);
}
