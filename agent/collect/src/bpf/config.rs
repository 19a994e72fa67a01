//! Configuration of the sensor.

use serde::Deserialize;

/// How the probes run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BpfConfig {
    /// Whether processes are traced; when not, /proc is read each second instead.
    pub process: bool,
    /// Whether TCP connections are traced.
    pub network: bool,
    /// Bytes of the ring of process events: a power of two, at least a page.
    pub process_ring_bytes: u32,
    /// Bytes of the ring of network events: a power of two, at least a page.
    pub network_ring_bytes: u32,
    /// Time between two looks at the rings while much comes, in milliseconds.
    pub drain_busy_ms: u64,
    /// Longest time between two looks at the rings, while little comes, in milliseconds.
    pub drain_idle_ms_max: u64,
    /// Time between two rows of a probe's state, in seconds.
    pub status_interval_s: u64,
}

impl Default for BpfConfig {
    fn default() -> Self {
        Self {
            process: true,
            network: true,
            // A fifth of a second at 50,000 events a second; the drain comes every 5 ms then. With the maps of the
            // families 8 MiB of the 24 MiB budget.
            process_ring_bytes: 2 * 1024 * 1024,
            network_ring_bytes: 1024 * 1024,
            drain_busy_ms: 5,
            // A fifth of the quarter second from an event to its finding.
            drain_idle_ms_max: 50,
            status_interval_s: 60,
        }
    }
}
