//! A collector as small as the API sees it: the real store, and fakes of ingest and alert.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use collector_api::*;
use collector_store::{Store, StoreConfig};
use fleetmend_event::{Fact, HostId, HostScope, TimeMicros};
use fleetmend_shutdown::{TaskKind, Tasks};
use fleetmend_testkit::TestControl;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::broadcast;

pub(crate) const ADMIN_PASSWORD: &str = "an admin's password";
pub(crate) const VIEWER_PASSWORD: &str = "a viewer's password";

/// A host whose facts not everybody may see; the fakes know of it once it is set, and leave it out of what they tell
/// within a scope that does not see it.
#[derive(Clone, Default)]
pub(crate) struct Foreign(Arc<Mutex<Option<HostId>>>);

impl Foreign {
    pub(crate) fn set(&self, host: HostId) {
        *self.0.lock() = Some(host);
    }

    pub(crate) fn get(&self) -> Option<HostId> {
        *self.0.lock()
    }

    pub(crate) fn within(&self, scope: &HostScope) -> Option<HostId> {
        self.get().filter(|host| scope.sees(*host))
    }
}

pub(crate) struct Testbed {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    pub(crate) store: Store,
    pub(crate) host: HostId,
    pub(crate) foreign: Foreign,
    pub(crate) alerts: Arc<FakeAlerts>,
    pub(crate) enrolments: Arc<FakeEnrolments>,
    pub(crate) accounts: Accounts,
    pub(crate) certificate: Certificate,
    pub(crate) tasks: Tasks,
    _folder: tempfile::TempDir,
    pub(crate) control: TestControl,
}

struct StoreAsSql(Store);

#[async_trait]
impl SqlQuery for StoreAsSql {
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<QueryAnswer, QueryError> {
        let of_store = collector_store::QueryLimits {
            rows_max: limits.rows_max,
            timeout: limits.timeout,
            hosts: limits.hosts,
            asker: limits.asker,
            ..collector_store::QueryLimits::default()
        };
        match self.0.sql(query, of_store).await {
            Ok(answer) => Ok(QueryAnswer {
                batches: if answer.batches.is_empty() {
                    vec![RecordBatch::new_empty(answer.schema)]
                } else {
                    answer.batches
                },
                truncated: answer.truncated,
                gaps: answer.gaps.iter().map(|gap| json!(gap)).collect(),
            }),
            Err(collector_store::QueryError::Cancelled) => Err(QueryError::Cancelled),
            Err(error) => Err(QueryError::Invalid(error.to_string())),
        }
    }

    fn queries(&self) -> Vec<QueryView> {
        let view = |query: collector_store::RunningQuery| QueryView {
            id: query.id,
            asker: query.asker,
            text: query.text,
            since: query.since,
            is_waiting: !query.has_turn,
        };
        self.0.queries().into_iter().map(view).collect()
    }

    fn cancel(&self, id: u64) -> bool {
        self.0.cancel(id)
    }
}

struct StoreAsLive(broadcast::Sender<LiveFact>);

impl StoreAsLive {
    fn start(store: &Store, tasks: &Tasks) -> Self {
        let live = broadcast::Sender::new(64);
        let (mut committed, sender, token) = (store.subscribe(), live.clone(), tasks.token());
        tasks.spawn("live", TaskKind::BestEffort, async move {
            while let Some(Ok(facts)) = token.run_until_cancelled(committed.recv()).await {
                let (host_id, table, batch) = (facts.host, facts.table.name, facts.batch.clone());
                // Nobody may be listening.
                sender
                    .send(LiveFact::Committed(Arc::new(CommittedFacts {
                        host_id,
                        table,
                        batch,
                    })))
                    .ok();
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Self(live)
    }
}

impl LiveFacts for StoreAsLive {
    fn subscribe(&self) -> broadcast::Receiver<LiveFact> {
        self.0.subscribe()
    }
}

pub(crate) struct FakeEnrolments {
    pub(crate) host: HostId,
    foreign: Foreign,
    pub(crate) revoked: Mutex<Vec<(HostId, String)>>,
    removed: Mutex<Vec<TimeMicros>>,
    pub(crate) tokens: Mutex<Vec<String>>,
}

#[async_trait]
impl Enrolments for FakeEnrolments {
    async fn create_token(&self, _: &str, _: Duration, uses: u32) -> Result<NewEnrolmentToken, BackendError> {
        let id = format!("t{}", self.tokens.lock().len());
        self.tokens.lock().push(id.clone());
        Ok(NewEnrolmentToken {
            id,
            token: "fm1.secret".to_owned(),
            expires_at: TimeMicros::now(),
            uses,
        })
    }

    async fn tokens(&self) -> Result<Vec<EnrolmentTokenView>, BackendError> {
        let now = TimeMicros::now();
        let view = |id: &String| EnrolmentTokenView {
            id: id.clone(),
            created_at: now,
            created_by: "admin".to_owned(),
            expires_at: now,
            uses: 1,
            uses_left: 1,
            revoked: false,
        };
        Ok(self.tokens.lock().iter().map(view).collect())
    }

    async fn revoke_token(&self, _: &str, id: &str) -> Result<(), BackendError> {
        let mut tokens = self.tokens.lock();
        let before = tokens.len();
        tokens.retain(|token| token != id);
        if tokens.len() < before {
            Ok(())
        } else {
            Err(BackendError::NotFound("token"))
        }
    }

    async fn hosts(&self) -> Result<Vec<EnrolledHost>, BackendError> {
        let view = |host_id: HostId| EnrolledHost {
            host_id,
            hostname: "web-1".to_owned(),
            enrolled_at: TimeMicros::now(),
            revoked: self.revoked.lock().iter().any(|(host, _)| *host == host_id),
            removed_at: self
                .removed
                .lock()
                .first()
                .copied()
                .filter(|_| host_id == self.host),
            certificate_not_after: TimeMicros::now().plus_millis(5 * 24 * 3_600_000),
        };
        Ok([Some(self.host), self.foreign.get()]
            .into_iter()
            .flatten()
            .map(view)
            .collect())
    }

    async fn certificates(&self) -> Result<Vec<OwnCertificate>, BackendError> {
        Ok(vec![OwnCertificate {
            name: "issuing certificate".to_owned(),
            not_after: Some(TimeMicros::now().plus_millis(300 * 24 * 3_600_000)),
            renewal: "by an operator",
        }])
    }

    async fn revoke_host(&self, _: &str, host: HostId, reason: &str) -> Result<(), BackendError> {
        self.revoked.lock().push((host, reason.to_owned()));
        Ok(())
    }

    async fn remove_host(&self, _: &str, host: HostId, reason: &str) -> Result<(), BackendError> {
        self.revoked.lock().push((host, reason.to_owned()));
        self.removed.lock().push(TimeMicros::now());
        Ok(())
    }

    async fn audit(&self, before: TimeMicros, _: usize) -> Result<Vec<AuditRow>, BackendError> {
        let row = AuditRow {
            id: "ingest-1".to_owned(),
            time: TimeMicros(1_000_000),
            actor: "host".to_owned(),
            action: "enrol".to_owned(),
            subject: self.host.to_string(),
            outcome: "allowed".to_owned(),
            detail: String::new(),
            remote_address: None,
        };
        Ok(if row.time < before { vec![row] } else { Vec::new() })
    }
}

struct FakeLive(HostId, Foreign);

impl HostsLive for FakeLive {
    fn live_hosts(&self) -> Vec<LiveHost> {
        let view = |host_id| LiveHost {
            host_id,
            connected_since: Some(TimeMicros::now()),
            remote_address: Some("192.0.2.7:4711".to_owned()),
            last_seen: Some(TimeMicros::now()),
            clock_ahead_ms: Some(-1_500),
        };
        [Some(self.0), self.1.get()]
            .into_iter()
            .flatten()
            .map(view)
            .collect()
    }
}

/// One target, two records, and a file in two pieces.
struct FakeExports(Foreign);

#[async_trait]
impl Exports for FakeExports {
    async fn targets(&self) -> Result<Vec<Value>, BackendError> {
        // What a target answers, and what was left out, names hosts.
        let host = self.0.get().map(|host| host.to_string());
        let signal = json!({
            "signal": "metrics", "last_error": &host, "last_refusal": [TimeMicros::now(), &host],
        });
        Ok(vec![json!({
            "name": "there", "kind": "otlp", "signals": [signal], "skips": [{ "subject": &host }],
        })])
    }

    async fn test(&self, name: &str) -> Result<Value, BackendError> {
        match name {
            "there" => Ok(json!({ "accepted": true, "reason": "" })),
            _ => Err(BackendError::NotFound("export target")),
        }
    }

    async fn records(&self, wanted: RecordsWanted) -> Result<RecordsAnswer, BackendError> {
        let record = |number: u32| json!({ "format": wanted.format, "table": wanted.table, "n": number });
        match wanted.cursor.as_deref() {
            None => Ok(RecordsAnswer {
                records: match self.0.within(&wanted.hosts) {
                    Some(host) => vec![json!({ "host": host })],
                    None => vec![record(1), record(2)],
                },
                next_cursor: "after-2".to_owned(),
                more: false,
            }),
            Some("after-2") => Ok(RecordsAnswer {
                records: Vec::new(),
                next_cursor: "after-2".to_owned(),
                more: false,
            }),
            Some(_) => Err(BackendError::Invalid(
                "cursor is no cursor of an answer".to_owned(),
            )),
        }
    }

    fn parquet(
        &self,
        wanted: ParquetWanted,
    ) -> tokio::sync::mpsc::Receiver<Result<axum::body::Bytes, BackendError>> {
        let (to, pieces) = tokio::sync::mpsc::channel(2);
        if wanted.table == "ledger" {
            to.try_send(Err(BackendError::Invalid("too many at once".to_owned())))
                .unwrap();
        } else {
            let host = self.0.within(&wanted.hosts);
            let text = host.map_or_else(|| "PAR1".to_owned(), |host| host.to_string());
            to.try_send(Ok("PAR1".into())).unwrap();
            to.try_send(Ok(text.into())).unwrap();
        }
        pieces
    }
}

/// Alerts that a test puts there, newest change first.
#[derive(Default)]
pub(crate) struct FakeAlerts(pub(crate) Mutex<Vec<AlertView>>);

#[async_trait]
impl Alerts for FakeAlerts {
    async fn alerts(&self, filter: AlertFilter) -> Result<Vec<AlertView>, BackendError> {
        let alerts = self.0.lock().clone().into_iter();
        let wanted = alerts
            .filter(|alert| filter.host_id.is_none_or(|host| alert.host_id == Some(host)))
            .filter(|alert| filter.finding_id.is_none_or(|id| alert.finding_id == Some(id)))
            .filter(|alert| filter.state.as_ref().is_none_or(|state| *state == alert.state))
            .filter(|alert| {
                let place = (alert.changed_at, alert.alert_id.clone());
                filter.after.as_ref().is_none_or(|after| place < *after)
            });
        Ok(wanted.take(filter.limit).collect())
    }
}

struct FakeOperations;

impl Operations for FakeOperations {
    fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("store", None), ("ingest", Some("starting".to_owned()))]
    }

    fn metrics_text(&self) -> String {
        "fleetmend_build_info 1\n".to_owned()
    }
}

impl Testbed {
    pub(crate) async fn start() -> Self {
        Self::start_with(ApiConfig::default(), None).await
    }

    pub(crate) async fn start_with(
        mut config: ApiConfig,
        certificate: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let (control, folder) = (TestControl::new().unwrap(), tempfile::tempdir().unwrap());
        let tasks = Tasks::new();
        let store_config = StoreConfig {
            folder: folder.path().join("store"),
            ..StoreConfig::default()
        };
        let store = Store::open(store_config).await.unwrap();
        store.run(&tasks.child("store")).unwrap();
        let accounts = Accounts::open(control.open().await.unwrap()).await.unwrap();
        accounts
            .create("admin", ADMIN_PASSWORD, Role::Admin)
            .await
            .unwrap();
        accounts
            .create("viewer", VIEWER_PASSWORD, Role::Viewer)
            .await
            .unwrap();
        let host = HostId::random();
        let (foreign, alerts) = (Foreign::default(), Arc::new(FakeAlerts::default()));
        let enrolments = Arc::new(FakeEnrolments {
            host,
            foreign: foreign.clone(),
            revoked: Mutex::default(),
            removed: Mutex::default(),
            tokens: Mutex::default(),
        });
        let backends = Backends {
            sql: Arc::new(StoreAsSql(store.clone())),
            promql: Arc::new(crate::evaluator::FakePromql(foreign.clone())),
            live: Arc::new(StoreAsLive::start(&store, &tasks.child("live"))),
            hosts: Arc::new(FakeLive(host, foreign.clone())),
            enrolments: enrolments.clone(),
            alerts: alerts.clone(),
            exports: Arc::new(FakeExports(foreign.clone())),
            operations: Arc::new(FakeOperations),
            assets: Arc::new(EmbeddedAssets),
        };
        config.listen.set_port(0);
        let api = Api::bind(&config, certificate, accounts.clone(), backends)
            .await
            .unwrap();
        let url = format!("{}://{}", api.scheme(), api.address());
        let certificate = api.certificate();
        api.serve(&tasks.child("api"));
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(client_tls())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self {
            url,
            http,
            store,
            host,
            foreign,
            alerts,
            enrolments,
            accounts,
            certificate,
            tasks,
            _folder: folder,
            control,
        }
    }

    pub(crate) async fn add(&self, facts: Vec<Fact>) {
        self.store.append_for(self.host, facts).await.unwrap();
    }

    pub(crate) async fn login(&self, user: &str, password: &str) -> Value {
        let (status, body) = self
            .call(
                Method::POST,
                "login",
                None,
                Some(json!({ "user": user, "password": password })),
            )
            .await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn admin(&self) -> String {
        self.login("admin", ADMIN_PASSWORD).await["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn viewer(&self) -> String {
        self.login("viewer", VIEWER_PASSWORD).await["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let answer = self.send(method, path, token, body).await;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        let value =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
        (status, value)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> reqwest::Response {
        let mut request = self.http.request(method, format!("{}/api/v1/{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.timeout(Duration::from_secs(30)).send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, Some(token), None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

pub(crate) fn client_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
