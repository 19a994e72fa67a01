//! What can be set.

use std::time::Duration;

use fleetmend_config::{Faults, HumanDuration, Validate};
use serde::Deserialize;

/// Frames in one message at most: together they stay below the protocol's message limit.
pub(crate) const MESSAGE_FRAMES_MAX: usize = 16;
/// Bytes of the frames of one message.
pub(crate) const MESSAGE_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the collector may take to answer the hello.
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that lived this long after its welcome is of use, though nothing was acknowledged yet.
pub(crate) const SESSION_PROVEN: Duration = Duration::from_secs(5);
/// A session that lived this long was a good one: the next wait is a short one again.
pub(crate) const SESSION_GOOD: Duration = Duration::from_secs(30);

/// Section `stream` of the agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Collectors, `host:port`, instead of those that enrolment named.
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
            let port = address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            faults.require(
                port.is_some(),
                &format!("collectors[{index}]"),
                "must be host:port",
            );
        }
    }
}
