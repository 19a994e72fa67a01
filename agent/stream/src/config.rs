//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

use fleetmend_config::{ByteSize, Faults, HumanDuration, Validate};
use fleetmend_identity::Address;
use serde::Deserialize;

use crate::network::{Dialer, ProxyError, ProxySettings};
use crate::pace::Pace;

/// Frames in one message at most: together they stay below the protocol's message limit.
pub(crate) const MESSAGE_FRAMES_MAX: usize = 16;
/// Bytes of the frames of one message.
pub(crate) const MESSAGE_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the collector may take to answer the hello.
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that lived this long after its welcome is of use, though nothing was acknowledged yet.
pub(crate) const SESSION_PROVEN: Duration = Duration::from_secs(5);
/// How often the collector is asked the time over a session.
pub(crate) const TIME_EVERY: Duration = Duration::from_mins(10);
/// By how much the system clock must have left the boot clock before the time is asked at once.
pub(crate) const CLOCK_JUMP: Duration = Duration::from_secs(2);
/// Least bytes per second: below it heartbeats and the handshake alone would be more.
const EGRESS_MIN: u64 = 4 * 1024;
/// How long no relative frames are sent after a collector could not read one.
pub(crate) const SELF_CONTAINED_FOR: Duration = Duration::from_secs(600);
/// A session that lived this long was a good one: the next wait is a short one again.
pub(crate) const SESSION_GOOD: Duration = Duration::from_secs(30);

/// Section `stream` of the agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Collectors, `host:port` (an IPv6 address in brackets), instead of those that enrolment named.
    pub collectors: Vec<String>,
    /// How often the collector is told that the host lives.
    pub heartbeat: HumanDuration,
    /// Frames that may be unacknowledged; the collector's window may be smaller.
    pub frames_in_flight_max: usize,
    /// How long an acknowledgement may take before the connection is given up.
    pub acknowledgement_timeout: HumanDuration,
    /// Bound of the first wait after a failure; it doubles up to `retry_max`, and each wait is random below it.
    pub retry_first: HumanDuration,
    /// Longest wait after a failure.
    pub retry_max: HumanDuration,
    /// Wait after a refusal that a person must mend.
    pub refused_wait: HumanDuration,
    /// An HTTP proxy for every connection to a collector, enrolment and renewal included: `http://user@host:port`.
    pub proxy: Option<String>,
    /// Its password: a file of mode 0600, or the name of a systemd credential.
    pub proxy_password_file: Option<PathBuf>,
    /// What is reached without it: names with all below them, IP addresses, networks, each with a port if only
    /// that is meant; `*` is everything.
    pub no_proxy: Vec<String>,
    /// Whether `HTTPS_PROXY` and `NO_PROXY` of the environment count when no proxy is configured.
    pub proxy_from_environment: bool,
    /// Cap on what is sent, in bytes per second over the long run; none when it is not set. The critical lane is
    /// charged and never waits.
    pub egress_bytes_per_s: Option<ByteSize>,
    /// What may be sent at once after a quiet time.
    pub egress_burst: ByteSize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            collectors: Vec::new(),
            heartbeat: HumanDuration::from_secs(10),
            frames_in_flight_max: 64,
            acknowledgement_timeout: HumanDuration::from_secs(60),
            retry_first: HumanDuration::from_millis(500),
            retry_max: HumanDuration::from_secs(15),
            refused_wait: HumanDuration::from_secs(600),
            proxy: None,
            proxy_password_file: None,
            no_proxy: Vec::new(),
            proxy_from_environment: false,
            egress_bytes_per_s: None,
            egress_burst: ByteSize::from_mib(1),
        }
    }
}

impl StreamConfig {
    /// What makes the connections; reads the proxy's password.
    ///
    /// # Errors
    /// When the proxy's settings are wrong or its password cannot be read.
    pub fn dialer(&self) -> Result<Dialer, ProxyError> {
        Dialer::new(&self.proxy_settings())
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace::new(
            self.egress_bytes_per_s.map(ByteSize::get),
            self.egress_burst.get(),
        )
    }

    fn proxy_settings(&self) -> ProxySettings {
        ProxySettings {
            url: self.proxy.clone(),
            password_file: self.proxy_password_file.clone(),
            except: self.no_proxy.clone(),
            from_environment: self.proxy_from_environment,
        }
    }
}

impl Validate for StreamConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        let second = Duration::from_secs(1);
        faults.require(
            self.heartbeat.get() >= second / 10,
            "heartbeat",
            "must be at least 100ms",
        );
        faults.require(
            self.heartbeat.get() <= second * 20,
            "heartbeat",
            "must be at most 20s",
        );
        faults.require(
            self.frames_in_flight_max >= 1,
            "frames_in_flight_max",
            "must be at least 1",
        );
        faults.require(
            self.frames_in_flight_max <= 1024,
            "frames_in_flight_max",
            "must be at most 1024",
        );
        faults.require(
            !self.retry_first.get().is_zero(),
            "retry_first",
            "must be more than 0",
        );
        faults.require(
            self.retry_first <= self.retry_max,
            "retry_max",
            "must be at least retry_first",
        );
        for (index, address) in self.collectors.iter().enumerate() {
            if let Err(error) = address.parse::<Address>() {
                faults.add(&format!("collectors[{index}]"), error.to_string());
            }
        }
        for (key, message) in self.proxy_settings().faults() {
            faults.add(&key, message);
        }
        faults.require(
            self.egress_bytes_per_s
                .is_none_or(|rate| rate.get() >= EGRESS_MIN),
            "egress_bytes_per_s",
            "must be at least 4KiB; leave it out for no cap",
        );
        faults.require(
            self.egress_burst.get() >= EGRESS_MIN,
            "egress_burst",
            "must be at least 4KiB",
        );
        faults.require(
            self.egress_burst.get() <= 1 << 30,
            "egress_burst",
            "must be at most 1GiB",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<StreamConfig, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream.toml");
        std::fs::write(&path, text).unwrap();
        fleetmend_config::load_from(Some(&path), None, "NOTHING", [])
            .map_err(|faults| faults.faults.into_iter().map(|fault| fault.key).collect())
    }

    #[test]
    fn nonsense_is_refused_key_by_key() {
        let text = "collectors = ['c:7444', '[::1]:7444', '::1:7444', 'c', 'c:0']\n\
            proxy = 'http://user:secret@proxy:3128'\n\
            no_proxy = ['ok', '10.0.0.0/64']\n\
            egress_bytes_per_s = '100B'\n\
            egress_burst = '2GiB'\n";
        let wanted = [
            "collectors[2]",
            "collectors[3]",
            "collectors[4]",
            "proxy",
            "no_proxy[1]",
            "egress_bytes_per_s",
            "egress_burst",
        ];
        assert_eq!(load(text).unwrap_err(), wanted);
        let text = "proxy = 'http://user@[::1]:3128'\n\
            proxy_password_file = 'proxy-password'\n\
            no_proxy = ['*.corp.example', '[2001:db8::]/32']\n\
            egress_bytes_per_s = '64KiB'\n\
            proxy_from_environment = true\n";
        let config = load(text).unwrap();
        assert_eq!(config.egress_bytes_per_s, Some(ByteSize(64 * 1024)));
    }
}
