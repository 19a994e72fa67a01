//! What is known of hosts, from all who know: enrolment, the live streams, and the store.

use std::collections::BTreeMap;

use fleetmend_event::{HostId, TimeMicros};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::{Conditions, Row, count_of, latest, number_of, text, text_of, time, time_of};
use crate::state::ApiState;

/// Rows of each part of the list at most; with 1,000 hosts each has room for 100 processors.
const ROWS_MAX: usize = 100_000;
/// A sample older than this says nothing about now.
const SAMPLE_AGE_MAX_MS: i64 = 120_000;
/// Probes report every minute; what has not for this long is gone.
const PROBE_AGE_MAX_MS: i64 = 24 * 3_600_000;

/// Whom the collector's own findings and series belong to; it is no host.
const COLLECTOR: HostId = HostId::from_bytes([0; 16]);

/// A host as the contract has it.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Host {
    host_id: String,
    hostname: Option<Value>,
    os: Option<Value>,
    kernel: Option<Value>,
    arch: Option<Value>,
    cpu_count: Option<Value>,
    memory_bytes: Option<Value>,
    boot_time: Option<Value>,
    agent_version: Option<Value>,
    healing: Option<Value>,
    info_time: Option<Value>,
    enrolled_at: Option<String>,
    revoked: bool,
    /// When it left the fleet or was taken out of it.
    removed_at: Option<String>,
    connected: bool,
    connected_since: Option<String>,
    remote_address: Option<String>,
    last_seen: Option<String>,
    /// How much its clock is ahead of the collector's.
    clock_ahead_ms: Option<i64>,
    probes: ProbeCounts,
    findings_open: FindingCounts,
    cpu_utilization: Option<f64>,
    memory_utilization: Option<f64>,
    metrics_time: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct ProbeCounts {
    real: u64,
    degraded: u64,
    broken: u64,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct FindingCounts {
    total: u64,
    info: u64,
    low: u64,
    medium: u64,
    high: u64,
    critical: u64,
    worst: Option<&'static str>,
}

impl Host {
    /// Whether it is no host of the fleet any more; what it sent is still there.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed_at.is_some()
    }
}

type Hosts = BTreeMap<HostId, Host>;

impl ApiState {
    /// All hosts that the caller may see, or the one; ordered by name, then id.
    pub(crate) async fn host_list(
        &self,
        caller: &Caller,
        only: Option<HostId>,
    ) -> Result<Vec<Host>, Problem> {
        let mut hosts = Hosts::new();
        self.add_enrolled(&mut hosts, only).await?;
        self.add_live(&mut hosts, only);
        let now = TimeMicros::now();
        let of_host = || Conditions::default().host(only);
        let recent_probes = of_host().and(format!("time >= {}", time(now.plus_millis(-PROBE_AGE_MAX_MS))));
        let info = latest("host_info", "host_id", &of_host());
        let probes = format!(
            "SELECT host_id, state, count(*) AS n FROM ({}) GROUP BY host_id, state",
            latest("probe_status", "host_id, probe", &recent_probes)
        );
        let findings = format!(
            "SELECT host_id, severity, count(*) AS n FROM ({}) WHERE state = 'open' GROUP BY host_id, severity",
            latest("findings", "host_id, finding_id", &of_host())
        );
        let recent = of_host()
            .and("name IN ('system.cpu.utilization', 'system.memory.utilization')")
            .and(format!("time >= {}", time(now.plus_millis(-SAMPLE_AGE_MAX_MS))));
        let samples = format!(
            "SELECT host_id, name, labels, time, value FROM (SELECT *, row_number() OVER (PARTITION BY host_id, name, labels \
             ORDER BY time DESC) AS recency FROM metrics WHERE {recent}) WHERE recency = 1"
        );
        let (info, probes, findings, samples) = tokio::try_join!(
            self.rows(caller, &info, ROWS_MAX),
            self.rows(caller, &probes, ROWS_MAX),
            self.rows(caller, &findings, ROWS_MAX),
            self.rows(caller, &samples, ROWS_MAX),
        )?;
        each(&mut hosts, &info, add_info);
        each(&mut hosts, &probes, |host, row| add_probes(&mut host.probes, row));
        each(&mut hosts, &findings, |host, row| {
            add_findings(&mut host.findings_open, row)
        });
        add_samples(&mut hosts, &samples);
        hosts.retain(|id, _| *id != COLLECTOR && caller.scope.sees(*id));
        let mut list: Vec<Host> = hosts.into_values().collect();
        list.sort_by(|a, b| (name_of(a), &a.host_id).cmp(&(name_of(b), &b.host_id)));
        Ok(list)
    }

    /// Whether anybody knows this host, and it may be seen.
    pub(crate) async fn knows_host(&self, caller: &Caller, host: HostId) -> Result<bool, Problem> {
        if !caller.scope.sees(host) {
            return Ok(false);
        }
        if self.hosts.live_hosts().iter().any(|live| live.host_id == host) {
            return Ok(true);
        }
        if self
            .enrolments
            .hosts()
            .await?
            .iter()
            .any(|enrolled| enrolled.host_id == host)
        {
            return Ok(true);
        }
        let query = format!(
            "SELECT host_id FROM host_info WHERE host_id = {} LIMIT 1",
            text(&host.to_string())
        );
        Ok(!self.rows(caller, &query, 1).await?.is_empty())
    }

    async fn add_enrolled(&self, hosts: &mut Hosts, only: Option<HostId>) -> Result<(), Problem> {
        for enrolled in self.enrolments.hosts().await? {
            if only.is_none_or(|only| only == enrolled.host_id) {
                let host = entry(hosts, enrolled.host_id);
                host.enrolled_at = Some(enrolled.enrolled_at.to_string());
                host.revoked = enrolled.revoked;
                host.removed_at = enrolled.removed_at.map(|time| time.to_string());
            }
        }
        Ok(())
    }

    fn add_live(&self, hosts: &mut Hosts, only: Option<HostId>) {
        for live in self.hosts.live_hosts() {
            if only.is_none_or(|only| only == live.host_id) {
                let host = entry(hosts, live.host_id);
                host.connected = live.connected_since.is_some();
                host.connected_since = live.connected_since.map(|time| time.to_string());
                host.remote_address = live.remote_address;
                host.clock_ahead_ms = live.clock_ahead_ms;
                host.last_seen = live.last_seen.map(|time| time.to_string());
            }
        }
    }
}

fn entry(hosts: &mut Hosts, id: HostId) -> &mut Host {
    hosts.entry(id).or_insert_with(|| Host {
        host_id: id.to_string(),
        ..Host::default()
    })
}

fn each(hosts: &mut Hosts, rows: &[Row], add: impl Fn(&mut Host, &Row)) {
    for row in rows {
        if let Ok(id) = text_of(row, "host_id").parse() {
            add(entry(hosts, id), row);
        }
    }
}

fn name_of(host: &Host) -> &str {
    host.hostname
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or("\u{10ffff}")
}

fn add_info(host: &mut Host, row: &Row) {
    let column = |name: &str| row.get(name).cloned();
    host.hostname = column("hostname");
    host.os = column("os");
    host.kernel = column("kernel");
    host.arch = column("arch");
    host.cpu_count = column("cpu_count");
    host.memory_bytes = column("memory_bytes");
    host.boot_time = column("boot_time");
    host.agent_version = column("agent_version");
    host.healing = column("healing");
    host.info_time = column("time");
    if host.last_seen.is_none() {
        host.last_seen = row.get("ingested_at").and_then(Value::as_str).map(str::to_owned);
    }
}

fn add_probes(counts: &mut ProbeCounts, row: &Row) {
    let count = count_of(row, "n");
    match text_of(row, "state") {
        "REAL" => counts.real += count,
        "DEGRADED" => counts.degraded += count,
        _ => counts.broken += count,
    }
}

fn add_findings(counts: &mut FindingCounts, row: &Row) {
    let count = count_of(row, "n");
    counts.total += count;
    match text_of(row, "severity") {
        "critical" => counts.critical += count,
        "high" => counts.high += count,
        "medium" => counts.medium += count,
        "low" => counts.low += count,
        _ => counts.info += count,
    }
    let by_weight = [
        ("critical", counts.critical),
        ("high", counts.high),
        ("medium", counts.medium),
        ("low", counts.low),
        ("info", counts.info),
    ];
    counts.worst = by_weight
        .into_iter()
        .find(|(_, count)| *count > 0)
        .map(|(word, _)| word);
}

/// Sum and number of the last samples of one kind.
#[derive(Default, Clone, Copy)]
struct Mean(f64, u32);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 += value;
        self.1 += 1;
    }

    fn get(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / f64::from(self.1))
    }
}

#[derive(Default)]
struct Samples {
    cpu_whole: Mean,
    cpu_idle: Mean,
    cpu_waiting: Mean,
    memory_used: Mean,
    time: Option<TimeMicros>,
}

/// Utilization out of the series of the semantic conventions: by mode and processor where they are given apart.
fn add_samples(hosts: &mut Hosts, rows: &[Row]) {
    let mut all: BTreeMap<HostId, Samples> = BTreeMap::new();
    for row in rows {
        let (Ok(id), Some(value)) = (text_of(row, "host_id").parse(), number_of(row, "value")) else {
            continue;
        };
        let samples = all.entry(id).or_default();
        samples.time = samples.time.max(time_of(row, "time"));
        let label = |name: &str| {
            row.get("labels")
                .and_then(|labels| labels.get(name))
                .and_then(Value::as_str)
        };
        match (
            text_of(row, "name"),
            label("cpu.mode"),
            label("system.memory.state"),
        ) {
            ("system.cpu.utilization", None, _) => samples.cpu_whole.add(value),
            ("system.cpu.utilization", Some("idle"), _) => samples.cpu_idle.add(value),
            ("system.cpu.utilization", Some("iowait"), _) => samples.cpu_waiting.add(value),
            ("system.memory.utilization", _, None | Some("used")) => samples.memory_used.add(value),
            _ => {}
        }
    }
    for (id, samples) in all {
        let host = entry(hosts, id);
        let busy = samples
            .cpu_idle
            .get()
            .map(|idle| 1.0 - idle - samples.cpu_waiting.get().unwrap_or(0.0));
        host.cpu_utilization = samples
            .cpu_whole
            .get()
            .or(busy)
            .map(|value| value.clamp(0.0, 1.0));
        host.memory_utilization = samples.memory_used.get().map(|value| value.clamp(0.0, 1.0));
        host.metrics_time = samples.time.map(|time| time.to_string());
    }
}
