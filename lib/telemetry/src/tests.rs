use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_shutdown::Tasks;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use crate::logs::Plain;
use crate::metric::builder;
use crate::process::{Stat, parse_stat};
use crate::{AdminError, MetricsHandle, RateLimited, Readiness, State, admin};

const PATIENCE: Duration = Duration::from_secs(20);

fn metrics() -> (metrics_exporter_prometheus::PrometheusRecorder, MetricsHandle) {
    let recorder = builder().expect("buckets").build_recorder();
    let handle = MetricsHandle::of(recorder.handle());
    (recorder, handle)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("in time")
        .expect("answer");
    answer
}

async fn loopback(tasks: &Tasks, readiness: &Readiness, handle: &MetricsHandle) -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = admin::bind_loopback(any).await.expect("bind");
    let address = listener.local_addr().expect("address");
    admin::serve(
        listener,
        admin::router(handle.clone(), readiness.clone()),
        handle.clone(),
        tasks,
    );
    address
}

#[tokio::test]
async fn live_is_not_ready() {
    let tasks = Tasks::new();
    let readiness = Readiness::new(&["store", "stream"]);
    let address = loopback(&tasks, &readiness, &metrics().1).await;
    let connect = || async { TcpStream::connect(address).await.expect("connect") };

    assert!(ask(connect().await, "/healthz").await.starts_with("HTTP/1.1 200"));
    let before = ask(connect().await, "/readyz").await;
    assert!(
        before.starts_with("HTTP/1.1 503") && before.contains("starting"),
        "{before}"
    );

    readiness.set("store", State::Ready);
    readiness.set("stream", State::NotReady("collector is away".to_owned()));
    let between = ask(connect().await, "/readyz").await;
    assert!(
        between.starts_with("HTTP/1.1 503") && between.contains("collector is away"),
        "{between}"
    );

    readiness.set("stream", State::Ready);
    timeout(PATIENCE, readiness.wait_until_ready())
        .await
        .expect("ready");
    assert!(ask(connect().await, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn metrics_are_rendered_with_buckets_and_the_build() {
    let (recorder, handle) = metrics();
    metrics::with_local_recorder(&recorder, || {
        handle.build_info("agent", "1.2.3");
        metrics::histogram!("fleetmend_test_wait_seconds").record(0.02);
        let text = handle.render();
        assert!(
            text.contains(r#"fleetmend_build_info{component="agent",version="1.2.3"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"fleetmend_test_wait_seconds_bucket{le="0.025"} 1"#),
            "{text}"
        );
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    });
}

#[tokio::test]
async fn garbage_and_silence_do_not_stop_the_server() {
    let tasks = Tasks::new();
    let address = loopback(&tasks, &Readiness::new(&[]), &metrics().1).await;
    let mut garbage = TcpStream::connect(address).await.expect("connect");
    garbage.write_all(&[0xff; 4096]).await.expect("write");
    let mut rest = Vec::new();
    // Closed or reset, but not kept.
    timeout(PATIENCE, garbage.read_to_end(&mut rest))
        .await
        .expect("connection is closed")
        .ok();
    let silent = TcpStream::connect(address).await.expect("connect");
    let answer = ask(TcpStream::connect(address).await.expect("connect"), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let report = tasks.drain(PATIENCE).await;
    assert!(report.is_clean(), "{report}");
    drop(silent);
}

#[tokio::test]
async fn unix_socket_replaces_a_dead_one_and_respects_a_live_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("admin.sock");
    drop(admin::bind_unix(&path, 0o600).expect("first"));
    let listener = admin::bind_unix(&path, 0o660).expect("the first one is dead");
    assert!(matches!(
        admin::bind_unix(&path, 0o660),
        Err(AdminError::InUse(_))
    ));
    let (_, handle) = metrics();
    let tasks = Tasks::new();
    admin::serve(
        listener,
        admin::router(handle.clone(), Readiness::new(&[])),
        handle,
        &tasks,
    );
    let answer = ask(UnixStream::connect(&path).await.expect("connect"), "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn address_beyond_loopback_is_refused() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    assert!(matches!(
        admin::bind_loopback(everywhere).await,
        Err(AdminError::NotLoopback(_))
    ));
}

#[test]
fn repeats_are_counted_and_let_through_once_per_period() {
    let limit = RateLimited::new(Duration::from_secs(10));
    let start = Instant::now();
    assert_eq!(limit.admit_at(start), Some(0));
    assert_eq!(limit.admit_at(start + Duration::from_secs(1)), None);
    assert_eq!(limit.admit_at(start + Duration::from_secs(9)), None);
    assert_eq!(limit.admit_at(start + Duration::from_secs(10)), Some(2));
    assert_eq!(limit.admit_at(start + Duration::from_secs(11)), None);
}

#[test]
fn process_name_with_spaces_and_parentheses_is_read() {
    let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 12 30 0 0 20 0 5 0 100 1000 64 184 0 0";
    assert_eq!(
        parse_stat(line),
        Some(Stat {
            cpu_ticks: 42,
            threads: 5.0,
            resident_pages: 64
        })
    );
    assert_eq!(parse_stat("7 (cut"), None);
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

fn line_of(journal: bool, log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(captured.clone())
        .event_format(Plain { journal })
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    String::from_utf8(captured.0.lock().clone()).expect("text")
}

#[test]
fn journal_gets_the_priority_and_no_time() {
    let line = line_of(true, || tracing::warn!(lane = "events", "spool is full"));
    assert_eq!(
        line,
        "<4>fleetmend_telemetry::tests: spool is full lane=\"events\"\n"
    );
}

#[test]
fn terminal_gets_time_and_level() {
    let line = line_of(false, || crate::log_at_most!(60, error, "disk is gone"));
    assert!(
        line.contains("ERROR fleetmend_telemetry::tests: disk is gone suppressed=0"),
        "{line}"
    );
    assert!(line.starts_with("20"), "{line}");
}
