//! The stream to the collector: spooled frames go up, acknowledgements and orders come down.
//!
//! [`StreamTask`] keeps one connection. It says hello with the marks of its spool, is welcomed with the marks of
//! the store, and sends what lies behind those, strictly by lane and the critical one first by itself, at most 16
//! frames in a message and no more than the collector's window in flight. A frame counts as delivered when the collector acknowledged it, which
//! it does after its store made it durable; then the spool may let it go.
//!
//! # Invariants
//! - The welcome is the truth: the spool is read from there on, whatever was acknowledged before. So a restored
//!   or new store gets again what is still kept, and nothing is sent that is durable already.
//! - One layer retries: a session that ends for any reason is followed by a wait with full jitter and a new
//!   session with the next collector. What a person must mend (a revoked or foreign certificate, a goodbye
//!   without retry) is logged as an error and tried again only after [`StreamConfig::refused_wait`].
//! - Every wait has a deadline: connecting, the welcome, an acknowledgement, room in the connection.
//! - Where the collector can, frames travel relative to those before them on the same stream ([`fleetmend_event::relative`]).
//!   A new stream begins anew, so what is sent again after a break stands for itself; a collector that could not
//!   read one is sent none for a while.
//! - Orders are carried, not judged: their signature is checked by whom they are for. A full order queue
//!   refuses the order and says so.
//!
//! - What leaves the host keeps to the cap of [`StreamConfig::egress_bytes_per_s`] over any long time. The critical
//!   lane is charged like the others and never waits for it.
//! - The collector's signed time is taken over with the welcome and then every ten minutes, and at once when the
//!   system clock was set: whatever that clock says, a connected host judges by the collector's time.
//! - One address of several is left for the next one when its collector says goodbye or cannot be reached; where
//!   an agent begins, and how long it waits, is random, so that a fleet that was sent away does not come at once.
//!
//! # Tasks and channels
//! [`StreamTask::run`] is one task. It talks to the spool through [`FrameSource`], gives orders to an `mpsc` of
//! the wiring and takes their results from another, publishes hints and its [`StreamState`] in `watch`es.
//!
//! [`enrol`] is the host's side of enrolment and renewal; [`connector`] makes the connections of both, over the
//! [`network`] as it is configured: IPv4 or IPv6, directly or through a proxy.

mod clock;
mod config;
pub mod connector;
pub mod enrol;
mod error;
mod in_flight;
mod metrics;
pub mod network;
mod pace;
mod relative;
mod session;
mod source;
mod state;
mod task;

#[cfg(test)]
mod tests;

pub use config::StreamConfig;
pub use error::StreamError;
pub use source::{FrameSource, SourceFrame, SourceLanes, SourceLimit};
pub use state::{Hint, Order, OrderResult, StreamPhase, StreamState};
pub use task::{StreamParts, StreamTask};
