//! The budget's metrics; every name stands here and nowhere else.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::keeper::BudgetState;
use super::ladder::Move;

/// Step of the ladder.
const STEP: &str = "fleetmend_agent_budget_step_state";
/// Processor time over the last minute.
const CPU: &str = "fleetmend_agent_budget_cpu_core_percent";
/// Budget of processor time.
const CPU_BUDGET: &str = "fleetmend_agent_budget_cpu_allowed_core_percent";
/// Resident memory.
const MEMORY: &str = "fleetmend_agent_budget_memory_bytes";
/// Budget of memory.
const MEMORY_BUDGET: &str = "fleetmend_agent_budget_memory_allowed_bytes";
/// Proportional memory.
const PROPORTIONAL: &str = "fleetmend_agent_budget_memory_proportional_bytes";
/// Memory of the cgroup that cannot be taken back.
const HELD: &str = "fleetmend_agent_budget_cgroup_held_bytes";
/// Steps that were taken.
const MOVES: &str = "fleetmend_agent_budget_moves_total";
/// Rows that the last step kept from the spool.
const SHED: &str = "fleetmend_agent_budget_shed_rows_total";
/// Starts after an OOM kill.
const OOM_STARTS: &str = "fleetmend_agent_budget_oom_starts_total";

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    describe_gauge!(STEP, Unit::Count, "step of the ladder; 0 leaves nothing out");
    describe_gauge!(
        CPU,
        Unit::Percent,
        "processor time of the agent over a minute, of one core"
    );
    describe_gauge!(
        CPU_BUDGET,
        Unit::Percent,
        "processor time it may take, of one core"
    );
    describe_gauge!(MEMORY, Unit::Bytes, "resident memory of the agent");
    describe_gauge!(MEMORY_BUDGET, Unit::Bytes, "resident memory it may take");
    describe_gauge!(
        PROPORTIONAL,
        Unit::Bytes,
        "proportional memory, every five minutes"
    );
    describe_gauge!(
        HELD,
        Unit::Bytes,
        "memory of a limited cgroup that cannot be taken back"
    );
    describe_counter!(MOVES, Unit::Count, "steps taken on the ladder, by cause");
    describe_counter!(
        SHED,
        Unit::Count,
        "rows that the last step kept from the spool, by table"
    );
    describe_counter!(OOM_STARTS, Unit::Count, "starts after an OOM kill");
}

/// Records a measurement; what was not measured keeps its last value.
pub(crate) fn record(state: &BudgetState) {
    gauge!(STEP).set(f64::from(state.step));
    gauge!(CPU_BUDGET).set(state.cpu_core_pct_max);
    gauge!(MEMORY_BUDGET).set(state.memory_bytes_max as f64);
    if let Some(cpu) = state.cpu_core_pct {
        gauge!(CPU).set(cpu);
    }
    if let Some(bytes) = state.memory_bytes {
        gauge!(MEMORY).set(bytes as f64);
    }
    if let Some(bytes) = state.memory_proportional_bytes {
        gauge!(PROPORTIONAL).set(bytes as f64);
    }
    if let Some(bytes) = state.cgroup_held_bytes {
        gauge!(HELD).set(bytes as f64);
    }
}

pub(crate) fn moved(step: Move) {
    counter!(MOVES, "cause" => step.cause.as_str()).increment(1);
}

pub(crate) fn shed(table: &'static str, rows: u64) {
    counter!(SHED, "table" => table).increment(rows);
}

pub(crate) fn oom_start() {
    counter!(OOM_STARTS).increment(1);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_described_and_recorded() {
        fleetmend_testkit::metric::assert_described_and_recorded(include_str!("metrics.rs"), 10);
    }
}
