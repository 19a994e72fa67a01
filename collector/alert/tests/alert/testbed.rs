use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use async_trait::async_trait;
use collector_alert::{
    AlertConfig, AlertFilter, AlertView, Alerting, PromQuery, QueryError, QueryLimits, RemovedHosts, SqlQuery,
};
use collector_store::{Store, StoreConfig};
use fleetmend_config::{HumanDuration, Secret};
use fleetmend_control::Control;
use fleetmend_event::frame::Stamp;
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::*;
use fleetmend_event::{
    ActionId, Fact, FindingId, Frame, HostId, RecordId, Sequence, SpoolEpoch, TableInfo, TimeMicros,
};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{TestControl, wait_for};
use parking_lot::Mutex;

use crate::receiver::{Receiver, SECRET};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

struct StoreAsSql(Store);

#[async_trait]
impl SqlQuery for StoreAsSql {
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<Vec<RecordBatch>, QueryError> {
        let of_store = collector_store::QueryLimits {
            rows_max: limits.rows_max,
            timeout: limits.timeout,
            ..collector_store::QueryLimits::default()
        };
        let answer = self.0.sql(query, of_store).await;
        answer
            .map(|answer| answer.batches)
            .map_err(|error| QueryError::Invalid(error.to_string()))
    }
}

/// Hosts that left the fleet.
#[derive(Default)]
pub(crate) struct Left(pub(crate) Mutex<BTreeSet<HostId>>);

#[async_trait]
impl RemovedHosts for Left {
    async fn removed(&self) -> Result<BTreeSet<HostId>, QueryError> {
        Ok(self.0.lock().clone())
    }
}

pub(crate) struct Testbed {
    pub(crate) store: Store,
    pub(crate) host: HostId,
    pub(crate) receiver: Receiver,
    pub(crate) config: AlertConfig,
    pub(crate) alerting: Alerting,
    promql: Option<Arc<dyn PromQuery>>,
    pub(crate) left: Arc<Left>,
    /// Ends the store and the receiver with the test.
    _tasks: Tasks,
    running: Tasks,
    control: TestControl,
    pool: Control,
    folder: tempfile::TempDir,
}

pub(crate) fn quick() -> AlertConfig {
    AlertConfig {
        poll: HumanDuration::from_millis(100),
        metrics_every: HumanDuration::from_millis(100),
        settle: HumanDuration::from_millis(300),
        heal_deadline: HumanDuration::from_secs(2),
        ..AlertConfig::default()
    }
}

impl Testbed {
    pub(crate) async fn start(config: AlertConfig) -> Self {
        Self::start_with(config, |_| String::new()).await
    }

    /// `rules` writes a rule file for the host.
    pub(crate) async fn start_with(config: AlertConfig, rules: impl FnOnce(HostId) -> String) -> Self {
        Self::start_over(TestControl::new().unwrap(), config, rules).await
    }

    pub(crate) async fn start_over(
        control: TestControl,
        config: AlertConfig,
        rules: impl FnOnce(HostId) -> String,
    ) -> Self {
        Self::start_evaluating(control, config, rules, ("", None)).await
    }

    /// `prometheus` is a rule file of Prometheus, and `promql` evaluates expressions.
    pub(crate) async fn start_evaluating(
        control: TestControl,
        mut config: AlertConfig,
        rules: impl FnOnce(HostId) -> String,
        (prometheus, promql): (&str, Option<Arc<dyn PromQuery>>),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store_config = StoreConfig {
            folder: folder.path().join("store"),
            ..StoreConfig::default()
        };
        let store = Store::open(store_config).await.unwrap();
        store.run(&tasks.child("store")).unwrap();
        let receiver = Receiver::start(&tasks.child("receiver")).await;
        config.receivers.push(collector_alert::Receiver {
            name: "pager".to_owned(),
            url: receiver.url.clone(),
            secret: Secret::new(SECRET),
            timeout: HumanDuration::from_secs(5),
            ca: None,
        });
        let host = HostId::random();
        let file = folder.path().join("rules.toml");
        std::fs::write(&file, rules(host)).unwrap();
        config.rules.push(file);
        if !prometheus.is_empty() {
            let file = folder.path().join("prometheus.yml");
            std::fs::write(&file, prometheus).unwrap();
            config.prometheus_rules.push(file);
        }
        let pool = control.open().await.unwrap();
        let alerting = Alerting::open(config.clone(), pool.clone(), Arc::new(StoreAsSql(store.clone())))
            .await
            .unwrap();
        let (running, left) = (Tasks::new(), Arc::new(Left::default()));
        alerting.end_for_removed(left.clone());
        if let Some(promql) = &promql {
            alerting.evaluate_with(promql.clone());
        }
        alerting.spawn(&running);
        Self {
            promql,
            left,
            store,
            host,
            receiver,
            config,
            alerting,
            _tasks: tasks,
            running,
            control,
            pool,
            folder,
        }
    }

    /// Ends alerting in order, and starts it anew on what it left.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.pool.close().await;
        self.pool = self.control.open().await.unwrap();
        let sql = Arc::new(StoreAsSql(self.store.clone()));
        self.alerting = Alerting::open(self.config.clone(), self.pool.clone(), sql)
            .await
            .unwrap();
        self.alerting.end_for_removed(self.left.clone());
        if let Some(promql) = &self.promql {
            self.alerting.evaluate_with(promql.clone());
        }
        self.running = Tasks::new();
        self.alerting.spawn(&self.running);
    }

    /// Another collector with the same control database, receivers and facts; it runs until its tasks drain.
    pub(crate) async fn another(&self) -> (Alerting, Tasks) {
        let (pool, sql) = (
            self.control.open().await.unwrap(),
            Arc::new(StoreAsSql(self.store.clone())),
        );
        let alerting = Alerting::open(self.config.clone(), pool, sql).await.unwrap();
        let running = Tasks::new();
        alerting.spawn(&running);
        (alerting, running)
    }

    /// Empties the rule file; it is read at the next start.
    pub(crate) fn remove_rules(&self) {
        std::fs::write(self.folder.path().join("rules.toml"), "").unwrap();
    }

    pub(crate) async fn stop(&self) {
        let report = self.running.drain(DEADLINE).await;
        assert!(report.stragglers.is_empty(), "{report:?}");
    }

    pub(crate) async fn add(&self, facts: Vec<Fact>) {
        self.store.append_for(self.host, facts).await.unwrap();
    }

    /// Adds findings among which those entitled "garbled" have a severity that no vocabulary has.
    pub(crate) async fn add_garbled(&self, findings: &[Finding]) {
        let batch = Finding::to_batch(findings).unwrap();
        let words: StringArray = findings
            .iter()
            .map(|finding| {
                Some(match finding.title.as_str() {
                    "garbled" => "apocalyptic",
                    _ => finding.severity.as_str(),
                })
            })
            .collect();
        let mut columns = batch.columns().to_vec();
        columns[batch.schema().index_of("severity").unwrap()] = Arc::new(words);
        let batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
        let id = RecordId {
            epoch: SpoolEpoch::random(),
            lane: Finding::LANE,
            sequence: Sequence(1),
        };
        let now = TimeMicros::now();
        let stamp = Stamp {
            wall: now,
            boot_us: 1,
        };
        let frame = Frame::of_batch(id, &TableInfo::of::<Finding>(), &batch, stamp, (now, now)).unwrap();
        self.store.commit(self.host, vec![frame]).await.unwrap();
    }

    /// Findings of a host whose clock is `ahead_us`, with the times that it gave them.
    pub(crate) async fn add_of_clock(&self, findings: &[Finding], ahead_us: i64) {
        let id = RecordId {
            epoch: SpoolEpoch::random(),
            lane: Finding::LANE,
            sequence: Sequence(1),
        };
        let wall = TimeMicros::now().plus_micros(ahead_us);
        let batch = Finding::to_batch(findings).unwrap();
        let stamp = Stamp { wall, boot_us: 1 };
        let frame = Frame::of_batch(id, &TableInfo::of::<Finding>(), &batch, stamp, (wall, wall)).unwrap();
        let clock = collector_store::ClockAhead::from_micros(Some(ahead_us));
        self.store
            .commit_timed(self.host, vec![(frame, clock)], Vec::new())
            .await
            .unwrap();
    }

    pub(crate) async fn alerts(&self) -> Vec<AlertView> {
        self.alerting
            .alerts(AlertFilter {
                limit: 100,
                ..AlertFilter::default()
            })
            .await
            .unwrap()
    }

    /// Waits until the one alert is in this state.
    pub(crate) async fn reaches(&self, state: &str) -> AlertView {
        let only = |alerts: &Vec<AlertView>| alerts.len() == 1 && alerts[0].state == state;
        wait_for(DEADLINE, async || self.alerts().await, only)
            .await
            .unwrap()
            .remove(0)
    }

    /// Waits until so many messages were accepted.
    pub(crate) async fn accepted(&self, count: usize) -> Vec<crate::receiver::Message> {
        let enough = |messages: &Vec<crate::receiver::Message>| messages.len() >= count;
        wait_for(DEADLINE, async || self.receiver.accepted(), enough)
            .await
            .unwrap()
    }

    /// Waits until a finding that was added after all others was dealt with: so were the others.
    pub(crate) async fn settled(&self) {
        let mut last = finding("the last of all");
        last.rule = "marker".to_owned();
        self.add(vec![last.into()]).await;
        let done = |alerts: &Vec<AlertView>| {
            alerts
                .iter()
                .any(|alert| alert.title == "the last of all" && alert.state == "firing")
        };
        wait_for(DEADLINE, async || self.alerts().await, done)
            .await
            .unwrap();
    }
}

pub(crate) fn finding(title: &str) -> Finding {
    Finding {
        time: TimeMicros::now(),
        finding_id: FindingId::random(),
        kind: FindingKind::Threshold,
        rule: "runaway-process".to_owned(),
        title: title.to_owned(),
        severity: Severity::High,
        state: FindingState::Open,
        first_time: TimeMicros::now(),
        count: 1,
        score: None,
        subject_kind: SubjectKind::Process,
        subject: "hog".to_owned(),
        pid: Some(7),
        start_boot_ns: Some(1),
        techniques: Vec::new(),
        tactics: Vec::new(),
        factors: "[]".to_owned(),
        evidence: "{}".to_owned(),
    }
}

pub(crate) fn resolved(finding: &Finding) -> Finding {
    let time = TimeMicros::now().max(finding.time.plus_micros(1));
    Finding {
        time,
        state: FindingState::Resolved,
        ..finding.clone()
    }
}

pub(crate) fn step(
    finding: &Finding,
    action_id: ActionId,
    stage: ActionStage,
    ending: Option<Ending>,
) -> ActionEvent {
    ActionEvent {
        time: TimeMicros::now(),
        action_id,
        finding_id: finding.finding_id,
        remedy: "kill-process".to_owned(),
        target: "pid 7 (hog)".to_owned(),
        stage,
        ending,
        reason: String::new(),
        before: "{}".to_owned(),
        after: "{}".to_owned(),
        asserted_by_agent: false,
        ledger_index: 0,
    }
}
