//! What the API needs to answer as Prometheus does: an evaluator, series, rules. The binary's wiring implements it over
//! the evaluator, the store and alerting.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fleetmend_event::HostScope;

/// What one query asks for beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromBounds {
    /// Whose series it may read.
    pub hosts: HostScope,
    /// The caller's own limit of time; the evaluator's stands where it is shorter.
    pub timeout: Option<Duration>,
    /// How long a sample stands for its series, where not as long as usual.
    pub lookback: Option<Duration>,
}

/// Why there is no answer, in the kinds of Prometheus' API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromError {
    /// The query or a selector cannot be understood.
    #[error("{0}")]
    BadData(String),
    /// It was understood and cannot be answered.
    #[error("{0}")]
    Execution(String),
    /// It took too long, waiting for its turn included.
    #[error("{0}")]
    Timeout(String),
    /// Whoever asked went away, or the process ends.
    #[error("{0}")]
    Canceled(String),
    /// The store does not answer now.
    #[error("{0}")]
    Unavailable(String),
}

/// Labels of a series in the order of their names.
pub type PromLabels = Vec<(Arc<str>, Arc<str>)>;

/// Milliseconds since 1970, and a value.
pub type PromPoint = (i64, f64);

/// The answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub struct PromAnswer {
    /// Its values.
    pub data: PromData,
    /// What is doubtful.
    pub warnings: Vec<String>,
    /// What is worth knowing; known losses are here.
    pub infos: Vec<String>,
}

/// Values by the kind of the result.
#[derive(Debug, Clone, PartialEq)]
pub enum PromData {
    /// A number.
    Scalar(PromPoint),
    /// A string.
    Text(i64, String),
    /// One point for each series.
    Vector(Vec<(PromLabels, PromPoint)>),
    /// Points of each series.
    Matrix(Vec<(PromLabels, Vec<PromPoint>)>),
}

/// Which series are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromSelection {
    /// Whose series may be told.
    pub hosts: HostScope,
    /// Selectors; a series has to match one of them, or none when there are none.
    pub selectors: Vec<String>,
    /// Milliseconds since 1970; with samples from here.
    pub start_ms: i64,
    /// To here.
    pub end_ms: i64,
    /// At most so many items; 0 for as many as the limits allow.
    pub limit: usize,
}

/// A list with what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromList<T> {
    /// Sorted.
    pub items: Vec<T>,
    /// Such as that there are more.
    pub warnings: Vec<String>,
}

/// What is known of a metric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PromMetric {
    /// Name, as queries write it.
    pub name: String,
    /// `gauge`, `counter` or `unknown`.
    pub kind: &'static str,
    /// In words.
    pub help: String,
    /// Unit in UCUM.
    pub unit: String,
}

/// Rules that are evaluated together.
#[derive(Debug, Clone, PartialEq)]
pub struct PromRuleGroup {
    /// Name, unique within its file.
    pub name: String,
    /// File it comes from.
    pub file: String,
    /// How often it is evaluated.
    pub interval: Duration,
    /// Series that one rule may give; 0 for no limit.
    pub limit: usize,
    /// When it was last evaluated, milliseconds since 1970.
    pub evaluated_at_ms: Option<i64>,
    /// How long that took.
    pub took: Duration,
    /// Its rules, in their order.
    pub rules: Vec<PromRule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct PromRule {
    /// Alert, or the name of the recorded series.
    pub name: String,
    /// The expression.
    pub query: String,
    /// Labels that it sets.
    pub labels: Vec<(String, String)>,
    /// Why its last evaluation failed.
    pub fault: Option<String>,
    /// When it was last evaluated, milliseconds since 1970.
    pub evaluated_at_ms: Option<i64>,
    /// How long that took.
    pub took: Duration,
    /// What a rule for alerts has and a recording one has not.
    pub alerting: Option<PromAlerting>,
}

/// What belongs to a rule for alerts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PromAlerting {
    /// How long the expression has to hold.
    pub hold: Duration,
    /// How long it keeps firing after that.
    pub keep_firing: Duration,
    /// Texts for a person, as templates.
    pub annotations: Vec<(String, String)>,
    /// Those that are pending or firing now.
    pub alerts: Vec<PromAlert>,
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, PartialEq)]
pub struct PromAlert {
    /// With `alertname`.
    pub labels: Vec<(String, String)>,
    /// Texts for a person.
    pub annotations: Vec<(String, String)>,
    /// `pending` or `firing`.
    pub state: &'static str,
    /// Since when, milliseconds since 1970.
    pub active_at_ms: i64,
    /// The value that it is about.
    pub value: f64,
}

/// Answers PromQL.
///
/// # Cancel safety
/// Every future may be dropped: what it began ends soon after.
#[async_trait]
pub trait Promql: Send + Sync + 'static {
    /// The value at one time.
    async fn instant(&self, query: &str, time_ms: i64, bounds: PromBounds) -> Result<PromAnswer, PromError>;

    /// The values from start to end.
    async fn range(
        &self,
        query: &str,
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
        bounds: PromBounds,
    ) -> Result<PromAnswer, PromError>;

    /// Label sets of series.
    async fn series(&self, selection: PromSelection) -> Result<PromList<PromLabels>, PromError>;

    /// Names of labels.
    async fn label_names(&self, selection: PromSelection) -> Result<PromList<String>, PromError>;

    /// Values of one label.
    async fn label_values(
        &self,
        label: &str,
        selection: PromSelection,
    ) -> Result<PromList<String>, PromError>;

    /// Every metric that is known of these hosts, by name.
    async fn metadata(&self, hosts: &HostScope) -> Result<Vec<PromMetric>, PromError>;

    /// The query as it is usually laid out.
    async fn format(&self, query: &str) -> Result<String, PromError>;

    /// The tree of a query, as Prometheus' API tells it.
    async fn tree(&self, query: &str) -> Result<serde_json::Value, PromError>;

    /// Milliseconds of a duration such as `1h30m`, or of a number of seconds.
    fn duration_ms(&self, text: &str) -> Result<i64, PromError>;

    /// Rules in force, with their alerts, as far as these are about hosts that may be seen.
    async fn rules(&self, hosts: &HostScope) -> Result<Vec<PromRuleGroup>, PromError>;
}
