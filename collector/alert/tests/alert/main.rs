//! Alerting on a real store and a real SQLite, with a real HTTP server as the receiver.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod findings;
mod metrics;
mod receiver;
mod testbed;
mod webhook;
