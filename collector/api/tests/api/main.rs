//! The API over HTTP, on a real store and a real SQLite.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod access;
mod admin;
mod dashboard;
mod facts;
mod live;
mod prometheus;
mod scope;
mod session;
mod testbed;
mod tls;
