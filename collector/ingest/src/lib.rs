//! Ingest: where hosts enrol, and where their facts come in.
//!
//! [`Ingest`] serves the carrier on a listener that lets in only hosts of the fleet with a valid certificate.
//! Each host has one stream. Its frames are checked, given to a [`DurableSink`], and acknowledged when the sink
//! says they are durable; nothing else is ever acknowledged. [`enrol`] serves the other listener.
//!
//! # Invariants
//! - The host is whom the certificate names. A hello with another host id closes the stream and is audited.
//! - An acknowledgement follows the sink's commit, never precedes it. While the sink is slow nothing is read
//!   from the stream, so the pressure reaches the agent and waits in its spool; when the sink cannot, the agent
//!   is told to come back.
//! - **No record can wedge a host.** A frame that can be read but not stored keeps its number as a tombstone and
//!   leaves a gap row of stage `ingest` in the same commit: its lane is wrong (noticed here), its rows do not decode
//!   or fit (noticed by the sink). A number that was stored with other content is audited, counted as a gap,
//!   and passed over. Numbers that the host no longer has are declared lost to the sink and become a gap there.
//!   Bytes that are no frame have no number to keep: the stream is refused until a person looks, and
//!   the agent, which checks every frame that it reads from its spool, never sends such bytes.
//! - A host that remembers none of the epochs it had sent from has a new spool: the time since it was last heard
//!   of is a gap, because nobody knows what the old one held.
//! - A revoked host's stream is closed at once, one whose certificate ends when it ends.
//! - Two live streams of one host: the newer stays. It is an alarm in the audit when they cannot be one agent
//!   that connected again: another boot of the kernel, or one that keeps coming back.
//! - A host's clock may be wrong: `clock.rs` estimates by how much from its heartbeats, per boot, and each frame goes
//!   to the sink with what its clock was ahead when it was made. An agent begins each stream with a heartbeat; frames
//!   that come before any have an unknown clock.
//! - Relative frames ([`fleetmend_event::relative`]) are made whole before anything else is done with them; one that cannot
//!   be is answered with a goodbye, after which the host sends frames that stand for themselves.
//! - **What a peer costs is bounded, and it is answered.** A message takes room from one budget of bytes, by the length
//!   it states, before it is read, and keeps it until its records are durable (`metered.rs`, `budget.rs`); small messages
//!   have room of their own, for the critical lane. Each stream is granted credit in bytes out of the same budget. An
//!   address, a host and all together have a number of connections and streams, an address shakes so many hands at
//!   once, and a host may send so many bytes and rows a second (`quota.rs`); samples of more series than it may have
//!   are the sink's to refuse. Whoever exceeds is held, sent away with a time to come back, or refused, and is named in the
//!   audit, which is limited per address and host. Beyond the budget a connection has 256 KiB in HTTP/2 and the
//!   buffers of TLS. Whoever has many addresses can still make handshakes wait for as long as one may take.
//! - A connection without a call, a message that does not come and answers that are not taken have deadlines.
//!
//! # Tasks and channels
//! `carrier-accept` shakes hands, `carrier-serve` speaks HTTP/2, and each stream is a task below them that ends
//! with a goodbye when the collector drains. Downwards each stream has a queue of 16 orders and hints; a full
//! one refuses the order.

mod admission;
mod bases;
mod budget;
mod carrier;
mod clock;
mod config;
pub mod enrol;
mod error;
mod hosts;
pub mod listener;
mod metered;
mod metrics;
mod new_spool;
mod quota;
mod records;
mod session;
mod sink;

#[cfg(test)]
mod tests;

pub use carrier::{InFlight, Ingest};
pub use config::IngestConfig;
pub use error::IngestError;
pub use hosts::{HostOrderResult, HostsLive, LiveHost, OrderError};
pub use records::CONFLICT;
pub use sink::{DurableSink, SinkError, TimedFrame};
