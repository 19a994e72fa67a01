//! What can be set, and the limits that cannot.

use std::time::Duration;

use fleetmend_config::{ByteSize, Faults, HumanDuration, Validate};
use serde::Deserialize;

use crate::bases::BASES_BYTES_MIN;
use crate::budget::BUDGET_BYTES_MIN;
use crate::listener::ListenerLimits;
use crate::quota::QuotaLimits;

/// Frames in one message; an agent sends 16.
pub(crate) const MESSAGE_FRAMES_MAX: usize = 1024;
/// Messages that wait for a host to take them.
pub(crate) const OUTGOING_MAX: usize = 8;
/// When a host may come back that was sent away because the sink or the collector could not.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a commit may go on when the collector stops.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// A host that is over its quota for longer than this is sent away; for less it is not read.
pub(crate) const HELD_MAX: Duration = Duration::from_secs(5);
/// Longest time for which it is sent away.
pub(crate) const HELD_RETRY_MAX: Duration = Duration::from_mins(1);
/// When a host may come back whose stream was replaced by a newer one.
pub(crate) const REPLACED_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Section `ingest` of the collector's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Open connections of hosts, those in their handshake included.
    pub connections_max: usize,
    /// Open connections of one source address, or of one IPv6 network of 64 bits.
    pub connections_per_address_max: usize,
    /// Open connections of one host.
    pub connections_per_host_max: usize,
    /// Handshakes of one source address at once; more wait for their turn.
    pub handshakes_per_address_max: usize,
    /// Streams of all hosts together; one more is told to come back.
    pub streams_max: usize,
    /// Streams of one host, the newest of which is served; the others are about to end.
    pub streams_per_host_max: usize,
    /// From the turn of a connection to the end of its handshake.
    pub handshake_timeout: HumanDuration,
    /// From the start of a stream to its hello.
    pub hello_timeout: HumanDuration,
    /// A host that says nothing for so long is gone; agents send a heartbeat every 10 s.
    pub silence_max: HumanDuration,
    /// A connection without a call is closed after this; agents call as soon as they are connected.
    pub idle_timeout: HumanDuration,
    /// How long a host may take to take what is sent to it.
    pub answer_timeout: HumanDuration,
    /// How long the store may take to make records durable before the host is sent away.
    pub commit_timeout: HumanDuration,
    /// Frames that a host may have unacknowledged.
    pub frames_in_flight_max: u32,
    /// Bytes of messages of all hosts that are being received or stored; more make hosts wait, and then come back.
    pub in_flight_bytes_max: ByteSize,
    /// Bytes of bodies of all hosts that are kept to read the relative frames after them, a quarter more at the very
    /// most; beyond it hosts send frames that stand for themselves. At default rates a host takes some 100 KiB.
    pub bases_bytes_max: ByteSize,
    /// How long a message may wait for room among them before its host is told to come back.
    pub room_timeout: HumanDuration,
    /// From the first byte of a message to its last.
    pub message_timeout: HumanDuration,
    /// Bytes of frames, as they are stored, that a host may send each second over the long run; at default rates it
    /// sends some 2 KiB.
    pub bytes_per_host_per_s: ByteSize,
    /// Rows that a host may send each second over the long run; at default rates it sends some hundred.
    pub rows_per_host_per_s: u32,
    /// How long a host must have been quiet to send as much as that at once.
    pub quota_burst: HumanDuration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: 2048,
            connections_per_host_max: 8,
            handshakes_per_address_max: 64,
            streams_max: 4096,
            streams_per_host_max: 4,
            handshake_timeout: HumanDuration::from_secs(10),
            hello_timeout: HumanDuration::from_secs(10),
            silence_max: HumanDuration::from_secs(60),
            idle_timeout: HumanDuration::from_secs(30),
            answer_timeout: HumanDuration::from_secs(30),
            commit_timeout: HumanDuration::from_secs(30),
            frames_in_flight_max: 64,
            in_flight_bytes_max: ByteSize::from_mib(128),
            bases_bytes_max: ByteSize::from_mib(128),
            room_timeout: HumanDuration::from_secs(5),
            message_timeout: HumanDuration::from_secs(30),
            bytes_per_host_per_s: ByteSize::from_mib(8),
            rows_per_host_per_s: 200_000,
            quota_burst: HumanDuration::from_secs(30),
        }
    }
}

impl IngestConfig {
    pub(crate) fn listener_limits(&self) -> ListenerLimits {
        ListenerLimits {
            connections_max: self.connections_max,
            handshake_timeout: self.handshake_timeout.get(),
            connections_per_address_max: self.connections_per_address_max,
            handshakes_per_address_max: self.handshakes_per_address_max,
            connections_per_host_max: self.connections_per_host_max,
            idle_max: Some(self.idle_timeout.get()),
        }
    }

    pub(crate) fn quota_limits(&self) -> QuotaLimits {
        QuotaLimits {
            bytes_per_s: bytes(self.bytes_per_host_per_s),
            rows_per_s: self.rows_per_host_per_s,
            burst: self.quota_burst.get(),
        }
    }

    pub(crate) fn bases_bytes(&self) -> u32 {
        bytes(self.bases_bytes_max)
    }

    pub(crate) fn budget_bytes(&self) -> u32 {
        bytes(self.in_flight_bytes_max)
    }
}

fn bytes(size: ByteSize) -> u32 {
    u32::try_from(size.get()).unwrap_or(u32::MAX)
}

impl Validate for IngestConfig {
    fn validate(&self, faults: &mut Faults<'_>) {
        let second = Duration::from_secs(1);
        for (key, count) in [
            ("connections_max", self.connections_max),
            ("connections_per_address_max", self.connections_per_address_max),
            ("handshakes_per_address_max", self.handshakes_per_address_max),
            ("streams_max", self.streams_max),
        ] {
            faults.require(count >= 1, key, "must be at least 1");
        }
        // While an agent connects again, its older connection may not be gone yet.
        for (key, count) in [
            ("connections_per_host_max", self.connections_per_host_max),
            ("streams_per_host_max", self.streams_per_host_max),
        ] {
            faults.require(count >= 2, key, "must be at least 2");
        }
        self.validate_amounts(faults);
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

impl IngestConfig {
    fn validate_amounts(&self, faults: &mut Faults<'_>) {
        let budget = self.in_flight_bytes_max.get();
        faults.require(
            (u64::from(BUDGET_BYTES_MIN)..=u64::from(u32::MAX)).contains(&budget),
            "in_flight_bytes_max",
            "must be at least 16MiB and less than 4GiB",
        );
        faults.require(
            (u64::from(BASES_BYTES_MIN)..=u64::from(u32::MAX)).contains(&self.bases_bytes_max.get()),
            "bases_bytes_max",
            "must be at least 8MiB and less than 4GiB",
        );
        for (key, time) in [
            ("room_timeout", self.room_timeout),
            ("message_timeout", self.message_timeout),
            ("idle_timeout", self.idle_timeout),
            ("answer_timeout", self.answer_timeout),
            ("quota_burst", self.quota_burst),
        ] {
            faults.require(!time.get().is_zero(), key, "must be more than 0");
        }
        // The agent gives a connection up that has not acknowledged for a minute.
        faults.require(
            self.room_timeout.get() <= Duration::from_secs(30),
            "room_timeout",
            "must be at most 30s",
        );
        faults.require(
            (1024..=u64::from(u32::MAX)).contains(&self.bytes_per_host_per_s.get()),
            "bytes_per_host_per_s",
            "must be at least 1KiB and less than 4GiB",
        );
        faults.require(
            self.rows_per_host_per_s >= 1,
            "rows_per_host_per_s",
            "must be at least 1",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_key_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ingest.toml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            fleetmend_config::load::<IngestConfig>(Some(&file), None, "FLEETMEND_NOT_SET")
        };
        let defaults = load("").unwrap();
        assert_eq!(defaults.budget_bytes(), 128 << 20);
        for (key, value) in [
            ("connections_max", "0"),
            ("connections_per_address_max", "0"),
            ("connections_per_host_max", "1"),
            ("handshakes_per_address_max", "0"),
            ("streams_max", "0"),
            ("streams_per_host_max", "1"),
            ("in_flight_bytes_max", "\"1MiB\""),
            ("in_flight_bytes_max", "\"4GiB\""),
            ("bases_bytes_max", "\"1MiB\""),
            ("bases_bytes_max", "\"4GiB\""),
            ("room_timeout", "\"31s\""),
            ("message_timeout", "\"0s\""),
            ("idle_timeout", "\"0s\""),
            ("answer_timeout", "\"0s\""),
            ("bytes_per_host_per_s", "\"5GiB\""),
            ("rows_per_host_per_s", "0"),
            ("quota_burst", "\"0s\""),
        ] {
            let faults = load(&format!("{key} = {value}")).unwrap_err().to_string();
            assert!(
                faults.contains(key) && faults.contains("must be"),
                "{key}: {faults}"
            );
        }
    }
}
