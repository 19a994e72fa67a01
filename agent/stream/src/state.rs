//! What the stream says of itself and hands on.

use fleetmend_event::TimeMicros;
use serde::Serialize;

/// What the connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamPhase {
    /// Connecting, or waiting for the welcome.
    #[default]
    Connecting,
    /// Welcomed.
    Connected,
    /// Waiting before the next attempt.
    Waiting,
    /// A person must mend something; the next attempt is far away.
    Refused,
    /// The agent ends.
    Ended,
}

/// State of the connection, for `fleetmend-agent status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StreamState {
    /// What it is doing.
    pub phase: StreamPhase,
    /// Whether the present connection is of use: something was acknowledged over it, or it held for some
    /// seconds. A collector that welcomes and then refuses every record is none.
    pub proven: bool,
    /// The collector it is, or was last, connected to: `host:port`.
    pub collector: Option<String>,
    /// Since when it is in this phase.
    pub since: Option<TimeMicros>,
    /// Why the last session ended, with its cause.
    pub last_error: Option<String>,
    /// How much the collector's clock is ahead of ours, when it last said so.
    pub collector_ahead_ms: Option<i64>,
    /// Frames sent since the start of the agent.
    pub frames_sent: u64,
    /// Bytes of those frames as they were sent: relative to each other, where the collector can.
    pub bytes_sent: u64,
    /// Frames acknowledged since the start of the agent.
    pub frames_acknowledged: u64,
    /// Frames sent and not yet acknowledged.
    pub frames_in_flight: usize,
}

/// A signed envelope for this host. Who acts on it verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: [u8; 16],
    /// The envelope, JSON.
    pub envelope: String,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderResult {
    /// The order.
    pub order_id: [u8; 16],
    /// Whether it was carried out or will be.
    pub accepted: bool,
    /// Why, or why not.
    pub reason: String,
}

/// What the collector would like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    /// How often metrics should be sent; none leaves it.
    pub metrics_interval_ms: Option<u32>,
}
