//! Configuration of the second sources.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Kind, SourceName};

/// Least and most bytes that wait in the connector's socket. The kernel takes memory only for what waits.
const BUFFER_BYTES: std::ops::RangeInclusive<u32> = 64 * 1024..=64 * 1024 * 1024;
/// Shortest and longest time between two readings of a log or a table, in milliseconds.
const POLL_MS: std::ops::RangeInclusive<u64> = 50..=60_000;

/// Where each kind of event comes from, and how the second sources run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourcesConfig {
    /// Forks, executions, ends: `auto`, `ebpf`, `audit`, `connector`, `proc` or `off`.
    pub processes: SourceName,
    /// What is done to files: `auto`, `ebpf`, `audit` or `off`.
    pub files: SourceName,
    /// Connections: `auto`, `ebpf`, `audit`, `socket_table` or `off`.
    pub network: SourceName,
    /// Changes of users and capabilities: `auto`, `ebpf`, `audit`, `connector` or `off`.
    pub credentials: SourceName,
    /// ptrace and its like: `auto`, `ebpf`, `audit`, `connector` or `off`.
    pub memory: SourceName,
    /// Modules, mounts, namespaces: `auto`, `ebpf`, `audit` or `off`.
    pub kernel: SourceName,
    /// Signals and faults: `auto`, `ebpf`, `audit` or `off`.
    pub signals: SourceName,
    /// Bytes of events that may wait in the connector's socket.
    pub connector_buffer_bytes: u32,
    /// The log of auditd.
    pub audit_log: PathBuf,
    /// Whether its records are read for rules even when no kind is taken from it.
    pub audit_records: bool,
    /// File of how far the log was read; in `state_dir` when it is not set.
    pub audit_position_file: Option<PathBuf>,
    /// Time between two looks at the log, in milliseconds.
    pub audit_poll_ms: u64,
    /// Time between two readings of the socket tables, in milliseconds.
    pub socket_poll_ms: u64,
    /// Sockets that are followed.
    pub sockets_max: usize,
    /// Time between two rows of a probe's state, in seconds.
    pub status_interval_s: u64,
}

impl Default for SourcesConfig {
    fn default() -> Self {
        Self {
            processes: SourceName::Auto,
            files: SourceName::Auto,
            network: SourceName::Auto,
            credentials: SourceName::Auto,
            memory: SourceName::Auto,
            kernel: SourceName::Auto,
            signals: SourceName::Auto,
            // An event takes about 800 bytes of it: ten thousand, two seconds of 500 programs that begin and end.
            connector_buffer_bytes: 8 * 1024 * 1024,
            audit_log: PathBuf::from("/var/log/audit/audit.log"),
            audit_records: true,
            audit_position_file: None,
            audit_poll_ms: 250,
            socket_poll_ms: 2_000,
            // A table of so many takes some 4 MiB.
            sockets_max: 16_384,
            status_interval_s: 60,
        }
    }
}

impl SourcesConfig {
    /// What the configuration says of a kind.
    pub const fn of(&self, kind: Kind) -> SourceName {
        match kind {
            Kind::Processes => self.processes,
            Kind::Files => self.files,
            Kind::Network => self.network,
            Kind::Credentials => self.credentials,
            Kind::Memory => self.memory,
            Kind::Kernel => self.kernel,
            Kind::Signals => self.signals,
        }
    }

    /// The same with every kind off that is not asked of a second source by its name.
    pub(crate) fn second_sources_by_name(&self) -> Self {
        let mut named = self.clone();
        for source in [
            &mut named.processes,
            &mut named.files,
            &mut named.network,
            &mut named.credentials,
            &mut named.memory,
            &mut named.kernel,
            &mut named.signals,
        ] {
            if matches!(source, SourceName::Auto | SourceName::Ebpf) {
                *source = SourceName::Off;
            }
        }
        named
    }

    pub(crate) fn audit_poll(&self) -> Duration {
        Duration::from_millis(self.audit_poll_ms.clamp(*POLL_MS.start(), *POLL_MS.end()))
    }

    pub(crate) fn socket_poll(&self) -> Duration {
        Duration::from_millis(self.socket_poll_ms.clamp(*POLL_MS.start(), *POLL_MS.end()))
    }

    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for kind in Kind::ALL {
            let wanted = self.of(kind);
            let general = matches!(wanted, SourceName::Auto | SourceName::Off);
            if !general && !kind.sources().contains(&wanted) {
                let known: Vec<&str> = kind.sources().iter().map(|source| source.as_str()).collect();
                let message = format!(
                    "{} cannot tell it; it must be auto, {} or off",
                    wanted.as_str(),
                    known.join(", ")
                );
                faults.push((kind.as_str().to_owned(), message));
            }
        }
        if !BUFFER_BYTES.contains(&self.connector_buffer_bytes) {
            let message = format!("must be from {} to {}", BUFFER_BYTES.start(), BUFFER_BYTES.end());
            faults.push(("connector_buffer_bytes".to_owned(), message));
        }
        for (key, value) in [
            ("audit_poll_ms", self.audit_poll_ms),
            ("socket_poll_ms", self.socket_poll_ms),
        ] {
            if !POLL_MS.contains(&value) {
                let message = format!("must be from {} to {}", POLL_MS.start(), POLL_MS.end());
                faults.push((key.to_owned(), message));
            }
        }
        if self.sockets_max == 0 || self.status_interval_s == 0 {
            for (key, zero) in [
                ("sockets_max", self.sockets_max == 0),
                ("status_interval_s", self.status_interval_s == 0),
            ] {
                if zero {
                    faults.push((key.to_owned(), "must be at least 1".to_owned()));
                }
            }
        }
        let paths = [
            ("audit_log", Some(&self.audit_log)),
            ("audit_position_file", self.audit_position_file.as_ref()),
        ];
        for (key, path) in paths {
            if path.is_some_and(|path| !path.is_absolute()) {
                faults.push((key.to_owned(), "must be an absolute path".to_owned()));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(SourcesConfig::default().faults(), []);
        let wrong = SourcesConfig {
            files: SourceName::Connector,
            network: SourceName::Proc,
            connector_buffer_bytes: 1,
            audit_poll_ms: 0,
            sockets_max: 0,
            audit_log: "audit.log".into(),
            ..SourcesConfig::default()
        };
        let faults = wrong.faults();
        let keys: Vec<&str> = faults.iter().map(|(key, _)| key.as_str()).collect();
        let wanted = [
            "files",
            "network",
            "connector_buffer_bytes",
            "audit_poll_ms",
            "sockets_max",
            "audit_log",
        ];
        assert_eq!(keys, wanted);
        assert!(faults[0].1.contains("auto, ebpf, audit or off"), "{faults:?}");
    }
}
