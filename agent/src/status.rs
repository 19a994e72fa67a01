//! What `fleetmend-agent status` shows: the last row of every probe and model, the spool and the connection.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use agent_collect::bpf::SensorBoard;
use agent_spool::SpoolHandle;
use agent_stream::StreamState;
use fleetmend_event::Fact;
use fleetmend_event::table::{FindingState, ModelStatus, ProbeState, ProbeStatus};
use fleetmend_identity::LiveIdentity;
use metrics::{Unit, describe_gauge, gauge};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::budget::BudgetState;

/// Most probes, models and findings that are remembered.
const ENTRIES_MAX: usize = 1_024;

/// How each probe stands.
const PROBE_STATE: &str = "fleetmend_agent_status_probe_state";

/// Describes the metric to the recorder.
pub(crate) fn describe() {
    describe_gauge!(
        PROBE_STATE,
        Unit::Count,
        "how a probe stands: 0 REAL, 1 DEGRADED, 2 BROKEN, by probe"
    );
}

#[derive(Default)]
struct Board {
    probes: BTreeMap<String, ProbeStatus>,
    models: BTreeMap<String, ModelStatus>,
    findings: BTreeMap<String, String>,
}

/// The last states; clones are the same board.
#[derive(Clone, Default)]
pub(crate) struct StatusBoard(Arc<RwLock<Board>>);

impl StatusBoard {
    /// Remembers `fact` when it is a state.
    pub(crate) fn note(&self, fact: &Fact) {
        let wanted = matches!(
            fact,
            Fact::ProbeStatus(_) | Fact::ModelStatus(_) | Fact::Finding(_)
        );
        if !wanted {
            return;
        }
        let mut board = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match fact {
            Fact::ProbeStatus(row) => {
                keep(&mut board.probes, row.probe.clone(), row.as_ref().clone());
                // One that found no room on the board has no series either.
                if board.probes.contains_key(&row.probe) {
                    gauge!(PROBE_STATE, "probe" => row.probe.clone()).set(state_number(row.state));
                }
            }
            Fact::ModelStatus(row) => keep(&mut board.models, row.model.clone(), row.as_ref().clone()),
            Fact::Finding(row) if row.state == FindingState::Resolved => {
                board.findings.remove(&row.finding_id.to_string());
            }
            Fact::Finding(row) => keep(
                &mut board.findings,
                row.finding_id.to_string(),
                format!("{}: {}", row.severity, row.title),
            ),
            _ => {}
        }
    }

    fn json(&self) -> Value {
        let board = self.0.read().unwrap_or_else(PoisonError::into_inner);
        json!({
            "probes": board.probes.values().collect::<Vec<_>>(),
            "models": board.models.values().collect::<Vec<_>>(),
            "findings": board.findings.values().collect::<Vec<_>>(),
        })
    }
}

fn state_number(state: ProbeState) -> f64 {
    match state {
        ProbeState::Real => 0.0,
        ProbeState::Degraded => 1.0,
        ProbeState::Broken => 2.0,
    }
}

fn keep<T>(map: &mut BTreeMap<String, T>, key: String, value: T) {
    if map.len() < ENTRIES_MAX || map.contains_key(&key) {
        map.insert(key, value);
    }
}

/// Everything `status` shows, gathered when it is asked for.
#[derive(Clone)]
pub(crate) struct StatusSource {
    /// Probes, models, findings.
    pub(crate) board: StatusBoard,
    /// The probes in the kernel.
    pub(crate) sensor: SensorBoard,
    /// What waits.
    pub(crate) spool: SpoolHandle,
    /// The connection.
    pub(crate) stream: watch::Receiver<StreamState>,
    /// The agent's budget of itself.
    pub(crate) budget: watch::Receiver<BudgetState>,
    /// Who this host is.
    pub(crate) identity: LiveIdentity,
}

impl StatusSource {
    /// One JSON object.
    pub(crate) fn json(&self) -> Value {
        let identity = self.identity.current();
        let mut status = self.board.json();
        let more = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "host_id": identity.host().to_string(),
            "fleet": identity.fleet().to_string(),
            "certificate_not_after": identity.peer().not_after,
            "collectors": identity.collectors(),
            "stream": *self.stream.borrow(),
            "spool": self.spool.stat(),
            "budget": *self.budget.borrow(),
            "sensor": self.sensor.families(),
        });
        if let (Value::Object(status), Value::Object(more)) = (&mut status, more) {
            status.extend(more);
        }
        status
    }
}

/// The budget and what is left out, for a person.
pub(crate) fn budget_in_words(budget: &Value) -> String {
    let number = |key: &str| budget.get(key).and_then(Value::as_f64);
    let text = |key: &str| budget.get(key).and_then(Value::as_str).unwrap_or_default();
    let mib =
        |key: &str| number(key).map_or_else(|| "?".to_owned(), |bytes| format!("{:.0}", bytes / 1_048_576.0));
    let pct = |key: &str| number(key).map_or_else(|| "?".to_owned(), |pct| format!("{pct:.1}"));
    let egress = number("egress_bytes_per_s_max").map_or_else(
        || "no cap".to_owned(),
        |rate| format!("{:.0} KiB/s", rate / 1024.0),
    );
    let mut lines = format!(
        "budget       memory {} of {} MiB, processor {} of {} % of a core, disk {} MiB, egress {egress}",
        mib("memory_bytes"),
        mib("memory_bytes_max"),
        pct("cpu_core_pct"),
        pct("cpu_core_pct_max"),
        mib("disk_bytes_max"),
    );
    if number("cgroup_limit_bytes").is_some() {
        lines.push_str(&format!(
            "\n             cgroup holds {} of {} MiB, its limit is {} MiB",
            mib("cgroup_held_bytes"),
            mib("cgroup_share_bytes"),
            mib("cgroup_limit_bytes")
        ));
    }
    let step = number("step").unwrap_or_default();
    if step > 0.0 {
        let since = text("since");
        lines.push_str(&format!(
            "\n             step {step:.0} of 4, {}, since {since}: {}",
            text("step_name"),
            text("reason")
        ));
    }
    let left_out = budget
        .get("left_out")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for part in left_out.filter_map(Value::as_str) {
        lines.push_str(&format!("\n             left out: {part}"));
    }
    if let Some(warning) = budget.get("warning").and_then(Value::as_str) {
        lines.push_str(&format!("\n             warning: {warning}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("status.rs"), 1);
    }

    #[test]
    fn budget_is_told_in_words_with_what_is_left_out() {
        let mut budget = json!({
            "step": 0, "step_name": "everything", "reason": "", "left_out": [], "warning": null,
            "memory_bytes": 62_914_560, "memory_bytes_max": 150_994_944, "cpu_core_pct": null,
            "cpu_core_pct_max": 25.0, "disk_bytes_max": 570_425_344, "egress_bytes_per_s_max": null,
        });
        let calm =
            "budget       memory 60 of 144 MiB, processor ? of 25.0 % of a core, disk 544 MiB, egress no cap";
        assert_eq!(budget_in_words(&budget), calm);
        budget["step"] = json!(1);
        budget["reason"] = json!("memory: 150 MiB");
        budget["left_out"] = json!(["processes"]);
        budget["warning"] = json!("above the limit");
        let words = budget_in_words(&budget);
        for part in [
            "step 1 of 4",
            "memory: 150 MiB",
            "left out: processes",
            "warning: above",
        ] {
            assert!(words.contains(part), "{words}");
        }
    }
}
