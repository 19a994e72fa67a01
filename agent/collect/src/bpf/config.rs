//! Configuration of the sensor.

use fleetmend_ebpf::Family;
use serde::{Deserialize, Serialize};

use super::profile::ProfileConfig;

use super::file::FilesConfig;

/// Smallest ring that the kernel makes: a page of the architectures we run on.
const RING_BYTES_MIN: u32 = 4096;
/// Largest ring that fits the budget of 24 MiB for all of BPF.
const RING_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Most time of each family's programs, in percent of one core; 0 for no bound. Credential, memory and kernel are told
/// whatever they take: they have none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuPctMax {
    /// Of execs, forks and exits; execs are never shed.
    pub process: f64,
    /// Of connections.
    pub network: f64,
    /// Of files.
    pub file: f64,
    /// Of signals.
    pub signal: f64,
    /// Of what is counted.
    pub resource: f64,
}

impl Default for CpuPctMax {
    fn default() -> Self {
        // A storm that fills a core takes a tenth of it in the probes; above this it is left out by and by.
        Self {
            process: 10.0,
            network: 10.0,
            file: 10.0,
            signal: 5.0,
            resource: 5.0,
        }
    }
}

/// How the probes run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BpfConfig {
    /// Whether processes are traced; when not, /proc is read each second instead.
    pub process: bool,
    /// Whether TCP connections are traced.
    pub network: bool,
    /// Whether changes of files are traced.
    pub file: bool,
    /// Whether changes of users, groups and capabilities are traced.
    pub credential: bool,
    /// Whether acts on memory are traced.
    pub memory: bool,
    /// Whether changes of the kernel's state are traced.
    pub kernel: bool,
    /// Whether signals and kills for lack of memory are traced.
    pub signal: bool,
    /// Whether calls, waits and retransmits are counted.
    pub resource: bool,
    /// Bytes of the ring of process events: a power of two, at least a page; so are the others.
    pub process_ring_bytes: u32,
    /// Bytes of the ring of network events.
    pub network_ring_bytes: u32,
    /// Bytes of the ring of file events.
    pub file_ring_bytes: u32,
    /// Bytes of the ring of each other family, and of that of watched files.
    pub other_ring_bytes: u32,
    /// Which files are watched, and how equal acts are counted.
    pub files: FilesConfig,
    /// Most time that the programs of each family may take, in percent of one core; 0 for no bound.
    pub cpu_pct_max: CpuPctMax,
    /// Time between two looks at the rings while much comes, in milliseconds.
    pub drain_busy_ms: u64,
    /// Longest time between two looks at the rings, while little comes, in milliseconds.
    pub drain_idle_ms_max: u64,
    /// Time between two rows of a probe's state, in seconds.
    pub status_interval_s: u64,
    /// Profiles of system calls.
    pub profile: ProfileConfig,
}

impl Default for BpfConfig {
    fn default() -> Self {
        Self {
            process: true,
            network: true,
            file: true,
            credential: true,
            memory: true,
            kernel: true,
            signal: true,
            resource: true,
            // At least a tenth of a second at 50,000 connections or files a second, or at 2,500 execs; the drain comes
            // every 5 ms then.
            process_ring_bytes: 1024 * 1024,
            network_ring_bytes: 2 * 1024 * 1024,
            file_ring_bytes: 2 * 1024 * 1024,
            other_ring_bytes: 256 * 1024,
            files: FilesConfig::default(),
            cpu_pct_max: CpuPctMax::default(),
            drain_busy_ms: 5,
            // A fifth of the quarter second from an event to its finding.
            drain_idle_ms_max: 50,
            status_interval_s: 60,
            profile: ProfileConfig::default(),
        }
    }
}

impl BpfConfig {
    /// Whether a family is switched on.
    pub(crate) fn wants(&self, family: Family) -> bool {
        match family {
            Family::Process => self.process,
            Family::Network => self.network,
            Family::File => self.file,
            Family::Credential => self.credential,
            Family::Memory => self.memory,
            Family::Kernel => self.kernel,
            Family::Signal => self.signal,
            Family::Resource => self.resource,
        }
    }

    /// Bytes of a family's ring.
    pub(crate) fn ring_bytes(&self, family: Family) -> u32 {
        match family {
            Family::Process => self.process_ring_bytes,
            Family::Network => self.network_ring_bytes,
            Family::File => self.file_ring_bytes,
            _ => self.other_ring_bytes,
        }
    }

    /// Most time of a family's programs, in percent of one core.
    pub(crate) fn cpu_pct_max(&self, family: Family) -> Option<f64> {
        let CpuPctMax {
            process,
            network,
            file,
            signal,
            resource,
        } = self.cpu_pct_max;
        let bound = match family {
            Family::Process => process,
            Family::Network => network,
            Family::File => file,
            Family::Signal => signal,
            Family::Resource => resource,
            Family::Credential | Family::Memory | Family::Kernel => 0.0,
        };
        Some(bound).filter(|bound| *bound > 0.0)
    }

    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = self.files.faults();
        for (key, bytes) in [
            ("process_ring_bytes", self.process_ring_bytes),
            ("network_ring_bytes", self.network_ring_bytes),
            ("file_ring_bytes", self.file_ring_bytes),
            ("other_ring_bytes", self.other_ring_bytes),
        ] {
            if !bytes.is_power_of_two() || !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&bytes) {
                let message = format!("must be a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}");
                faults.push((key.to_owned(), message));
            }
        }
        let CpuPctMax {
            process,
            network,
            file,
            signal,
            resource,
        } = self.cpu_pct_max;
        for (key, bound) in [
            ("process", process),
            ("network", network),
            ("file", file),
            ("signal", signal),
            ("resource", resource),
        ] {
            if !bound.is_finite() || bound < 0.0 {
                let message = "must be 0, for no bound, or a number above it".to_owned();
                faults.push((format!("cpu_pct_max.{key}"), message));
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
        faults.extend(self.profile.faults());
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
            cpu_pct_max: CpuPctMax {
                file: -1.0,
                signal: f64::NAN,
                ..CpuPctMax::default()
            },
            ..BpfConfig::default()
        };
        assert_eq!(wrong.faults().len(), 7);
    }
}
