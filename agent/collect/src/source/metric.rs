//! Names of the second sources' metrics.

/// Records that were read, by `source`.
pub(crate) const RECORDS: &str = "fleetmend_agent_collect_source_records_total";
/// Records that were lost before they were facts, by `source` and `reason`.
pub(crate) const LOST: &str = "fleetmend_agent_collect_source_lost_total";
/// Executions whose arguments were gone before they could be read.
pub(crate) const ARGS_UNKNOWN: &str = "fleetmend_agent_collect_source_args_unknown_total";
/// Raw audit records that nobody had room for.
pub(crate) const RAW_DROPPED: &str = "fleetmend_agent_collect_audit_records_dropped_total";
