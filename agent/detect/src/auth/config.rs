//! What can be set of the detection of attacks on accounts.

use serde::{Deserialize, Serialize};

/// Section `detect.auth`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether authentications are looked at.
    pub enabled: bool,
    /// Failed logins from one address in the window that are a brute force.
    pub failures: u64,
    /// Seconds of the window.
    pub window_s: u64,
    /// Accounts tried from one address in the window that are a spray.
    pub spray_users: u64,
    /// Failed logins of one account in twice the window, from so many addresses, that are a distributed brute force.
    pub distributed_failures: u64,
    /// See `distributed_failures`.
    pub distributed_addresses: u64,
    /// Failed logins from one address in the long window that are a slow brute force.
    pub slow_failures: u64,
    /// Seconds of the long window.
    pub slow_window_s: u64,
    /// Refusals of sudo, su or doas to one account in the window.
    pub elevation_failures: u64,
    /// Seconds without a further attempt after which a finding is resolved.
    pub quiet_s: u64,
    /// Seconds that are watched before an address, key or elevation can be new.
    pub learn_s: u64,
    /// Groups whose members may become root.
    pub privileged_groups: Vec<String>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let groups = [
            "sudo", "wheel", "admin", "root", "docker", "lxd", "libvirt", "disk", "shadow",
        ];
        Self {
            enabled: true,
            failures: 5,
            window_s: 300,
            spray_users: 10,
            distributed_failures: 10,
            distributed_addresses: 5,
            slow_failures: 20,
            slow_window_s: 6 * 3_600,
            elevation_failures: 3,
            quiet_s: 1_800,
            learn_s: 24 * 3_600,
            privileged_groups: groups.map(str::to_owned).to_vec(),
        }
    }
}

/// Most failures that a threshold can ask for: so many are remembered for each address.
pub(super) const FAILURES_MAX: u64 = KEPT as u64;
/// The same, as a length.
pub(super) const KEPT: usize = 64;

impl AuthConfig {
    pub(super) fn window_us(&self) -> i64 {
        micros(self.window_s)
    }

    pub(super) fn slow_window_us(&self) -> i64 {
        micros(self.slow_window_s)
    }

    pub(super) fn quiet_us(&self) -> i64 {
        micros(self.quiet_s)
    }

    pub(super) fn learn_us(&self) -> i64 {
        micros(self.learn_s)
    }

    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let counts = [
            ("failures", self.failures),
            ("spray_users", self.spray_users),
            ("distributed_failures", self.distributed_failures),
            ("distributed_addresses", self.distributed_addresses),
            ("slow_failures", self.slow_failures),
            ("elevation_failures", self.elevation_failures),
        ];
        let mut faults: Vec<(String, String)> = counts
            .into_iter()
            .filter(|(_, value)| !(1..=FAILURES_MAX).contains(value))
            .map(|(key, _)| (format!("auth.{key}"), format!("must be from 1 to {FAILURES_MAX}")))
            .collect();
        if self.window_s == 0 || self.slow_window_s < self.window_s {
            faults.push((
                "auth.window_s".to_owned(),
                "must be from 1 to slow_window_s".to_owned(),
            ));
        }
        if self.quiet_s < self.window_s {
            faults.push(("auth.quiet_s".to_owned(), "must be at least window_s".to_owned()));
        }
        faults
    }
}

fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds.min(10 * 365 * 24 * 3_600))
        .unwrap_or(0)
        .saturating_mul(1_000_000)
}
