//! Two years of a fleet's identities in some seconds: the real enroller over SQLite, the real keeper, real
//! certificates and TLS 1.3 handshakes in memory; every clock is simulated.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod clocks;
mod collector;
mod handshake;
mod healer;
mod host;
mod years;
