//! What can be set, and the limits that cannot.

use std::path::PathBuf;
use std::time::Duration;

use fleetmend_config::{ByteSize, Faults, HumanDuration, Validate};
use fleetmend_event::Lane;
use serde::Deserialize;

/// A smaller quota could not hold two full frames and their successors.
const QUOTA_BYTES_MIN: u64 = 1024 * 1024;
/// A quota is at least this many segments, so that shedding takes the oldest part and not all of it.
const SEGMENTS_PER_QUOTA: u64 = 8;
/// A segment of metrics is thinned at once, so it is small.
const METRICS_SEGMENT_BYTES_MAX: u64 = 1024 * 1024;
/// Metrics that were not acknowledged are thinned from this part of their quota on, in quarters: what comes of it has
/// to find room.
const THIN_FROM_QUARTERS: u64 = 3;
/// Facts of one lane that are batched at once; the buffer's bound.
const BATCH_FACTS_MAX: usize = 4096;
/// Ticks of metrics that are batched at once: a minute at one per second.
const BATCH_TICKS_MAX: usize = 60;

/// Section `spool` of the agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// Where it lies; made with mode 0700 when it is not there.
    pub folder: PathBuf,
    /// Most bytes of the critical lane.
    pub critical_quota: ByteSize,
    /// Most bytes of the events lane.
    pub events_quota: ByteSize,
    /// Most bytes of the metrics lane.
    pub metrics_quota: ByteSize,
    /// Longest that a critical fact waits for others.
    pub critical_flush: HumanDuration,
    /// Longest that an event waits for others; with the disk's sync this is what `tail` sees as delay.
    pub events_flush: HumanDuration,
    /// How many seconds of metrics travel in one frame.
    pub metrics_flush: HumanDuration,
    /// Size at which a segment file is closed.
    pub segment_size: ByteSize,
    /// How long acknowledged segments are kept, for a collector that is restored from a backup.
    pub retention: HumanDuration,
    /// Facts that may wait for the writer; beyond it they are refused and counted.
    pub intake_facts_max: usize,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/var/lib/fleetmend-agent/spool"),
            // 512 MiB in all: a day without a collector at default rates takes 370 of events and 54 of metrics.
            critical_quota: ByteSize::from_mib(32),
            events_quota: ByteSize::from_mib(400),
            metrics_quota: ByteSize::from_mib(80),
            critical_flush: HumanDuration::from_millis(50),
            events_flush: HumanDuration::from_millis(500),
            metrics_flush: HumanDuration::from_secs(10),
            segment_size: ByteSize::from_mib(8),
            retention: HumanDuration::from_secs(300),
            intake_facts_max: 16_384,
        }
    }
}

impl SpoolConfig {
    pub(crate) fn quota_bytes(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Critical => self.critical_quota,
            Lane::Events => self.events_quota,
            Lane::Metrics => self.metrics_quota,
        }
        .get()
    }

    pub(crate) fn segment_bytes(&self, lane: Lane) -> u64 {
        let most = match lane {
            Lane::Metrics => METRICS_SEGMENT_BYTES_MAX,
            Lane::Critical | Lane::Events => u64::MAX,
        };
        self.segment_size
            .get()
            .min(self.quota_bytes(lane) / SEGMENTS_PER_QUOTA)
            .clamp(1, most)
    }

    /// Bytes of unacknowledged metrics above which the oldest are thinned.
    pub(crate) fn thin_from_bytes(&self) -> u64 {
        self.metrics_quota.get() / 4 * THIN_FROM_QUARTERS
    }

    pub(crate) fn flush_age(&self, lane: Lane) -> Duration {
        match lane {
            Lane::Critical => self.critical_flush,
            Lane::Events => self.events_flush,
            Lane::Metrics => self.metrics_flush,
        }
        .get()
    }

    pub(crate) fn batch_facts_max(lane: Lane) -> usize {
        match lane {
            Lane::Critical | Lane::Events => BATCH_FACTS_MAX,
            Lane::Metrics => BATCH_TICKS_MAX,
        }
    }

    /// Facts of any lane that may wait before one of `lane` is refused: metrics make room first.
    pub(crate) fn intake_limit(&self, lane: Lane) -> usize {
        match lane {
            Lane::Critical => self.intake_facts_max,
            Lane::Events => self.intake_facts_max - self.intake_facts_max / 8,
            Lane::Metrics => self.intake_facts_max / 2,
        }
    }
}

impl Validate for SpoolConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.require(self.folder.is_absolute(), "folder", "must be an absolute path");
        for (key, quota) in [
            ("critical_quota", self.critical_quota),
            ("events_quota", self.events_quota),
            ("metrics_quota", self.metrics_quota),
        ] {
            faults.require(quota.get() >= QUOTA_BYTES_MIN, key, "must be at least 1MiB");
        }
        let second = Duration::from_secs(1);
        faults.require(
            self.critical_flush.get() <= second,
            "critical_flush",
            "must be at most 1s",
        );
        faults.require(
            self.events_flush.get() <= second,
            "events_flush",
            "must be at most 1s",
        );
        faults.require(
            self.metrics_flush.get() <= second * 60,
            "metrics_flush",
            "must be at most 1m",
        );
        faults.require(
            self.segment_size.get() >= 512 * 1024,
            "segment_size",
            "must be at least 512KiB",
        );
        faults.require(
            self.segment_size.get() <= 32 << 20,
            "segment_size",
            "must be at most 32MiB",
        );
        faults.require(
            self.intake_facts_max >= 64,
            "intake_facts_max",
            "must be at least 64",
        );
    }
}
