//! Hosts and what runs on them.

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown::{ago, bytes, items, number, percent, plain, text};

/// Hosts whose probes are asked for at once.
const REQUESTS_AT_ONCE: usize = 8;
const BUSIEST: usize = 10;
const HEADER: [&str; 9] = [
    "HOST",
    "STATE",
    "OS",
    "CPU",
    "MEMORY",
    "OPEN FINDINGS",
    "HEALING",
    "AGENT",
    "LAST SEEN",
];
const HEADER_WIDE: [&str; 15] = [
    "HOST",
    "STATE",
    "OS",
    "CPU",
    "MEMORY",
    "OPEN FINDINGS",
    "HEALING",
    "AGENT",
    "LAST SEEN",
    "ID",
    "ADDRESS",
    "CLOCK",
    "KERNEL",
    "CPUS",
    "RAM",
];

pub(crate) async fn all(
    client: &Client,
    output: &Output,
    with_probes: bool,
    removed: bool,
) -> Result<(), Failure> {
    let wanted = removed.then(|| ("removed", "true".to_owned()));
    let mut list = client.get("hosts", wanted.as_slice()).await?;
    let Some(Value::Array(hosts)) = list.get_mut("items").map(Value::take) else {
        return Err(Failure::other("the collector's answer has no list of hosts"));
    };
    let described: Vec<(Value, Option<Value>)> = futures::stream::iter(hosts)
        .map(|host| async move {
            if !with_probes {
                return Ok::<_, Failure>((host, None));
            }
            let probes = client
                .get(&format!("hosts/{}/probes", text(&host, "host_id")), &[])
                .await?;
            Ok((host, Some(probes)))
        })
        .buffered(REQUESTS_AT_ONCE)
        .try_collect()
        .await?;
    if output.is_json() {
        let with = |(mut host, probes): (Value, Option<Value>)| {
            if let (Some(object), Some(mut probes)) = (host.as_object_mut(), probes) {
                object.insert(
                    "probe_status".to_owned(),
                    probes.get_mut("items").map(Value::take).unwrap_or_default(),
                );
            }
            host
        };
        return output.json(&json!({ "items": described.into_iter().map(with).collect::<Vec<_>>() }));
    }
    if described.is_empty() {
        return output.line("no host is enrolled yet; make a token with `fleetmend token create`");
    }
    let header: &[&str] = if output.is_wide() { &HEADER_WIDE } else { &HEADER };
    if !with_probes {
        return output.table(
            header,
            described
                .iter()
                .map(|(host, _)| row(host, output.is_wide()))
                .collect(),
            "",
        );
    }
    for (index, (host, probes)) in described.iter().enumerate() {
        if index > 0 {
            output.line("")?;
        }
        output.table(header, vec![row(host, output.is_wide())], "")?;
        output.line(&probe_table(output, probes.as_ref()))?;
    }
    Ok(())
}

fn row(host: &Value, wide: bool) -> Vec<String> {
    let removed = host.get("removed_at").is_some_and(Value::is_string);
    let state = match (host.get("revoked"), host.get("connected")) {
        _ if removed => "removed",
        (Some(Value::Bool(true)), _) => "revoked",
        (_, Some(Value::Bool(true))) => "connected",
        _ => "away",
    };
    let findings = host.get("findings_open").unwrap_or(&Value::Null);
    let open = match (
        findings.get("total").and_then(Value::as_u64).unwrap_or(0),
        text(findings, "worst"),
    ) {
        (0, _) => "none".to_owned(),
        (count, worst) => format!("{count} (worst: {worst})"),
    };
    let name = if text(host, "hostname").is_empty() {
        text(host, "host_id")
    } else {
        text(host, "hostname")
    };
    let mut row = vec![
        name,
        state.to_owned(),
        text(host, "os"),
        percent(host, "cpu_utilization"),
        percent(host, "memory_utilization"),
        open,
        text(host, "healing"),
        text(host, "agent_version"),
        ago(host, "last_seen"),
    ];
    if wide {
        row.extend([
            text(host, "host_id"),
            text(host, "remote_address"),
            clock(host),
            text(host, "kernel"),
            text(host, "cpu_count"),
        ]);
        row.push(bytes(host, "memory_bytes"));
    }
    row
}

/// How much its clock is ahead; nothing worth a word below a second.
fn clock(host: &Value) -> String {
    let ahead = host.get("clock_ahead_ms").and_then(Value::as_i64);
    match ahead {
        None => String::new(),
        Some(ms) if ms.abs() < 1_000 => "right".to_owned(),
        Some(ms) => format!("{:+} s", ms / 1_000),
    }
}

fn probe_table(output: &Output, probes: Option<&Value>) -> String {
    let probes = probes.map_or(&[][..], |probes| items(probes, "items"));
    if probes.is_empty() {
        return "  no probe has reported yet".to_owned();
    }
    let rows = probes.iter().map(|probe| {
        let hint = text(probe, "hint");
        let reason = text(probe, "reason");
        let why = match (reason.is_empty(), hint.is_empty()) {
            (_, true) => reason,
            (true, false) => hint,
            (false, false) => format!("{reason} → {hint}"),
        };
        let mut row = vec![text(probe, "probe"), text(probe, "state")];
        row.extend(["seen", "delivered", "lost"].map(|name| text(probe, name)));
        row.push(why);
        row
    });
    output.indented(
        &["PROBE", "STATUS", "SEEN", "DELIVERED", "LOST", "REASON"],
        rows.collect(),
        2,
    )
}

pub(crate) async fn one(client: &Client, output: &Output, given: &str) -> Result<(), Failure> {
    let id = client.host(given).await?;
    let (host_path, limit) = (format!("hosts/{id}"), [("limit", BUSIEST.to_string())]);
    let path = |part: &str| format!("hosts/{id}/{part}");
    let (host, probes, models, units, processes) = futures::try_join!(
        async { client.get(&host_path, &[]).await },
        async { client.get(&path("probes"), &[]).await },
        async { client.get(&path("models"), &[]).await },
        async { client.get(&path("units"), &[]).await },
        async { client.get(&path("processes"), &limit).await },
    )?;
    if output.is_json() {
        let of = |list: &Value| Value::from(items(list, "items"));
        return output.json(&json!({
            "host": host, "probes": of(&probes), "models": of(&models), "units": of(&units), "processes": of(&processes),
        }));
    }
    output.table(&HEADER_WIDE, vec![row(&host, true)], "")?;
    output.line(&format!("\nProbes\n{}", probe_table(output, Some(&probes))))?;
    let rows = items(&models, "items").iter().map(|model| {
        [
            "model",
            "version",
            "state",
            "windows",
            "inference_p99_us",
            "reason",
        ]
        .iter()
        .map(|name| text(model, name))
        .collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        let header = ["MODEL", "VERSION", "STATE", "WINDOWS", "P99 µs", "REASON"];
        output.line(&format!("\nModels\n{}", output.indented(&header, rows, 2)))?;
    }
    let failed = items(&units, "items")
        .iter()
        .filter(|unit| text(unit, "active_state") == "failed");
    let rows: Vec<Vec<String>> = failed
        .map(|unit| {
            ["unit", "result", "description"]
                .iter()
                .map(|name| text(unit, name))
                .collect()
        })
        .collect();
    if !rows.is_empty() {
        output.line(&format!(
            "\nFailed units\n{}",
            output.indented(&["UNIT", "RESULT", "DESCRIPTION"], rows, 2)
        ))?;
    }
    let rows: Vec<Vec<String>> = items(&processes, "items").iter().map(process).collect();
    if !rows.is_empty() {
        let header = ["PID", "COMMAND", "CPU", "MEMORY", "COMMAND LINE"];
        output.line(&format!(
            "\nBusiest processes\n{}",
            output.indented(&header, rows, 2)
        ))?;
    }
    Ok(())
}

fn process(row: &Value) -> Vec<String> {
    let cpu = row
        .get("cpu_core_pct")
        .and_then(number)
        .map_or_else(String::new, |cpu| format!("{cpu:.1} %"));
    let line: String = text(row, "command_line").chars().take(120).collect();
    vec![
        plain(row.get("pid").unwrap_or(&Value::Null)),
        text(row, "comm"),
        cpu,
        bytes(row, "rss_bytes"),
        line,
    ]
}

pub(crate) async fn revoke(
    client: &Client,
    output: &Output,
    given: &str,
    reason: &str,
) -> Result<(), Failure> {
    let id = client.host(given).await?;
    client
        .post(&format!("hosts/{id}/revoke"), json!({ "reason": reason }))
        .await?;
    output.line(&format!("revoked {id}; it has to enrol anew"))
}

pub(crate) async fn remove(
    client: &Client,
    output: &Output,
    given: &str,
    reason: &str,
) -> Result<(), Failure> {
    let id = client.host(given).await?;
    client
        .post(&format!("hosts/{id}/remove"), json!({ "reason": reason }))
        .await?;
    output.line(&format!(
        "removed {id}; its data stays. On the host, as root: fleetmend-agent unenrol"
    ))
}
