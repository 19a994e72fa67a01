//! Healing, the agent's part: from findings to proposals, and from the healer's ledger to facts.
//!
//! The agent may not act. It diagnoses a finding, names the remedies that could help ([`plan`]), and proposes
//! them one after the other to the healer, another process, over a Unix socket ([`client`]). What the healer
//! decides and does comes back as ledger entries, which go on as facts.
//!
//! # Invariants
//! - Diagnosis and the order of candidates are pure functions of a finding; when to propose is a pure state
//!   machine ([`book`]). At most one proposal of a finding is under way.
//! - A milder remedy comes first; the next one only when the one before did not help, or is not to be had.
//!   What is granted is the healer's business: a remedy it does not grant is refused there, and recorded.
//! - An entry of the ledger is passed on until the [`FactSink`] took it, and only then counted as read, in a
//!   file of its own ([`cursor`]): an agent that dies reads it again. Between the two it may arrive twice, with
//!   the same index and hash.
//! - After a rotation of the fleet's keys the healer gets the newer trust bundles from here, and believes them for
//!   their signatures ([`trust`]).
//! - A healer that is not there, or only observes, is said in the probe status `healer`, and stops nothing.
//!
//! # Tasks and channels
//! `heal` (critical): one loop over findings (queue of 256, newest dropped and counted when full: an open
//! finding comes again), the healer's replies (64, the healer waits) and a clock tick. `replies`: one reader per
//! connection. `healer trust` (best effort): compares versions each five minutes, over connections of its own.
//!
//! # What is thin
//! Three rules lead to remedies; all other findings to none. Candidates are ranked by a fixed order, not by a
//! model.

pub mod book;
pub mod client;
pub mod clock;
pub mod config;
pub mod cursor;
pub mod error;
pub mod metrics;
pub mod plan;
pub mod sink;
pub mod task;
pub mod trust;

pub use clock::{Clock, SystemClock};
pub use config::Config;
pub use error::SinkClosed;
pub use sink::FactSink;
pub use task::{HealHandle, start};
