//! Alerts as they are shown.

use std::collections::BTreeMap;

use fleetmend_control::{self as control, ControlError};
use fleetmend_event::{ActionId, FindingId, HostId, TimeMicros};

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
    /// When the control database refuses.
    pub async fn alerts(&self, filter: AlertFilter) -> Result<Vec<AlertView>, AlertError> {
        self.read(filter)
            .await
            .map_err(AlertError::database("list alerts"))
    }

    async fn read(&self, filter: AlertFilter) -> Result<Vec<AlertView>, ControlError> {
        let mut text = format!("SELECT {COLUMNS} FROM alert_alerts WHERE true");
        let mut values: Vec<control::Value> = Vec::new();
        let mut mark = |value: control::Value| {
            values.push(value);
            format!("${}", values.len())
        };
        if let Some(state) = filter.state {
            text += &format!(" AND state = {}", mark(state.into()));
        }
        if let Some(host) = filter.host_id {
            text += &format!(" AND host_id = {}", mark(host.to_string().into()));
        }
        if let Some(finding) = filter.finding_id {
            text += &format!(" AND finding_id = {}", mark(finding.to_string().into()));
        }
        if let Some((time, id)) = filter.after {
            let (time, id) = (mark(time.0.into()), mark(id.into()));
            text += &format!(" AND (changed_at, alert_id) < ({time}, {id})");
        }
        let limit = mark(i64::try_from(filter.limit).unwrap_or(i64::MAX).into());
        text += &format!(" ORDER BY changed_at DESC, alert_id DESC LIMIT {limit}");
        let rows = control::composed(text)
            .bind_all(values)
            .fetch_all(&self.shared.pool)
            .await?;
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
    ) -> Result<BTreeMap<String, Vec<DeliveryView>>, ControlError> {
        let mut all: BTreeMap<String, Vec<DeliveryView>> = BTreeMap::new();
        if views.is_empty() {
            return Ok(all);
        }
        let marks: Vec<String> = (1..=views.len()).map(|mark| format!("${mark}")).collect();
        let text = format!(
            "SELECT alert_id, delivery_id, receiver, event, state, attempts, created_at, next_attempt_at,
             delivered_at, last_status, last_error FROM alert_deliveries WHERE alert_id IN ({})
             ORDER BY created_at, delivery_id",
            marks.join(", ")
        );
        let ids = views.iter().map(|view| view.alert_id.as_str().into());
        for row in control::composed(text)
            .bind_all(ids)
            .fetch_all(&self.shared.pool)
            .await?
        {
            let time =
                |index: usize| Ok::<_, ControlError>(row.try_get::<Option<i64>>(index)?.map(TimeMicros));
            let of_alert = all.entry(row.try_get(0)?).or_default();
            if of_alert.len() < DELIVERIES_MAX {
                of_alert.push(DeliveryView {
                    delivery_id: row.try_get(1)?,
                    receiver: row.try_get(2)?,
                    event: row.try_get(3)?,
                    state: row.try_get(4)?,
                    attempts: row.try_get(5)?,
                    created_at: TimeMicros(row.try_get(6)?),
                    next_attempt_at: time(7)?,
                    delivered_at: time(8)?,
                    last_status: row.try_get(9)?,
                    last_error: row.try_get(10)?,
                });
            }
        }
        Ok(all)
    }
}
