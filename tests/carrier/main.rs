//! Spool, stream and ingest together: real files, real sockets on the loopback, real certificates. The store is
//! in memory and keeps the promises of a sink, so that every record can be counted.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod agent;
mod bounds;
mod collector;
mod compat;
mod drain;
mod hostile;
mod kill;
mod relative;
mod resume;
mod rude;
mod scene;
mod serve;
mod sink;
mod trust;
mod ways;

use std::time::Duration;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
