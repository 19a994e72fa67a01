//! Alerts.

use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{clock, items, short, text};

pub(crate) async fn all(
    client: &Client,
    output: &Output,
    state: Option<String>,
    limit: usize,
) -> Result<(), Failure> {
    let query: Vec<(&str, String)> = state.into_iter().map(|state| ("state", state)).collect();
    let page = client.pages("alerts", &query, limit).await?;
    if output.is_json() {
        return output.json(&page);
    }
    let rows = items(&page, "items").iter().map(|alert| {
        vec![
            short(&text(alert, "alert_id"), output.is_wide()),
            clock(alert, "changed_at"),
            text(alert, "state"),
            text(alert, "severity"),
            text(alert, "rule"),
            text(alert, "summary"),
            messages(alert),
        ]
    });
    let header = [
        "ALERT", "CHANGED", "STATE", "SEVERITY", "RULE", "SUMMARY", "MESSAGES",
    ];
    output.table(&header, rows.collect(), "no alerts")
}

fn messages(alert: &Value) -> String {
    let all = items(alert, "deliveries").iter().map(|delivery| {
        let error = text(delivery, "last_error");
        let error = if error.is_empty() {
            error
        } else {
            format!(" ({error})")
        };
        format!(
            "{} to {} {}{error}",
            text(delivery, "event"),
            text(delivery, "receiver"),
            text(delivery, "state")
        )
    });
    all.collect::<Vec<_>>().join("\n")
}
