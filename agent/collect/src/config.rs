//! Configuration of this room.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::LogConfig;

/// Shortest time between two readings of the host metrics, in milliseconds.
const HOST_INTERVAL_MS_MIN: u64 = 100;

/// What is collected, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectConfig {
    /// Milliseconds between two readings of the host metrics.
    pub host_interval_ms: u64,
    /// Seconds between two listings of systemd's units.
    pub unit_interval_s: u64,
    /// Sites to probe.
    pub sites: Vec<SiteConfig>,
    /// Resolver for the sites' names, instead of the system's: address and port.
    pub resolver: Option<SocketAddr>,
    /// Address and port that is known to answer. When a site times out and the witness does too, the fault is
    /// our network's.
    pub witness: Option<SocketAddr>,
    /// Logs.
    pub logs: LogConfig,
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self {
            host_interval_ms: 1_000,
            unit_interval_s: 10,
            sites: Vec::new(),
            resolver: None,
            witness: None,
            logs: LogConfig::default(),
        }
    }
}

impl CollectConfig {
    /// Time between two readings of the host metrics; never under 100 ms.
    pub fn host_interval(&self) -> Duration {
        Duration::from_millis(self.host_interval_ms.max(HOST_INTERVAL_MS_MIN))
    }

    /// Time between two listings of units; never under 1 s.
    pub fn unit_interval(&self) -> Duration {
        Duration::from_secs(self.unit_interval_s.max(1))
    }

    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        if self.host_interval_ms < HOST_INTERVAL_MS_MIN {
            let message = format!("must be at least {HOST_INTERVAL_MS_MIN}");
            faults.push(("host_interval_ms".to_owned(), message));
        }
        if self.unit_interval_s == 0 {
            faults.push(("unit_interval_s".to_owned(), "must be at least 1".to_owned()));
        }
        faults.extend(self.logs.faults());
        let mut names = std::collections::BTreeSet::new();
        for (index, site) in self.sites.iter().enumerate() {
            if !names.insert(site.name.as_str()) {
                faults.push((
                    format!("sites[{index}].name"),
                    format!("{:?} is used twice: give each site a name of its own", site.name),
                ));
            }
            if let Err(reason) = site.parsed_url() {
                faults.push((format!("sites[{index}].url"), reason));
            }
            if site.interval_s == 0 {
                faults.push((
                    format!("sites[{index}].interval_s"),
                    "must be at least 1".to_owned(),
                ));
            } else if site.timeout_ms >= site.interval_s.saturating_mul(1_000) {
                faults.push((
                    format!("sites[{index}].timeout_ms"),
                    "must be shorter than interval_s".to_owned(),
                ));
            }
        }
        faults
    }
}

/// A site to probe.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// Name under which it is shown.
    pub name: String,
    /// `http://` or `https://` address.
    pub url: String,
    /// Seconds between two probes.
    #[serde(default = "default_interval_s")]
    pub interval_s: u64,
    /// Milliseconds that all phases together may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Statuses that count as up; empty means 200 to 399.
    #[serde(default)]
    pub status_expected: Vec<u16>,
    /// Text that the body must contain.
    #[serde(default)]
    pub body_contains: Option<String>,
    /// PEM file of an authority to trust besides the public ones.
    #[serde(default)]
    pub ca_file: Option<std::path::PathBuf>,
}

const fn default_interval_s() -> u64 {
    15
}

const fn default_timeout_ms() -> u64 {
    5_000
}

impl SiteConfig {
    /// Time between two probes; never under 1 s.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s.max(1))
    }

    /// Time that one probe may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.max(100))
    }

    /// The address, parsed.
    ///
    /// # Errors
    /// What is wrong with it, and what it should be.
    pub fn parsed_url(&self) -> Result<url::Url, String> {
        let url = url::Url::parse(&self.url)
            .map_err(|error| format!("{:?} is not an address: {error}", self.url))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!(
                "{:?} must begin with http:// or https:// and name a host",
                self.url
            ));
        }
        Ok(url)
    }
}
