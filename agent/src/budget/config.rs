//! What can be set.

use agent_spool::SpoolConfig;
use fleetmend_config::{ByteSize, Faults};
use serde::Deserialize;

/// Below this the agent could not even start.
const MEMORY_BYTES_MIN: u64 = 32 << 20;
/// What the spool's folder may hold beyond its quotas: 16 MiB set aside as corrupt, and staging and reserve.
const SPOOL_BESIDE_QUOTAS_BYTES: u64 = 32 << 20;
/// Most processor time that can be declared, in percent of one core.
const CPU_CORE_PCT_MAX: f64 = 6_400.0;

/// Section `budget`: how much the agent may take of its host.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BudgetConfig {
    /// Processor time over a minute, in percent of one core.
    pub(crate) cpu_core_pct: f64,
    /// Resident memory. What counts is this or 80 % of the cgroup's limit, whichever is less.
    pub(crate) memory: ByteSize,
    /// Disk: the quotas of the spool and 32 MiB beside them have to fit, and are the budget where none is set.
    pub(crate) disk: Option<ByteSize>,
    /// Bytes a second to the collector over the long run, as `stream.egress_bytes_per_s`; none is no cap.
    pub(crate) egress_bytes_per_s: Option<ByteSize>,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            // The sensor flat out may take 20, everything else 5.
            cpu_core_pct: 25.0,
            // 80 MiB are wanted of an idle host with everything on; a storm fills queues on top.
            memory: ByteSize::from_mib(144),
            disk: None,
            egress_bytes_per_s: None,
        }
    }
}

impl BudgetConfig {
    /// Reports what is wrong, alone and beside the sections that keep to it.
    pub(crate) fn validate(
        &self,
        spool: &SpoolConfig,
        stream_egress: Option<ByteSize>,
        faults: &mut Faults<'_>,
    ) {
        let cpu = self.cpu_core_pct;
        faults.require(
            cpu.is_finite() && (0.5..=CPU_CORE_PCT_MAX).contains(&cpu),
            "cpu_core_pct",
            "must be from 0.5 to 6400, in percent of one core",
        );
        faults.require(
            self.memory.get() >= MEMORY_BYTES_MIN,
            "memory",
            "must be at least 32MiB",
        );
        let needed = disk_needed(spool);
        if self.disk.is_some_and(|disk| disk.get() < needed.get()) {
            faults.add(
                "disk",
                format!("must be at least {needed}: the quotas of section spool and 32MiB beside them"),
            );
        }
        if let (Some(ours), Some(theirs)) = (self.egress_bytes_per_s, stream_egress)
            && ours != theirs
        {
            faults.add(
                "egress_bytes_per_s",
                "differs from stream.egress_bytes_per_s: set one of the two",
            );
        }
    }
}

/// What the spool may take of the disk.
pub(crate) fn disk_needed(spool: &SpoolConfig) -> ByteSize {
    let quotas = [spool.critical_quota, spool.events_quota, spool.metrics_quota];
    ByteSize(quotas.iter().fold(SPOOL_BESIDE_QUOTAS_BYTES, |sum, quota| {
        sum.saturating_add(quota.get())
    }))
}
