//! Names of the sensor's metrics.

/// Records read from the rings, by `family`.
pub(crate) const RECORDS_READ: &str = "fleetmend_agent_collect_bpf_records_total";
/// Facts that did not reach the channel or the ring, by `family`.
pub(crate) const RECORDS_LOST: &str = "fleetmend_agent_collect_bpf_records_lost_total";
/// Facts handed to the channel, by `source`.
pub(crate) const FACTS_SENT: &str = "fleetmend_agent_collect_sensor_facts_sent_total";
/// Facts that the channel did not take, by `source`.
pub(crate) const FACTS_DROPPED: &str = "fleetmend_agent_collect_sensor_facts_dropped_total";
/// Processes that the inventory had no room for.
pub(crate) const PROCESSES_DROPPED: &str = "fleetmend_agent_collect_processes_dropped_total";
/// Events by `family`, `outcome` and `cpu`: seen, and what became of them.
pub(crate) const EVENTS: &str = "fleetmend_agent_collect_bpf_events_total";
/// Runs of the programs, by `family` and `duty`.
pub(crate) const RUNS: &str = "fleetmend_agent_collect_bpf_program_runs_total";
/// Part of a core that the programs took lately, by `family` and `duty`.
pub(crate) const PROGRAM_CPU: &str = "fleetmend_agent_collect_bpf_program_cpu_core_ratio";
/// How much a family sheds by its budget, by `family`: 0 for nothing.
pub(crate) const SHED_LEVEL: &str = "fleetmend_agent_collect_bpf_shed_level";
/// Suspects that could not be profiled because too many were asked for.
pub(crate) const SUSPECTS_DROPPED: &str = "fleetmend_agent_collect_bpf_suspects_dropped_total";
/// Windows in which system calls were profiled, by `occasion`.
pub(crate) const PROFILE_WINDOWS: &str = "fleetmend_agent_collect_bpf_profile_windows_total";
