//! A collector without a store: its carrier listener, its audit, its hosts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use collector_ingest::enrol::{self, AuditRow, EnrolConfig, Enroller};
use collector_ingest::{HostOrderResult, HostsLive, Ingest, IngestConfig};
use fleetmend_config::HumanDuration;
use fleetmend_control::Control;
use fleetmend_event::HostId;
use fleetmend_identity::{CollectorAuthority, EnrolmentToken};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{TestFleet, wait_for};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::PATIENCE;
use super::sink::MemorySink;

/// A running collector.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    pub(crate) enroller: Enroller,
    pub(crate) hosts: HostsLive,
    pub(crate) ingest: Ingest,
    pub(crate) results: mpsc::Receiver<HostOrderResult>,
    tasks: Tasks,
}

impl Collector {
    /// On a free port.
    pub(crate) async fn start(fleet: &TestFleet, sink: &MemorySink) -> Self {
        Self::start_at(
            fleet,
            sink,
            SocketAddr::from(([127, 0, 0, 1], 0)),
            IngestConfig::default(),
        )
        .await
    }

    pub(crate) async fn start_at(
        fleet: &TestFleet,
        sink: &MemorySink,
        address: SocketAddr,
        config: IngestConfig,
    ) -> Self {
        let file = fleet.folder().join("control.sqlite");
        let pool = Control::sqlite(&file).await.unwrap();
        // As a collector opens it, so that a rotation is found in its folder.
        let authority = CollectorAuthority::open(&fleet.folder().join("collector")).unwrap();
        let enroller = Enroller::open(pool, Arc::new(authority), EnrolConfig::default())
            .await
            .unwrap();
        let listener = bind(address).await;
        let address = listener.local_addr().unwrap();
        let (results, received) = mpsc::channel(16);
        let ingest = Ingest::new(config, Arc::new(sink.clone()), enroller.clone(), results);
        let tasks = Tasks::new();
        ingest.serve(listener, &tasks).unwrap();
        Self {
            address,
            enroller,
            hosts: ingest.hosts(),
            ingest,
            results: received,
            tasks,
        }
    }

    /// Serves enrolment, too.
    pub(crate) async fn serve_enrolment(&self, address: SocketAddr) -> SocketAddr {
        let listener = bind(address).await;
        let address = listener.local_addr().unwrap();
        enrol::serve(self.enroller.clone(), listener, &self.tasks).unwrap();
        address
    }

    /// A token for one host that enrols there.
    pub(crate) async fn token(&self, enrolment: SocketAddr) -> EnrolmentToken {
        let lifetime = Duration::from_secs(3_600);
        let token = self.enroller.issue_token("ada", lifetime, 1).await.unwrap();
        EnrolmentToken::new(&enrolment.to_string(), token.root(), token.secret().clone()).unwrap()
    }

    pub(crate) async fn stop(self) {
        let report = self.tasks.drain(PATIENCE).await;
        assert!(report.stragglers.is_empty(), "{:?}", report.stragglers);
    }

    /// Waits for an audit row of `kind` whose detail begins with `code`.
    pub(crate) async fn audited(&self, kind: &str, code: &str) -> AuditRow {
        let rows = async || self.enroller.audit().newest(100).await.unwrap();
        let wanted = |row: &AuditRow| row.kind == kind && row.detail.starts_with(code);
        let rows = wait_for(PATIENCE, rows, |rows: &Vec<AuditRow>| rows.iter().any(wanted))
            .await
            .unwrap();
        rows.into_iter().find(wanted).unwrap()
    }

    pub(crate) async fn connected(&self, host: HostId) {
        let live = async || self.hosts.host(host);
        wait_for(PATIENCE, live, |live| {
            live.as_ref().is_some_and(|live| live.connected_since.is_some())
        })
        .await
        .unwrap();
    }

    pub(crate) async fn disconnected(&self, host: HostId) {
        let live = async || self.hosts.host(host);
        wait_for(PATIENCE, live, |live| {
            live.as_ref().is_none_or(|live| live.connected_since.is_none())
        })
        .await
        .unwrap();
    }
}

/// The port of a collector that just stopped may take a moment.
async fn bind(address: SocketAddr) -> TcpListener {
    let last = std::cell::RefCell::new(None);
    let attempt = async || match TcpListener::bind(address).await {
        Ok(listener) => {
            last.replace(Some(listener));
            None
        }
        Err(error) => Some(error.to_string()),
    };
    wait_for(PATIENCE, attempt, Option::is_none).await.unwrap();
    last.take().unwrap()
}

/// Limits at which a test sees them work.
pub(crate) fn impatient() -> IngestConfig {
    IngestConfig {
        hello_timeout: HumanDuration::from_millis(300),
        commit_timeout: HumanDuration::from_millis(300),
        ..IngestConfig::default()
    }
}
