//! What the API needs of the rest of the collector. The binary's wiring implements these over store, ingest and alert.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use fleetmend_event::{ActionId, FindingId, HostId, HostScope, TimeMicros};
use tokio::sync::broadcast;

/// What one query may cost, and whose facts it may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// Rows wanted at most; more are cut off without an error.
    pub rows_max: usize,
    /// How long it may take.
    pub timeout: Duration,
    /// Whose rows it may see: no row of another host, nor a gap of one, may reach the answer.
    pub hosts: HostScope,
    /// Who asks: the name of a user.
    pub asker: Arc<str>,
}

/// A query that runs or waits for a turn.
#[derive(Debug, Clone)]
pub struct QueryView {
    /// Its number.
    pub id: u64,
    /// Who asked, as [`QueryLimits::asker`] said.
    pub asker: Arc<str>,
    /// The beginning of its text.
    pub text: String,
    /// When it came.
    pub since: TimeMicros,
    /// Whether it still waits for a turn.
    pub is_waiting: bool,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The query does not parse, plan or run, or is not a query at all.
    #[error("{0}")]
    Invalid(String),
    /// It took longer than allowed.
    #[error("the query took longer than {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The store does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody cancelled it.
    #[error("the query was cancelled; `fleetmend audit` names who did it")]
    Cancelled,
}

/// What a query gives back.
#[derive(Debug, Clone)]
pub struct QueryAnswer {
    /// The rows: at least one batch, so that the columns are known when there are no rows.
    pub batches: Vec<RecordBatch>,
    /// Whether there were more rows than allowed.
    pub truncated: bool,
    /// Known losses in the tables and the time that were read, as rows of the table `gaps`.
    pub gaps: Vec<serde_json::Value>,
}

/// Read-only SQL over all facts.
#[async_trait]
pub trait SqlQuery: Send + Sync + 'static {
    /// The result of one query. Anything that would write, or read a file, is [`QueryError::Invalid`].
    async fn sql(&self, query: &str, limits: QueryLimits) -> Result<QueryAnswer, QueryError>;
    /// Queries that run or wait, the oldest first.
    fn queries(&self) -> Vec<QueryView>;
    /// Cancels one; `false` when it has ended.
    fn cancel(&self, id: u64) -> bool;
}

/// Rows that were just made durable.
#[derive(Debug, Clone)]
pub struct CommittedFacts {
    /// Whose.
    pub host_id: HostId,
    /// Name of the table in SQL.
    pub table: &'static str,
    /// The rows as they were sent: `metrics` as chunks of series, without `host_id` and `ingested_at`.
    pub batch: RecordBatch,
}

/// What a live stream is told.
#[derive(Debug, Clone)]
pub enum LiveFact {
    /// Rows were committed.
    Committed(Arc<CommittedFacts>),
    /// So many batches were committed that nobody was told of: they are in the store all the same.
    Skipped(u64),
}

/// Facts as they arrive.
pub trait LiveFacts: Send + Sync + 'static {
    /// Everything that is committed from now on. Bounded: a slow reader skips and is told how much.
    fn subscribe(&self) -> broadcast::Receiver<LiveFact>;
}

/// A host as its stream shows it.
#[derive(Debug, Clone)]
pub struct LiveHost {
    /// The host.
    pub host_id: HostId,
    /// Since when its stream stands; `None` when it does not.
    pub connected_since: Option<TimeMicros>,
    /// Where it connects or last connected from.
    pub remote_address: Option<String>,
    /// When it last sent anything.
    pub last_seen: Option<TimeMicros>,
    /// How much its clock is ahead of the collector's, as far as its heartbeats tell.
    pub clock_ahead_ms: Option<i64>,
}

/// Who is connected.
pub trait HostsLive: Send + Sync + 'static {
    /// Every host that was seen since the collector started.
    fn live_hosts(&self) -> Vec<LiveHost>;
}

/// An order to something behind these traits could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It cannot be asked for like this.
    #[error("{0}")]
    Invalid(String),
    /// It failed on our side.
    #[error("{0}")]
    Failed(String),
}

/// A token that was just made; the only time its text is there.
#[derive(Clone)]
pub struct NewEnrolmentToken {
    /// Its id in lists.
    pub id: String,
    /// The text for `fleetmend-agent enroll`. A secret.
    pub token: String,
    /// When it ends.
    pub expires_at: TimeMicros,
    /// How many hosts it enrols.
    pub uses: u32,
}

/// A token in a list.
#[derive(Debug, Clone)]
pub struct EnrolmentTokenView {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created_at: TimeMicros,
    /// By whom.
    pub created_by: String,
    /// When it ends.
    pub expires_at: TimeMicros,
    /// How many hosts it was made for.
    pub uses: u32,
    /// How many it still enrols.
    pub uses_left: u32,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// A host that was enrolled once.
#[derive(Debug, Clone)]
pub struct EnrolledHost {
    /// The host.
    pub host_id: HostId,
    /// What it called itself then.
    pub hostname: String,
    /// When.
    pub enrolled_at: TimeMicros,
    /// Whether its identity was revoked since.
    pub revoked: bool,
    /// When it left the fleet or was taken out of it; then it is revoked too, and listed only when asked for.
    pub removed_at: Option<TimeMicros>,
    /// When its last certificate ends.
    pub certificate_not_after: TimeMicros,
}

/// A certificate or a key of the collector itself.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    /// What it is for, in a few words.
    pub name: String,
    /// When it ends; none for what has no end of its own.
    pub not_after: Option<TimeMicros>,
    /// Who renews it, and how.
    pub renewal: &'static str,
}

/// One entry of an audit trail.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Unique within its trail.
    pub id: String,
    /// When.
    pub time: TimeMicros,
    /// Who: a user, or `host:<id>`.
    pub actor: String,
    /// What was done, such as `login`, `enrol`, `revoke-host`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// `allowed`, `failed` (what was allowed could not be done), `refused`, or `done`.
    pub outcome: String,
    /// In words.
    pub detail: String,
    /// From where, when known.
    pub remote_address: Option<String>,
}

/// Enrolment, revocation and their audit.
#[async_trait]
pub trait Enrolments: Send + Sync + 'static {
    /// Makes a token.
    async fn create_token(
        &self,
        by: &str,
        lifetime: Duration,
        uses: u32,
    ) -> Result<NewEnrolmentToken, BackendError>;
    /// Every token that is kept.
    async fn tokens(&self) -> Result<Vec<EnrolmentTokenView>, BackendError>;
    /// Takes a token back.
    async fn revoke_token(&self, by: &str, id: &str) -> Result<(), BackendError>;
    /// Every host that was ever enrolled.
    async fn hosts(&self) -> Result<Vec<EnrolledHost>, BackendError>;
    /// The certificates of the collector and its fleet.
    async fn certificates(&self) -> Result<Vec<OwnCertificate>, BackendError>;
    /// Revokes a host's identity and closes its stream.
    async fn revoke_host(&self, by: &str, host: HostId, reason: &str) -> Result<(), BackendError>;
    /// Revokes a host and counts it no longer; its data stays. Done before, it changes nothing.
    async fn remove_host(&self, by: &str, host: HostId, reason: &str) -> Result<(), BackendError>;
    /// Entries before `before`, newest first, at most `limit`.
    async fn audit(&self, before: TimeMicros, limit: usize) -> Result<Vec<AuditRow>, BackendError>;
}

/// What part of the alerts is wanted.
#[derive(Debug, Clone, Default)]
pub struct AlertFilter {
    /// Only in this state.
    pub state: Option<String>,
    /// Only of this host.
    pub host_id: Option<HostId>,
    /// Only of this finding.
    pub finding_id: Option<FindingId>,
    /// Only those that come after this one in the order of the list: (`changed_at`, `alert_id`).
    pub after: Option<(TimeMicros, String)>,
    /// At most so many.
    pub limit: usize,
}

/// An alert with what became of its messages.
#[derive(Debug, Clone)]
pub struct AlertView {
    /// Its id.
    pub alert_id: String,
    /// Rule that made it.
    pub rule: String,
    /// `pending`, `waiting`, `firing`, `resolved`, `healed`, `late` or `unknown`.
    pub state: String,
    /// Severity.
    pub severity: String,
    /// Host it is about.
    pub host_id: Option<HostId>,
    /// Finding it is about.
    pub finding_id: Option<FindingId>,
    /// What was tried, when something was.
    pub action_id: Option<ActionId>,
    /// What it is about, in words.
    pub subject: String,
    /// One line for a person.
    pub title: String,
    /// What happened and what was tried.
    pub summary: String,
    /// The value that crossed the limit, for a metric.
    pub value: Option<f64>,
    /// When it began.
    pub started_at: TimeMicros,
    /// When it fired.
    pub fired_at: Option<TimeMicros>,
    /// When it was over.
    pub resolved_at: Option<TimeMicros>,
    /// When it last changed.
    pub changed_at: TimeMicros,
    /// Its messages.
    pub deliveries: Vec<DeliveryView>,
}

/// One message to one receiver.
#[derive(Debug, Clone)]
pub struct DeliveryView {
    /// Its id, the header `Fleetmend-Delivery`.
    pub delivery_id: String,
    /// Receiver's name in the configuration.
    pub receiver: String,
    /// `firing` or `resolved`.
    pub event: String,
    /// `waiting`, `delivered` or `given_up`.
    pub state: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was written.
    pub created_at: TimeMicros,
    /// When it is tried again.
    pub next_attempt_at: Option<TimeMicros>,
    /// When it was accepted.
    pub delivered_at: Option<TimeMicros>,
    /// Last HTTP status.
    pub last_status: Option<u16>,
    /// Last error in words.
    pub last_error: Option<String>,
}

/// Alerts as they stand.
#[async_trait]
pub trait Alerts: Send + Sync + 'static {
    /// Newest change first.
    async fn alerts(&self, filter: AlertFilter) -> Result<Vec<AlertView>, BackendError>;
}

/// The process as it says of itself.
pub trait Operations: Send + Sync + 'static {
    /// Each condition and, where it does not hold, why.
    fn readiness(&self) -> Vec<(&'static str, Option<String>)>;
    /// Its metrics in the Prometheus text format.
    fn metrics_text(&self) -> String;
}
