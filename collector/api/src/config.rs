//! What an operator may set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the API and the dashboard.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Address of the listener. Anything but loopback needs `tls`.
    pub listen: SocketAddr,
    /// Certificate and key; absent for plain HTTP on loopback.
    pub tls: Option<ApiTls>,
    /// Connections held at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Requests a caller may make in a burst.
    pub rate_burst: u32,
    /// Requests a caller may make per second over time.
    pub rate_per_s: u32,
    /// Longest time one query may take, in milliseconds.
    pub query_timeout_ms: u64,
    /// Life of an access token in seconds.
    pub access_token_s: u64,
    /// Life of a refresh token in seconds.
    pub refresh_token_s: u64,
    /// Longest life of a session in seconds, however often it is refreshed.
    pub session_s: u64,
    /// Rows of the audit trail that are kept, of refusals and of the rest each; the oldest go first. About 200 bytes
    /// each.
    pub audit_rows_max: u32,
}

/// The operator's own certificate: files, or the names of systemd credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiTls {
    /// PEM file with the chain, the server's certificate first.
    pub certificate: PathBuf,
    /// PEM file with its key, PKCS #8; others may not read it.
    pub key: PathBuf,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7780)),
            tls: None,
            connections_max: 1_024,
            rate_burst: 600,
            rate_per_s: 100,
            query_timeout_ms: 10_000,
            access_token_s: 15 * 60,
            refresh_token_s: 12 * 3_600,
            session_s: 7 * 24 * 3_600,
            audit_rows_max: 100_000,
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("api.{key}: {reason}")]
pub struct ConfigFault {
    /// Key below `api`.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl ApiConfig {
    /// Everything that is wrong with it. `certificate` says whether TLS is there by other means, such as a
    /// certificate of the fleet's own authority.
    pub fn faults(&self, certificate: bool) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        let mut fault = |key, reason: String| faults.push(ConfigFault { key, reason });
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !certificate {
            let address = self.listen;
            let reason = format!(
                "{address} is not loopback, and plain HTTP is served on loopback only: set api.tls, or listen on 127.0.0.1"
            );
            fault("listen", reason);
        }
        let needed = [
            ("connections_max", self.connections_max as u64),
            ("rate_burst", u64::from(self.rate_burst)),
            ("rate_per_s", u64::from(self.rate_per_s)),
            ("query_timeout_ms", self.query_timeout_ms),
            ("access_token_s", self.access_token_s),
            ("audit_rows_max", u64::from(self.audit_rows_max)),
        ];
        for (key, value) in needed {
            if value == 0 {
                fault(key, "has to be at least 1".to_owned());
            }
        }
        if self.refresh_token_s < self.access_token_s || self.session_s < self.refresh_token_s {
            let reason = "has to be at least refresh_token_s, and that at least access_token_s".to_owned();
            fault("session_s", reason);
        }
        faults
    }
}

impl fleetmend_config::Validate for ApiConfig {
    fn validate(&self, faults: &mut fleetmend_config::Faults<'_>) {
        // Whether a certificate is there by other means is known only when the listener is bound; it checks again.
        for fault in self.faults(true) {
            faults.add(fault.key, fault.reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_elsewhere_than_loopback_is_a_fault() {
        let mut config = ApiConfig::default();
        assert_eq!(config.faults(false), []);
        config.listen = "0.0.0.0:7780".parse().unwrap();
        let faults = config.faults(false);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("loopback only"), "{}", faults[0]);
        assert_eq!(config.faults(true), []);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let config = ApiConfig {
            rate_burst: 0,
            rate_per_s: 0,
            session_s: 1,
            ..ApiConfig::default()
        };
        assert_eq!(config.faults(false).len(), 3);
    }
}
