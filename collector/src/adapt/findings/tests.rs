//! What the collector finds out by itself: over the real enroller, store and alerting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use collector_alert::{AlertConfig, AlertFilter, AlertView, Alerting};
use collector_ingest::enrol::{AuditKind, EnrolConfig, Enroller, HostFacts, spawn_alarms};
use collector_store::{QueryLimits, Store, StoreConfig};
use fleetmend_config::HumanDuration;
use fleetmend_identity::{CollectorAuthority, FleetRoot, HostKey};
use fleetmend_shutdown::Tasks;

use super::*;
use crate::adapt::StoreAdapter;
use fleetmend_control::Control;

const PATIENCE: Duration = Duration::from_secs(30);

struct Scene {
    _folder: tempfile::TempDir,
    enroller: Enroller,
    alerting: Alerting,
    store: Store,
    tasks: Tasks,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = Store::open(StoreConfig {
            folder: folder.path().join("store"),
            ..StoreConfig::default()
        });
        let store = store.await.unwrap();
        store.run(&tasks).unwrap();
        let pool = Control::sqlite(&folder.path().join("control.sqlite"))
            .await
            .unwrap();
        let root = FleetRoot::in_memory("lab".parse().unwrap()).unwrap();
        let authority = CollectorAuthority::in_memory(&root, "c1".parse().unwrap()).unwrap();
        let enroller = Enroller::open(pool.clone(), Arc::new(authority), EnrolConfig::default());
        let enroller = enroller.await.unwrap();
        let rooms = tasks.child("rooms");
        spawn_alarms(
            &enroller,
            Arc::new(FindingAdapter(Arc::new(store.clone()))),
            &rooms,
        );
        let config = AlertConfig {
            poll: HumanDuration::from_secs(1),
            settle: HumanDuration::from_secs(0),
            ..AlertConfig::default()
        };
        let reader = Arc::new(StoreAdapter::new(Arc::new(store.clone())));
        let alerting = Alerting::open(config, pool, reader).await.unwrap();
        alerting.spawn(&rooms);
        Self {
            _folder: folder,
            enroller,
            alerting,
            store,
            tasks,
        }
    }

    async fn host(&self) -> HostId {
        let token = self.enroller.issue_token("ada", PATIENCE, 1).await.unwrap();
        let request = HostKey::generate().unwrap().request().unwrap();
        let source = "127.0.0.1".parse().unwrap();
        let facts = HostFacts::default();
        let enrolled = self
            .enroller
            .enrol(source, token.secret().expose(), &request, &facts);
        enrolled.await.unwrap().host
    }

    /// What ingest does when a second live stream of a host comes.
    async fn cloned(&self, host: HostId) {
        let (audit, source) = (self.enroller.audit(), "192.0.2.7".parse().unwrap());
        let detail = "clone: another live stream came from 192.0.2.8:5; it was closed";
        audit.refused(AuditKind::Clone, source, Some(host), detail).await;
    }

    async fn alert(&self, host: HostId, state: &str) -> AlertView {
        let begun = Instant::now();
        loop {
            let filter = AlertFilter {
                host_id: Some(host),
                limit: 10,
                ..AlertFilter::default()
            };
            let alerts = self.alerting.alerts(filter).await.unwrap();
            if let [alert] = alerts.as_slice()
                && alert.state == state
            {
                return alert.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "no alert is {state}: {alerts:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn rows(&self, host: HostId) -> usize {
        let query =
            format!("SELECT finding_id FROM findings WHERE host_id = '{host}' AND rule = 'host-cloned'");
        let answer = self.store.sql(&query, QueryLimits::default()).await.unwrap();
        answer.batches.iter().map(|batch| batch.num_rows()).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_host_is_a_finding_that_fires_and_is_over_when_the_host_is_revoked() {
    let scene = Scene::new().await;
    let host = scene.host().await;
    for _ in 0..20 {
        scene.cloned(host).await;
    }
    let alert = scene.alert(host, "firing").await;
    assert!(
        alert.title.contains("two agents claim to be this host"),
        "{alert:?}"
    );
    assert!(
        scene.rows(host).await <= 2,
        "sightings are counted, not written one by one"
    );
    assert!(scene.enroller.revoke_host(host, "cloned").await.unwrap());
    let over = scene.alert(host, "resolved").await;
    assert_eq!(over.finding_id, alert.finding_id, "the same finding");
    scene.tasks.drain(PATIENCE).await;
}
