//! Facts for others.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Export, Records};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Output, clean};
use crate::shown::{items, plain, text};

/// How long to wait for new records before they are asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// A file that brings nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const PAGE: &str = "5000";

pub(crate) async fn run(client: &Client, output: &Output, wanted: Export) -> Result<(), Failure> {
    match wanted {
        Export::Status => status(client, output).await,
        Export::Test { name } => test(client, output, &name).await,
        Export::Ecs(wanted) => records(client, output, "ecs", wanted).await,
        Export::Ocsf(wanted) => records(client, output, "ocsf", wanted).await,
        Export::Parquet {
            table,
            from,
            to,
            host,
            out,
        } => {
            let mut query = vec![("table", table), ("from", from), ("to", to)];
            if let Some(host) = host {
                query.push(("host", client.host(&host).await?));
            }
            parquet(client, output, &query, &out).await
        }
    }
}

async fn status(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.get("export/targets", &[]).await?;
    if output.is_json() {
        return output.json(&answer);
    }
    let mut rows = Vec::new();
    for target in items(&answer, "items") {
        for signal in items(target, "signals") {
            let behind = signal.get("behind_seconds").map(plain).unwrap_or_default();
            rows.push(vec![
                text(target, "name"),
                text(target, "kind"),
                text(signal, "signal"),
                text(signal, "mode"),
                text(signal, "sent"),
                text(signal, "dropped"),
                behind,
                clean(&text(signal, "last_error")),
            ]);
        }
    }
    let header = [
        "TARGET", "KIND", "SIGNAL", "MODE", "SENT", "DROPPED", "BEHIND S", "ERROR",
    ];
    output.table(&header, rows, "no target is configured")?;
    for target in items(&answer, "items") {
        for skip in items(target, "skips") {
            output.line(&format!(
                "{}: nothing of {} between {} and {} was sent: it was older than catch_up_max",
                text(target, "name"),
                text(skip, "subject"),
                text(skip, "from_time"),
                text(skip, "to_time")
            ))?;
        }
    }
    Ok(())
}

async fn test(client: &Client, output: &Output, name: &str) -> Result<(), Failure> {
    let path = format!("export/targets/{name}/test");
    let answer = client.post(&path, json!({})).await?;
    if output.is_json() {
        return output.json(&answer);
    }
    if answer.get("accepted") == Some(&Value::Bool(true)) {
        return output.line(&format!("{name} takes what it is sent"));
    }
    let reason = clean(&text(&answer, "reason"));
    Err(Failure::other(format!(
        "{name} does not take what it is sent: {reason}"
    )))
}

async fn records(client: &Client, output: &Output, format: &str, wanted: Records) -> Result<(), Failure> {
    let mut fixed = vec![
        ("format", format.to_owned()),
        ("table", wanted.table),
        ("from", wanted.from),
        ("limit", PAGE.to_owned()),
    ];
    fixed.extend(wanted.to.map(|to| ("to", to)));
    if let Some(host) = &wanted.host {
        fixed.push(("host", client.host(host).await?));
    }
    let mut cursor: Option<String> = None;
    loop {
        let mut query = fixed.clone();
        query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
        let answer = client.raw("export/records", &query).await?;
        let head = |name: &str| {
            let value = answer.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let (next, more) = (head("fleetmend-next-cursor"), head("fleetmend-more"));
        let body = answer.text().await.map_err(|error| client.broken(&error))?;
        output.text(&body)?;
        cursor = next.or(cursor);
        if more.as_deref() == Some("true") {
            continue;
        }
        if !wanted.follow {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes the file under another name first, so that it is whole once it is there.
async fn parquet(
    client: &Client,
    output: &Output,
    query: &[(&str, String)],
    out: &Path,
) -> Result<(), Failure> {
    if out.exists() {
        return Err(Failure::other(format!("{} is there already", out.display())));
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = download(client, query, partial).await;
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(failure) => {
            // Best effort: the failure is what is told.
            std::fs::remove_file(partial).ok();
            return Err(failure);
        }
    };
    std::fs::rename(partial, out)?;
    output.line(&format!("{bytes} bytes in {}", out.display()))
}

async fn download(client: &Client, query: &[(&str, String)], partial: &Path) -> Result<u64, Failure> {
    let mut answer = client.raw("export/parquet", query).await?;
    let mut file = std::fs::File::create(partial)?;
    let (mut bytes, mut end) = (0_u64, Vec::new());
    loop {
        let chunk = tokio::time::timeout(SILENCE_MAX, answer.chunk()).await;
        let chunk = chunk.map_err(|_| Failure::other("the collector sent nothing for two minutes"))?;
        let Some(chunk) = chunk.map_err(|error| client.broken(&error))? else {
            break;
        };
        file.write_all(&chunk)?;
        bytes = bytes.saturating_add(chunk.len() as u64);
        end.extend_from_slice(&chunk);
        let beyond = end.len().saturating_sub(4);
        end.drain(..beyond);
    }
    file.sync_all()?;
    // A Parquet file ends in these four bytes; one that broke off does not.
    if end == b"PAR1" {
        Ok(bytes)
    } else {
        Err(Failure::other("the file broke off: ask again, or for less"))
    }
}
