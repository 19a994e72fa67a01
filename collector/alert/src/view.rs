//! Alerts as they are shown.

use std::collections::BTreeMap;

use fleetmend_event::{ActionId, FindingId, HostId, TimeMicros};
use sqlx::{QueryBuilder, Row as _, Sqlite};

use crate::error::AlertError;
use crate::store::{COLUMNS, alert_of};
use crate::task::Alerting;

/// Messages shown with one alert.
const DELIVERIES_MAX: usize = 50;

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
#[derive(Debug, Clone, PartialEq)]
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
    /// The value that crossed the limit, for a metric; the score, for a finding of a model.
    pub value: Option<f64>,
    /// When it began.
    pub started_at: TimeMicros,
    /// When it fired.
    pub fired_at: Option<TimeMicros>,
    /// When it was over.
    pub resolved_at: Option<TimeMicros>,
    /// When it last changed.
    pub changed_at: TimeMicros,
    /// Its messages, oldest first.
    pub deliveries: Vec<DeliveryView>,
}

/// One message to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Alerting {
    /// Alerts, newest change first.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub async fn alerts(&self, filter: AlertFilter) -> Result<Vec<AlertView>, AlertError> {
        self.read(filter)
            .await
            .map_err(AlertError::database("list alerts"))
    }

    async fn read(&self, filter: AlertFilter) -> Result<Vec<AlertView>, sqlx::Error> {
        let mut query = QueryBuilder::<Sqlite>::new(format!("SELECT {COLUMNS} FROM alert_alerts WHERE true"));
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state);
        }
        if let Some(host) = filter.host_id {
            query.push(" AND host_id = ").push_bind(host.to_string());
        }
        if let Some(finding) = filter.finding_id {
            query.push(" AND finding_id = ").push_bind(finding.to_string());
        }
        if let Some((time, id)) = filter.after {
            query
                .push(" AND (changed_at, alert_id) < (")
                .push_bind(time.0)
                .push(", ")
                .push_bind(id)
                .push(")");
        }
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        query
            .push(" ORDER BY changed_at DESC, alert_id DESC LIMIT ")
            .push_bind(limit);
        let rows = query.build().fetch_all(&self.shared.pool).await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in &rows {
            let alert = alert_of(row)?;
            views.push(AlertView {
                alert_id: alert.alert_id,
                rule: alert.rule,
                state: alert.state.as_str().to_owned(),
                severity: alert.severity,
                host_id: alert.host_id,
                finding_id: alert.finding_id,
                action_id: alert.action_id,
                subject: alert.subject,
                title: alert.title,
                summary: alert.summary,
                value: alert.value,
                started_at: alert.started_at,
                fired_at: alert.fired_at,
                resolved_at: alert.resolved_at,
                changed_at: alert.changed_at,
                deliveries: Vec::new(),
            });
        }
        let mut deliveries = self.deliveries(&views).await?;
        for view in &mut views {
            view.deliveries = deliveries.remove(&view.alert_id).unwrap_or_default();
        }
        Ok(views)
    }

    async fn deliveries(
        &self,
        views: &[AlertView],
    ) -> Result<BTreeMap<String, Vec<DeliveryView>>, sqlx::Error> {
        let mut all: BTreeMap<String, Vec<DeliveryView>> = BTreeMap::new();
        if views.is_empty() {
            return Ok(all);
        }
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT alert_id, delivery_id, receiver, event, state, attempts, created_at, next_attempt_at,
             delivered_at, last_status, last_error FROM alert_deliveries WHERE alert_id IN (",
        );
        let mut ids = query.separated(", ");
        for view in views {
            ids.push_bind(view.alert_id.clone());
        }
        query.push(") ORDER BY created_at, delivery_id");
        for row in query.build().fetch_all(&self.shared.pool).await? {
            let time = |index: usize| row.get::<Option<i64>, _>(index).map(TimeMicros);
            let of_alert = all.entry(row.get(0)).or_default();
            if of_alert.len() < DELIVERIES_MAX {
                of_alert.push(DeliveryView {
                    delivery_id: row.get(1),
                    receiver: row.get(2),
                    event: row.get(3),
                    state: row.get(4),
                    attempts: row.get(5),
                    created_at: TimeMicros(row.get(6)),
                    next_attempt_at: time(7),
                    delivered_at: time(8),
                    last_status: row.get(9),
                    last_error: row.get(10),
                });
            }
        }
        Ok(all)
    }
}
