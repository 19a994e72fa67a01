//! The real API of a real collector, asked by the real promtool and held against a real Prometheus server that has the
//! same samples.
//!
//! Prometheus and promtool are Debian's, unpacked by `cargo xtask test` (`FLEETMEND_PROMETHEUS` names the folder). Where
//! they are missing the tests say so and, with `CI` set, fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod collector;
mod data;
mod promtool;
mod queries;
mod rules;
mod server;
mod values;
