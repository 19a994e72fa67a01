//! The control database, on both engines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod control {
    mod away;
    mod copy;
    mod lease;
    mod migrate;
    mod pool;
    mod signal;
    pub(crate) mod testbed;
}
