//! Findings and their explanation.

use serde_json::Value;

use crate::args::Findings;
use crate::client::Client;
use crate::commands::actions;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, clock, items, number, plain, short, text};

/// How far back an abbreviated id is looked for.
const LOOKED_THROUGH: usize = 500;

pub(crate) async fn all(client: &Client, output: &Output, wanted: Findings) -> Result<(), Failure> {
    let mut query = Vec::new();
    if let Some(host) = &wanted.host {
        query.push(("host", client.host(host).await?));
    }
    let others = [
        ("state", wanted.state),
        ("severity", wanted.severity),
        ("kind", wanted.kind),
    ];
    query.extend(
        others
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let page = client.pages("findings", &query, wanted.limit).await?;
    if output.is_json() {
        return output.json(&page);
    }
    let rows = items(&page, "items").iter().map(|finding| {
        vec![
            short(&text(finding, "finding_id"), output.is_wide()),
            clock(finding, "time"),
            text(finding, "severity"),
            text(finding, "state"),
            text(finding, "kind"),
            text(finding, "title"),
            text(finding, "subject"),
            text(finding, "techniques"),
            text(finding, "count"),
        ]
    });
    let header = [
        "FINDING", "CHANGED", "SEVERITY", "STATE", "KIND", "TITLE", "ABOUT", "ATT&CK", "COUNT",
    ];
    output.table(&header, rows.collect(), "no findings")
}

pub(crate) async fn one(
    client: &Client,
    output: &Output,
    given: &str,
    host: Option<&str>,
) -> Result<(), Failure> {
    let (host, id) = place(client, "findings", "finding_id", given, host).await?;
    let detail = client.get(&format!("findings/{host}/{id}"), &[]).await?;
    if output.is_json() {
        return output.json(&detail);
    }
    let finding = detail.get("finding").unwrap_or(&Value::Null);
    output.line(&format!(
        "{}: {}",
        text(finding, "severity"),
        text(finding, "title")
    ))?;
    let mut facts = vec![
        ("finding", id),
        ("host", host),
        (
            "state",
            format!("{}, {}", text(finding, "state"), ago(finding, "time")),
        ),
        (
            "first noticed",
            format!(
                "{}, {} times since",
                clock(finding, "first_time"),
                text(finding, "count")
            ),
        ),
        (
            "noticed by",
            format!("{} {}", text(finding, "kind"), text(finding, "rule")),
        ),
        (
            "about",
            format!(
                "{} {} {}",
                text(finding, "subject_kind"),
                text(finding, "subject"),
                pid(finding)
            ),
        ),
    ];
    if !text(finding, "techniques").is_empty() {
        facts.push((
            "ATT&CK",
            format!("{} ({})", text(finding, "techniques"), text(finding, "tactics")),
        ));
    }
    if let Some(score) = finding.get("score").and_then(number) {
        facts.push(("score", format!("{score:.4}")));
    }
    let rows = facts
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value.trim().to_owned()]);
    output.line(&output.indented(&[], rows.collect(), 2))?;
    explain(output, finding)?;
    let tried = items(&detail, "actions");
    output.line(if tried.is_empty() {
        "\nNothing was done about it."
    } else {
        "\nWhat was done about it"
    })?;
    for action in tried {
        actions::describe(output, action)?;
    }
    for alert in items(&detail, "alerts") {
        output.line(&format!(
            "\nAlert {}: {}",
            text(alert, "state"),
            text(alert, "summary")
        ))?;
    }
    if !items(&detail, "gaps").is_empty() {
        output.line("\nFacts of that time were lost on the way: see `fleetmend gaps`.")?;
    }
    Ok(())
}

fn pid(finding: &Value) -> String {
    let pid = text(finding, "pid");
    if pid.is_empty() {
        pid
    } else {
        format!("(pid {pid})")
    }
}

fn explain(output: &Output, finding: &Value) -> Result<(), Failure> {
    let factors = items(finding, "factors");
    if !factors.is_empty() {
        let row = |factor: &Value| {
            ["feature", "value", "expected", "contribution"]
                .map(|name| rounded(factor, name))
                .to_vec()
        };
        let rows = factors.iter().map(row).collect();
        let table = output.indented(&["FEATURE", "VALUE", "EXPECTED", "CONTRIBUTION"], rows, 2);
        output.line(&format!("\nWhat made it\n{table}"))?;
    }
    let evidence = finding
        .get("evidence")
        .and_then(Value::as_object)
        .filter(|evidence| !evidence.is_empty());
    if let Some(evidence) = evidence {
        let rows = evidence
            .iter()
            .map(|(name, value)| vec![name.clone(), plain(value)])
            .collect();
        output.line(&format!("\nEvidence\n{}", output.indented(&[], rows, 2)))?;
    }
    Ok(())
}

fn rounded(factor: &Value, name: &str) -> String {
    match factor.get(name) {
        Some(value) if value.is_f64() => format!("{:.4}", value.as_f64().unwrap_or_default()),
        Some(value) => plain(value),
        None => String::new(),
    }
}

/// Host and whole id of something that was given by its id or a part of it.
pub(crate) async fn place(
    client: &Client,
    path: &str,
    column: &str,
    given: &str,
    host: Option<&str>,
) -> Result<(String, String), Failure> {
    let mut query = Vec::new();
    if let Some(host) = host {
        let host = client.host(host).await?;
        if given.parse::<fleetmend_event::FindingId>().is_ok() {
            return Ok((host, given.to_owned()));
        }
        query.push(("host", host));
    }
    let page = client.pages(path, &query, LOOKED_THROUGH).await?;
    let fits = |item: &&Value| {
        let id = text(item, column);
        id.starts_with(given) || id.ends_with(given)
    };
    let found: Vec<&Value> = items(&page, "items").iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((text(one, "host_id"), text(one, column))),
        [] => Err(Failure::Absent(format!(
            "none of the newest {LOOKED_THROUGH} {path} has the id {given}; with --host an older one is found by its whole id"
        ))),
        several => Err(Failure::other(format!(
            "{given} is the id of {} {path}; give more of it",
            several.len()
        ))),
    }
}
