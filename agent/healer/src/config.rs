//! Configuration of the healer: a file of root's, read strictly.

use std::path::PathBuf;

use fleetmend_config::{ByteSize, Faults, Validate};
use fleetmend_telemetry::LogFormat;
use serde::Deserialize;

use crate::engine::Options;

/// Prefix of environment variables.
pub const ENV_PREFIX: &str = "FLEETMEND_HEALER";

/// Where things lie and who may talk to the healer.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The Unix socket; its folder is the service's runtime directory.
    pub socket: PathBuf,
    /// Group that may connect, by name or number; empty for root's own.
    pub socket_group: String,
    /// Users that may talk to it, by name; root always may.
    pub allowed_users: Vec<String>,
    /// Users that may talk to it, by number.
    pub allowed_uids: Vec<u32>,
    /// Journal, ledger, policy; mode 0700.
    pub state_dir: PathBuf,
    /// The fleet's trust bundle, written by `enroll` run as root.
    pub trust_bundle: PathBuf,
    /// This host's id as text, written by `enroll` run as root. Without it only policies for the fleet count.
    pub host_file: Option<PathBuf>,
    /// A signed policy that is installed at start when it is newer: for packages and for one host alone.
    pub policy_file: Option<PathBuf>,
    /// Size of the ledger at which nothing more is done.
    pub ledger_bytes_max: ByteSize,
    /// How log lines look.
    pub log: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/fleetmend-healer/healer.sock"),
            socket_group: "fleetmend".to_owned(),
            allowed_users: vec!["fleetmend".to_owned()],
            allowed_uids: Vec::new(),
            state_dir: PathBuf::from("/var/lib/fleetmend-healer"),
            trust_bundle: PathBuf::from("/etc/fleetmend/healer/trust-bundle.json"),
            host_file: Some(PathBuf::from("/etc/fleetmend/healer/host-id")),
            policy_file: None,
            ledger_bytes_max: ByteSize(256 * 1024 * 1024),
            log: LogFormat::Plain,
        }
    }
}

impl Config {
    /// What the engine needs of it.
    pub fn options(&self) -> Options {
        Options {
            state_dir: self.state_dir.clone(),
            trust_bundle: self.trust_bundle.clone(),
            host_file: self.host_file.clone(),
            ledger_bytes_max: self.ledger_bytes_max.0,
        }
    }
}

impl Validate for Config {
    fn validate(&self, faults: &mut Faults<'_>) {
        let paths = [
            ("socket", Some(&self.socket)),
            ("state_dir", Some(&self.state_dir)),
            ("trust_bundle", Some(&self.trust_bundle)),
            ("host_file", self.host_file.as_ref()),
            ("policy_file", self.policy_file.as_ref()),
        ];
        for (key, path) in paths {
            if path.is_some_and(|path| !path.is_absolute()) {
                faults.add(key, "must be an absolute path");
            }
        }
        if self.ledger_bytes_max.0 < 1024 * 1024 {
            faults.add("ledger_bytes_max", "must be at least 1MiB");
        }
    }
}
