//! Ends of certificates.

use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, date, items, short, text, until};

pub(crate) async fn all(client: &Client, output: &Output, expiring: Option<u32>) -> Result<(), Failure> {
    let query: Vec<(&str, String)> = expiring
        .map(|days| ("expiring_days", days.to_string()))
        .into_iter()
        .collect();
    let list = client.get("certificates", &query).await?;
    if output.is_json() {
        return output.json(&list);
    }
    let rows = items(&list, "items").iter().map(|end| {
        vec![
            text(end, "name"),
            state(end).to_owned(),
            until(end, "not_after"),
            date(end, "not_after"),
            ago(end, "last_seen"),
            text(end, "renewal"),
            short(&text(end, "host_id"), output.is_wide()),
        ]
    });
    let header = ["OF", "STATE", "ENDS", "ON", "LAST SEEN", "RENEWED", "HOST ID"];
    let none = match expiring {
        Some(days) => format!("no certificate ends within {days} days"),
        None => "there are no certificates; hosts get theirs when they enrol".to_owned(),
    };
    output.table(&header, rows.collect(), &none)
}

/// In one word, what a person looks for first.
fn state(end: &Value) -> &'static str {
    let is = |name: &str| end.get(name).and_then(Value::as_bool);
    match (is("revoked"), is("expired"), is("connected")) {
        (Some(true), _, _) => "revoked",
        (_, Some(true), _) => "expired",
        (_, _, Some(true)) => "connected",
        (_, _, Some(false)) => "away",
        _ => "",
    }
}
