//! Alerts, as the API shows them.

use async_trait::async_trait;
use collector_alert::Alerting;
use collector_api::{AlertFilter, AlertView, Alerts, BackendError, DeliveryView};

/// Asks the alert room.
pub(crate) struct AlertAdapter(pub(crate) Alerting);

#[async_trait]
impl Alerts for AlertAdapter {
    async fn alerts(&self, filter: AlertFilter) -> Result<Vec<AlertView>, BackendError> {
        let wanted = collector_alert::AlertFilter {
            state: filter.state,
            host_id: filter.host_id,
            finding_id: filter.finding_id,
            after: filter.after,
            limit: filter.limit,
        };
        let alerts = self
            .0
            .alerts(wanted)
            .await
            .map_err(|error| BackendError::Failed(error.to_string()))?;
        Ok(alerts.into_iter().map(view).collect())
    }
}

fn view(alert: collector_alert::AlertView) -> AlertView {
    AlertView {
        alert_id: alert.alert_id,
        rule: alert.rule,
        state: alert.state,
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
        deliveries: alert.deliveries.into_iter().map(delivery).collect(),
    }
}

fn delivery(delivery: collector_alert::DeliveryView) -> DeliveryView {
    DeliveryView {
        delivery_id: delivery.delivery_id,
        receiver: delivery.receiver,
        event: delivery.event,
        state: delivery.state,
        attempts: delivery.attempts,
        created_at: delivery.created_at,
        next_attempt_at: delivery.next_attempt_at,
        delivered_at: delivery.delivered_at,
        last_status: delivery.last_status,
        last_error: delivery.last_error,
    }
}
