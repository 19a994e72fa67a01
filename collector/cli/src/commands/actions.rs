//! Healing transactions.

use serde_json::Value;

use crate::client::Client;
use crate::commands::findings::place;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{clock, items, plain, short, text};

pub(crate) async fn all(
    client: &Client,
    output: &Output,
    host: Option<String>,
    ending: Option<String>,
    limit: usize,
) -> Result<(), Failure> {
    let mut query = Vec::new();
    if let Some(host) = host {
        query.push(("host", client.host(&host).await?));
    }
    query.extend(ending.map(|ending| ("ending", ending)));
    let page = client.pages("actions", &query, limit).await?;
    if output.is_json() {
        return output.json(&page);
    }
    let rows = items(&page, "items").iter().map(|action| {
        vec![
            short(&text(action, "action_id"), output.is_wide()),
            clock(action, "started_at"),
            text(action, "remedy"),
            text(action, "target"),
            text(action, "outcome"),
            text(action, "reason"),
        ]
    });
    let header = ["ACTION", "STARTED", "REMEDY", "TARGET", "OUTCOME", "REASON"];
    output.table(&header, rows.collect(), "nothing was done yet")
}

pub(crate) async fn one(
    client: &Client,
    output: &Output,
    given: &str,
    host: Option<&str>,
) -> Result<(), Failure> {
    let (host, id) = place(client, "actions", "action_id", given, host).await?;
    let action = client.get(&format!("actions/{host}/{id}"), &[]).await?;
    if output.is_json() {
        return output.json(&action);
    }
    output.line(&format!(
        "action {id} on host {host}, for finding {}",
        text(&action, "finding_id")
    ))?;
    describe(output, &action)
}

/// A transaction with its steps and what was measured.
pub(crate) fn describe(output: &Output, action: &Value) -> Result<(), Failure> {
    let by_word = action.get("asserted_by_agent") == Some(&Value::Bool(true));
    let word = if by_word {
        ", its precondition asserted by the agent"
    } else {
        ""
    };
    output.line(&format!(
        "  {} on {}: {}{word}",
        text(action, "remedy"),
        text(action, "target"),
        text(action, "outcome")
    ))?;
    let steps = items(action, "steps").iter().map(|step| {
        vec![
            clock(step, "time"),
            text(step, "stage"),
            text(step, "ending"),
            text(step, "reason"),
        ]
    });
    output.line(&output.indented(&["TIME", "STEP", "ENDING", "REASON"], steps.collect(), 4))?;
    let measured = measured(action);
    if measured.is_empty() {
        return Ok(());
    }
    output.line(&output.indented(&["MEASURED", "BEFORE", "AFTER"], measured, 4))
}

fn measured(action: &Value) -> Vec<Vec<String>> {
    let side = |name: &str| action.get(name).and_then(Value::as_object);
    let (before, after) = (side("before"), side("after"));
    let mut names: Vec<&String> = before
        .into_iter()
        .chain(after)
        .flat_map(|side| side.keys())
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let value = |side: Option<&serde_json::Map<String, Value>>, name: &str| {
        side.and_then(|side| side.get(name))
            .map(plain)
            .unwrap_or_default()
    };
    names
        .into_iter()
        .map(|name| vec![name.clone(), value(before, name), value(after, name)])
        .collect()
}
