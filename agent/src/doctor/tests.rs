//! What is said of real listeners that are not as they should be.

mod through;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use agent_stream::network::Dialer;
use fleetmend_event::{HostId, TimeMicros};
use fleetmend_identity::time::Clocks;
use fleetmend_identity::{LiveIdentity, TimeSource, TrustedTime, tls as fleet_tls};
use fleetmend_testkit::TestFleet;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::report::{Check, Report, Verdict};
use super::{clock, files, network, running, tls};
use crate::config::AgentConfig;

const DAY_MS: i64 = 24 * 3_600_000;

/// A listener that ends with the test.
struct Listener {
    address: String,
    _task: JoinSet<()>,
}

async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Listener
where
    F: Future<Output = ()> + Send + 'static,
{
    listen_at("127.0.0.1:0", serve).await
}

async fn listen_at<F>(address: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Listener
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    Listener { address, _task: task }
}

/// A listener that speaks TLS and HTTP/2 as a collector does.
async fn collector(config: Arc<ServerConfig>) -> Listener {
    listen(move |stream| serve_tls(config.clone(), stream)).await
}

async fn serve_tls(config: Arc<ServerConfig>, stream: TcpStream) {
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => {
            let service = TowerToHyperService::new(axum::Router::new());
            let served = auto::Builder::new(TokioExecutor::new())
                .http2_only()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(served);
        }
        // What is unread when a connection is closed resets it, and the reset may overtake the alert.
        Err((_, mut stream)) => {
            let _sent = stream.shutdown().await;
            let mut rest = Vec::new();
            let _read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        }
    }
}

/// What the doctor says of the TLS of `address`.
async fn diagnose(address: &str, host: &LiveIdentity, time: &Arc<TrustedTime>) -> Check {
    let (checks, stream) = network::reach("collector", address).await;
    let stream = stream.unwrap_or_else(|| panic!("no connection: {checks:?}"));
    tls::examine(address, stream, &Dialer::direct(), host, time, None).await
}

fn assert_said(check: &Check, verdict: Verdict, seen: &[&str], next: &[&str]) {
    assert_eq!(check.verdict, verdict, "{check:?}");
    for part in seen {
        assert!(check.seen.contains(part), "{part:?} is not in {:?}", check.seen);
    }
    let said = check.next.clone().unwrap_or_default();
    for part in next {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

#[tokio::test]
async fn a_collector_that_accepts_this_host_is_well() {
    let fleet = TestFleet::new().unwrap();
    let listener = collector(fleet.carrier_tls().unwrap()).await;
    let check = diagnose(&listener.address, &fleet.host().unwrap(), &TrustedTime::system()).await;
    assert_said(
        &check,
        Verdict::Ok,
        &[
            "collector collector-1 of fleet lab",
            "accepts this host's certificate",
        ],
        &[],
    );
}

#[tokio::test]
async fn an_enrolment_listener_is_not_taken_for_a_carrier_listener() {
    let fleet = TestFleet::new().unwrap();
    let listener = collector(fleet.enrolment_tls().unwrap()).await;
    let check = diagnose(&listener.address, &fleet.host().unwrap(), &TrustedTime::system()).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["this is its enrolment listener"],
        &["enrolment.collectors"],
    );
}

#[tokio::test]
async fn a_port_on_which_nobody_listens_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (checks, stream) = network::reach("collector", &address).await;
    assert!(stream.is_none());
    assert_said(
        &checks[0],
        Verdict::Failed,
        &["refused", "nothing listens"],
        &["systemctl status fleetmend-collector"],
    );
}

#[tokio::test]
async fn plain_http_and_ssh_are_called_what_they_are() {
    let (fleet, time) = (TestFleet::new().unwrap(), TrustedTime::system());
    let host = fleet.host().unwrap();
    let web = listen(|mut stream| async move {
        let mut request = [0; 16];
        let _read = stream.read(&mut request).await;
        let _sent = stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n")
            .await;
    })
    .await;
    let check = diagnose(&web.address, &host, &time).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["plain HTTP", "400 Bad Request"],
        &["7444", "proxy"],
    );
    let ssh = listen(|mut stream| async move {
        let _sent = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        let mut rest = Vec::new();
        let _read = stream.read_to_end(&mut rest).await;
    })
    .await;
    let check = diagnose(&ssh.address, &host, &time).await;
    assert_said(&check, Verdict::Failed, &["SSH server"], &["correct the port"]);
    let mute = listen(|stream| async move { drop(stream) }).await;
    let check = diagnose(&mute.address, &host, &time).await;
    assert_said(&check, Verdict::Failed, &[], &["in between"]);
}

#[tokio::test]
async fn a_collector_under_another_root_is_told_from_a_stranger_in_between() {
    let (ours, theirs, time) = (
        TestFleet::new().unwrap(),
        TestFleet::new().unwrap(),
        TrustedTime::system(),
    );
    let host = ours.host().unwrap();
    let listener = collector(theirs.carrier_tls().unwrap()).await;
    let check = diagnose(&listener.address, &host, &time).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["was not issued under the root"],
        &["fingerprint", "new token"],
    );
    let names = ["proxy.example".to_owned()];
    let (chain, key) = theirs
        .authority()
        .issue_web(&names, TimeMicros::now(), Duration::from_secs(3_600))
        .unwrap();
    let proxy = collector(fleet_tls::server_for_web(chain, key).unwrap()).await;
    let check = diagnose(&proxy.address, &host, &time).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["no collector of a Fleetmend fleet", "issued by"],
        &["proxy in between ends TLS"],
    );
}

#[tokio::test]
async fn what_the_collector_refuses_of_this_host_is_said() {
    let (fleet, time) = (TestFleet::new().unwrap(), TrustedTime::system());
    let listener = collector(fleet.carrier_tls().unwrap()).await;
    let expired = fleet.expired_host().unwrap();
    let check = diagnose(&listener.address, &expired, &time).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["refuses this host's certificate because it has ended"],
        &["enrolment listener"],
    );
    let foreign = fleet.wrong_ca_host().unwrap();
    let check = diagnose(&listener.address, &foreign, &time).await;
    assert_said(&check, Verdict::Failed, &["another fleet"], &["enrol this host"]);
    let revoked = fleet.host().unwrap();
    let current = revoked.current();
    fleet
        .revocations()
        .revoke(current.host(), current.key().fingerprint());
    let check = diagnose(&listener.address, &revoked, &time).await;
    assert_said(&check, Verdict::Failed, &["revoked"], &["fleetmend audit"]);
}

struct WrongClock(i64);

impl Clocks for WrongClock {
    fn wall(&self) -> TimeMicros {
        TimeMicros::now().plus_millis(self.0)
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }

    fn boot_id(&self) -> String {
        "boot".to_owned()
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_found_out_by_the_collectors_signed_time() {
    let fleet = TestFleet::new().unwrap();
    let listener = collector(fleet.carrier_tls().unwrap()).await;
    let host = fleet.host().unwrap();
    let file = fleet.folder().join("trusted-time");
    let ahead = TrustedTime::open_with(file, Box::new(WrongClock(3_650 * DAY_MS))).unwrap();
    let ahead = Arc::new(ahead);
    let check = diagnose(&listener.address, &host, &ahead).await;
    assert_said(
        &check,
        Verdict::Failed,
        &["its certificate holds from", "ended"],
        &["compare the clocks"],
    );
    let (_, stream) = network::reach("collector", &listener.address).await;
    let signed = Some(TimeMicros::now());
    let check = tls::examine(
        &listener.address,
        stream.unwrap(),
        &Dialer::direct(),
        &host,
        &ahead,
        signed,
    )
    .await;
    assert_said(
        &check,
        Verdict::Failed,
        &["system clock"],
        &["it is this host's clock that is wrong", "timedatectl"],
    );
}

#[test]
fn the_system_clock_is_judged_by_what_the_host_knows() {
    let now = TimeMicros::now();
    let issued = now.plus_millis(-DAY_MS);
    let judged = |wall, trusted, source| clock::system(wall, trusted, source, issued);
    let ok = judged(now, now, TimeSource::System);
    assert_said(&ok, Verdict::Ok, &["plausible"], &[]);
    let early = judged(TimeMicros(0), TimeMicros(0), TimeSource::System);
    assert_said(
        &early,
        Verdict::Failed,
        &["1970-01-01T00:00:00Z", "cannot be"],
        &["timedatectl"],
    );
    let before = now.plus_millis(-2 * DAY_MS);
    let unborn = judged(before, before, TimeSource::System);
    assert_said(
        &unborn,
        Verdict::Failed,
        &["before this host's certificate was issued"],
        &["timedatectl"],
    );
    let behind = judged(before, now, TimeSource::Collector);
    assert_said(
        &behind,
        Verdict::Warning,
        &["2 days behind the collector's time"],
        &["timedatectl"],
    );
    let agreed = clock::collector("c:1", Ok(now), now, (now, TimeSource::System));
    assert_said(&agreed.0, Verdict::Ok, &["this host agrees"], &[]);
    let apart = clock::collector("c:1", Ok(now), before, (before, TimeSource::System));
    assert_said(&apart.0, Verdict::Failed, &["2 days behind"], &["timedatectl"]);
    assert_eq!(apart.1, Some(now));
}

#[test]
fn a_certificate_is_judged_by_its_dates() {
    let fleet = TestFleet::new().unwrap();
    let now = TimeMicros::now();
    let of = |issued_days_ago: i64| {
        let issued = now.plus_millis(-issued_days_ago * DAY_MS);
        fleet.host_issued(HostId::random(), issued).unwrap().current()
    };
    assert_said(
        &clock::certificate(&of(1), now),
        Verdict::Ok,
        &["valid until", "renewed from"],
        &[],
    );
    assert_said(
        &clock::certificate(&of(6), now),
        Verdict::Warning,
        &["should have been renewed by"],
        &["journalctl"],
    );
    assert_said(
        &clock::certificate(&of(9), now),
        Verdict::Failed,
        &["it ended at", "2 days ago"],
        &["127.0.0.1:1"],
    );
    let long_ago = now.plus_millis(-30 * DAY_MS);
    assert_said(
        &clock::certificate(&of(1), long_ago),
        Verdict::Failed,
        &["28 days"],
        &["timedatectl"],
    );
}

#[test]
fn folders_that_others_may_write_or_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = AgentConfig {
        state_dir: folder.path().join("state"),
        ..AgentConfig::default()
    };
    let missing = files::state(&config).remove(0);
    assert_said(&missing, Verdict::Failed, &["is not there"], &["systemctl start"]);
    let (check, identity) = files::identity(&config);
    assert!(identity.is_none());
    assert_said(
        &check,
        Verdict::Failed,
        &["not enrolled"],
        &["fleetmend token create", "fleetmend-agent enroll"],
    );
    std::fs::create_dir(&config.state_dir).unwrap();
    std::fs::set_permissions(&config.state_dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = files::state(&config).remove(0);
    assert_said(&open, Verdict::Failed, &["mode 0777"], &["chmod go-w"]);
}

#[test]
fn a_key_that_others_may_read_is_named_with_the_command() {
    let fleet = TestFleet::new().unwrap();
    let config = AgentConfig {
        state_dir: fleet.folder().join("state"),
        ..AgentConfig::default()
    };
    let folder = config.identity_dir();
    fleet.host().unwrap().current().save(&folder).unwrap();
    std::fs::write(folder.join("host.key"), "none").unwrap();
    std::fs::set_permissions(folder.join("host.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (check, identity) = files::identity(&config);
    assert!(identity.is_none());
    assert_said(
        &check,
        Verdict::Failed,
        &["host.key", "mode 0644", "chmod 600"],
        &[],
    );
}

#[test]
fn an_agent_or_healer_that_is_not_there_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let status = running::status(&socket);
    assert_said(
        &running::agent(&socket, &status),
        Verdict::Warning,
        &["does not run"],
        &["systemctl start"],
    );
    assert_said(&running::stream(&status), Verdict::NotChecked, &["clone"], &[]);
    let heal = agent_heal::Config {
        socket: folder.path().join("healer.sock"),
        ..agent_heal::Config::default()
    };
    assert_said(
        &running::healer(&heal),
        Verdict::Warning,
        &["nothing is repaired"],
        &["systemctl enable"],
    );
    // A socket that was left behind.
    drop(std::os::unix::net::UnixListener::bind(&heal.socket).unwrap());
    assert_said(
        &running::healer(&heal),
        Verdict::Failed,
        &["nobody serves it"],
        &["systemctl restart"],
    );
}

#[test]
fn the_kernel_is_judged_by_the_probes_of_the_running_agent() {
    let with = |state: &str| {
        serde_json::json!({ "probes": [
            { "probe": "bpf.process", "state": "REAL", "reason": "" },
            { "probe": "bpf.network", "state": state, "reason": "operation not permitted", "hint": "give it CAP_BPF" },
            { "probe": "units", "state": "BROKEN", "reason": "no systemd" },
        ]})
    };
    let real = running::kernel(&Ok(with("REAL")));
    assert_said(&real, Verdict::Ok, &["all 2 probes work"], &[]);
    let broken = running::kernel(&Ok(with("BROKEN")));
    assert_said(
        &broken,
        Verdict::Failed,
        &["1 of 2 probes", "operation not permitted"],
        &["CAP_BPF"],
    );
}

#[test]
fn lines_are_read_by_people_and_programs() {
    let checks = || {
        [
            Check::ok("configuration", "no faults"),
            Check::failed("collector", "refused\u{1b}[2J", "start it"),
        ]
    };
    let mut text = Vec::new();
    let mut report = Report::new(false, &mut text);
    checks().into_iter().for_each(|check| report.add(check).unwrap());
    let code = report.finish().unwrap();
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", std::process::ExitCode::FAILURE)
    );
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("FAILED") && text.contains("→ start it") && text.contains("failed: 1"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let mut json = Vec::new();
    let mut report = Report::new(true, &mut json);
    checks().into_iter().for_each(|check| report.add(check).unwrap());
    report.finish().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&json["ok"], &json["checks"][1]["verdict"]),
        (&false.into(), &"failed".into())
    );
    assert_eq!(json["checks"][1]["next"], "start it");
}

#[tokio::test]
async fn an_address_of_this_host_is_shown_once() {
    let listener = listen(|stream| async move { drop(stream) }).await;
    let (checks, stream) = network::reach("collector", &listener.address).await;
    let target: SocketAddr = listener.address.parse().unwrap();
    assert_eq!(stream.unwrap().peer_addr().unwrap(), target);
    assert_said(&checks[0], Verdict::Ok, &[&format!("{target}: a TCP")], &[]);
}
