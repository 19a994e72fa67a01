//! Configuration of the sensor.

use serde::{Deserialize, Serialize};

/// Smallest ring that the kernel makes: a page of the architectures we run on.
const RING_BYTES_MIN: u32 = 4096;
/// Largest ring that fits the budget of 24 MiB for all of BPF.
const RING_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// How the probes run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl BpfConfig {
    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (key, bytes) in [
            ("process_ring_bytes", self.process_ring_bytes),
            ("network_ring_bytes", self.network_ring_bytes),
        ] {
            if !bytes.is_power_of_two() || !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&bytes) {
                let message = format!("must be a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}");
                faults.push((key.to_owned(), message));
            }
        }
        if self.drain_busy_ms == 0 || self.drain_busy_ms > self.drain_idle_ms_max {
            let message = "must be from 1 to drain_idle_ms_max".to_owned();
            faults.push(("drain_busy_ms".to_owned(), message));
        }
        if self.drain_idle_ms_max > 1_000 {
            let message = "must be at most 1000: findings wait for it".to_owned();
            faults.push(("drain_idle_ms_max".to_owned(), message));
        }
        if self.status_interval_s == 0 {
            faults.push(("status_interval_s".to_owned(), "must be at least 1".to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(BpfConfig::default().faults(), []);
        let wrong = BpfConfig {
            process_ring_bytes: 5000,
            network_ring_bytes: 2048,
            drain_busy_ms: 2000,
            drain_idle_ms_max: 1500,
            status_interval_s: 0,
            ..BpfConfig::default()
        };
        assert_eq!(wrong.faults().len(), 5);
    }
}
