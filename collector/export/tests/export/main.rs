//! Export against real parts: the store, SQLite, HTTP receivers, and a Prometheus server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod acts;
mod late;
mod page;
mod parquet;
mod prometheus;
mod receiver;
mod remote_write;
mod rows;
mod testbed;
mod turns;
mod vocabulary;
