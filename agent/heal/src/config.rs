//! Configuration: the section `heal` of the agent's file.

use std::path::PathBuf;

use fleetmend_config::{Faults, HumanDuration, Validate};
use serde::{Deserialize, Serialize};

/// How the agent proposes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether findings lead to proposals. The healer's ledger is followed in any case.
    pub propose: bool,
    /// The healer's socket.
    pub socket: PathBuf,
    /// Where the index of the next ledger entry is kept.
    pub cursor_file: PathBuf,
    /// Limit that is proposed for a runaway process, in percent of one core.
    pub throttle_cpu_core_pct: u32,
    /// Used space, in percent, that is proposed to get a full filesystem below.
    pub free_disk_used_pct: u32,
    /// How long a proposal is good.
    pub proposal_lifetime: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            propose: true,
            socket: PathBuf::from("/run/fleetmend-healer/healer.sock"),
            cursor_file: PathBuf::from("/var/lib/fleetmend-agent/heal-cursor"),
            throttle_cpu_core_pct: 20,
            free_disk_used_pct: 80,
            proposal_lifetime: HumanDuration::from_secs(60),
        }
    }
}

impl Validate for Config {
    fn validate(&self, faults: &mut Faults<'_>) {
        faults.require(self.socket.is_absolute(), "socket", "must be an absolute path");
        faults.require(
            self.cursor_file.is_absolute(),
            "cursor_file",
            "must be an absolute path",
        );
        let pct = 1..=100;
        faults.require(
            self.throttle_cpu_core_pct > 0,
            "throttle_cpu_core_pct",
            "must be at least 1",
        );
        faults.require(
            pct.contains(&self.free_disk_used_pct),
            "free_disk_used_pct",
            "must be from 1 to 100",
        );
        let lifetime = self.proposal_lifetime.get();
        faults.require(
            lifetime.as_secs() >= 5,
            "proposal_lifetime",
            "must be at least 5s: the healer measures first",
        );
    }
}
