//! What is said of names, of the way through a proxy, and over IPv6.

use agent_stream::StreamConfig;
use fleetmend_testkit::ConnectProxy;
use fleetmend_testkit::connect::Manner;

use super::*;
use crate::doctor::proxy;

async fn through(proxy: &ConnectProxy, address: &str) -> (Vec<Check>, Option<TcpStream>) {
    let config = StreamConfig {
        proxy: Some(format!("http://agent@{}", proxy.address())),
        ..StreamConfig::default()
    };
    proxy::reach("collector", address, &config.dialer().unwrap()).await
}

#[tokio::test]
async fn a_collector_behind_a_proxy_is_looked_at_through_it() {
    let fleet = TestFleet::new().unwrap();
    let listener = collector(fleet.carrier_tls().unwrap()).await;
    let target = listener.address.parse().unwrap();
    let proxy = ConnectProxy::start(&[("collector.test:7444", target)])
        .await
        .unwrap();
    let (checks, stream) = through(&proxy, "collector.test:7444").await;
    let tunnel = checks.last().unwrap();
    assert_said(
        tunnel,
        Verdict::Ok,
        &["collector.test:7444: a tunnel through the proxy"],
        &[],
    );
    let host = fleet.host().unwrap();
    let direct = Dialer::direct();
    let time = TrustedTime::system();
    let check = tls::examine(
        "collector.test:7444",
        stream.unwrap(),
        &direct,
        &host,
        &time,
        None,
    )
    .await;
    assert_said(&check, Verdict::Ok, &["accepts this host's certificate"], &[]);
}

#[tokio::test]
async fn every_fault_of_a_proxy_has_a_next_step() {
    let proxy = ConnectProxy::start(&[]).await.unwrap();
    let address = "127.0.0.1:7444";
    for (manner, seen, next) in [
        (
            Manner::For("nobody".to_owned()),
            "does not accept the user and password (407, it offers Basic)",
            "stream.proxy_password_file",
        ),
        (
            Manner::Says("403 Forbidden".to_owned()),
            "refuses the tunnel (403 Forbidden)",
            "allow CONNECT to 127.0.0.1:7444",
        ),
        (
            Manner::Says("504 Gateway Timeout".to_owned()),
            "does not reach the collector",
            "from the proxy's side",
        ),
        (
            Manner::Endless,
            "a head of more than 8192 bytes",
            "correct the address and port",
        ),
    ] {
        proxy.set(manner);
        let (checks, stream) = through(&proxy, address).await;
        assert!(stream.is_none());
        assert_said(checks.last().unwrap(), Verdict::Failed, &[seen], &[next]);
    }
    let listener = listen(|mut stream| async move {
        let _sent = stream.write_all(b"SSH-2.0-OpenSSH_9\r\n").await;
    })
    .await;
    let ssh = listener.address.clone();
    let config = StreamConfig {
        proxy: Some(format!("http://{ssh}")),
        ..StreamConfig::default()
    };
    let (checks, _) = proxy::reach("collector", address, &config.dialer().unwrap()).await;
    assert_said(
        checks.last().unwrap(),
        Verdict::Failed,
        &["no HTTP proxy", "SSH-2"],
        &["stream.proxy"],
    );
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = StreamConfig {
        proxy: Some(format!("http://{gone}")),
        ..StreamConfig::default()
    };
    let (checks, _) = proxy::reach("collector", address, &config.dialer().unwrap()).await;
    assert_eq!((checks[0].check, checks[0].verdict), ("proxy", Verdict::Failed));
    assert_said(&checks[1], Verdict::NotChecked, &["lies behind the proxy"], &[]);
}

#[test]
fn settings_of_a_proxy_that_cannot_be_used_are_a_failed_check() {
    let config = AgentConfig {
        stream: StreamConfig {
            proxy: Some("http://agent@proxy:3128".to_owned()),
            proxy_password_file: Some("/nonexistent/password".into()),
            ..StreamConfig::default()
        },
        ..AgentConfig::default()
    };
    let check = proxy::dialer(&config).unwrap_err();
    assert_said(
        &check,
        Verdict::Failed,
        &["read the proxy's password"],
        &["mode 0600"],
    );
}

#[tokio::test]
async fn an_ipv6_collector_is_well_and_one_without_brackets_is_explained() {
    let fleet = TestFleet::new().unwrap();
    let config = fleet.carrier_tls().unwrap();
    let listener = listen_at("[::1]:0", move |stream| serve_tls(config.clone(), stream)).await;
    assert!(listener.address.starts_with("[::1]:"));
    let check = diagnose(&listener.address, &fleet.host().unwrap(), &TrustedTime::system()).await;
    assert_said(
        &check,
        Verdict::Ok,
        &["[::1]:", "accepts this host's certificate"],
        &[],
    );
    let (checks, stream) = network::reach("collector", "2001:db8::1:7444").await;
    assert!(stream.is_none());
    assert_said(
        &checks[0],
        Verdict::Failed,
        &["in brackets"],
        &["stream.collectors"],
    );
}

#[tokio::test]
async fn a_name_that_is_none_is_not_resolved() {
    // An empty label is no name: that is known without asking anybody.
    let (checks, stream) = network::reach("collector", "no..such.name:7444").await;
    assert!(stream.is_none());
    assert_said(
        &checks[0],
        Verdict::Failed,
        &["no..such.name:7444", "the name is not resolved"],
        &["getent hosts no..such.name"],
    );
    let (checks, _) = network::reach("collector", "just-a-name").await;
    assert_said(
        &checks[0],
        Verdict::Failed,
        &["must be host:port"],
        &["stream.collectors"],
    );
}
