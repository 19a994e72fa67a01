//! The sensor's accounts: what became of every event that a probe in the kernel met.

use super::table;
use crate::{Lane, TimeMicros};

table! {
    /// Totals of one family of probes since it was loaded, all processors together; a row each minute. What was seen is
    /// exactly what was filtered, aggregated, delivered or lost: `seen = filtered + aggregated + delivered + ring_full
    /// + map_full + shed`.
    pub struct SensorAccount("sensor_accounts", id 21, version 1, Lane::Events) {
        /// When it was counted.
        time: TimeMicros,
        /// Family, such as `process`.
        family: String,
        /// Events that the family's programs met.
        seen: u64,
        /// Those that its filters left out on purpose.
        filtered: u64,
        /// Those that were counted into another record.
        aggregated: u64,
        /// Those that entered the ring.
        delivered: u64,
        /// Those that found the ring full.
        ring_full: u64,
        /// Those that found no place in a map that they needed.
        map_full: u64,
        /// Those that were left out because the family was over its budget.
        shed: u64,
        /// Entries that bounded maps gave up for newer ones; no event is lost by that, what was remembered of one is.
        evicted: u64,
        /// Runs of the family's programs.
        runs: u64,
        /// Time spent in them, in microseconds.
        run_us: u64,
        /// Whether that time is measured at every run, or reckoned from a sample of them.
        run_time_sampled: bool,
        /// Most bytes that waited in the family's ring since the last row.
        ring_bytes_peak: u64,
        /// Bytes of that ring.
        ring_bytes: u64,
    }
}
