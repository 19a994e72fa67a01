//! What can be set, and the limits that cannot.

use std::time::Duration;

use fleetmend_config::{Faults, HumanDuration, Validate};
use serde::Deserialize;

use crate::listener::ListenerLimits;

/// Frames in one message; an agent sends 16.
pub(crate) const MESSAGE_FRAMES_MAX: usize = 1024;
/// Messages that wait for a host to take them.
pub(crate) const OUTGOING_MAX: usize = 8;
/// How long a host may take to make room for a message.
pub(crate) const OUTGOING_TIMEOUT: Duration = Duration::from_secs(30);
/// When a host may come back that was sent away because the sink or the collector could not.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// When a host may come back whose stream was replaced by a newer one.
pub(crate) const REPLACED_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Section `ingest` of the collector's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Open connections of hosts, those in their handshake included.
    pub connections_max: usize,
    /// From accepting a connection to the end of its handshake.
    pub handshake_timeout: HumanDuration,
    /// From the start of a stream to its hello.
    pub hello_timeout: HumanDuration,
    /// A host that says nothing for so long is gone; agents send a heartbeat every 10 s.
    pub silence_max: HumanDuration,
    /// How long the store may take to make records durable before the host is sent away.
    pub commit_timeout: HumanDuration,
    /// Frames that a host may have unacknowledged.
    pub frames_in_flight_max: u32,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            handshake_timeout: HumanDuration::from_secs(10),
            hello_timeout: HumanDuration::from_secs(10),
            silence_max: HumanDuration::from_secs(60),
            commit_timeout: HumanDuration::from_secs(30),
            frames_in_flight_max: 64,
        }
    }
}

impl IngestConfig {
    pub(crate) fn listener_limits(&self) -> ListenerLimits {
        ListenerLimits {
            connections_max: self.connections_max,
            handshake_timeout: self.handshake_timeout.get(),
        }
    }
}

impl Validate for IngestConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        let second = Duration::from_secs(1);
        faults.require(self.connections_max >= 1, "connections_max", "must be at least 1");
        faults.require(
            !self.handshake_timeout.get().is_zero(),
            "handshake_timeout",
            "must be more than 0",
        );
        faults.require(
            !self.hello_timeout.get().is_zero(),
            "hello_timeout",
            "must be more than 0",
        );
        faults.require(
            self.silence_max.get() >= second * 25,
            "silence_max",
            "must be at least 25s",
        );
        faults.require(
            self.commit_timeout.get() >= second,
            "commit_timeout",
            "must be at least 1s",
        );
        faults.require(
            self.frames_in_flight_max >= 1,
            "frames_in_flight_max",
            "must be at least 1",
        );
    }
}
