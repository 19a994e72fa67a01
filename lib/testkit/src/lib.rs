//! What tests of several rooms need: a throw-away fleet with real keys, a wait that has a deadline and says
//! what it last saw, a TCP proxy that cuts, stalls and blackholes and may
//! stand before several targets, an HTTP proxy that knows CONNECT, a real PostgreSQL and a
//! real Prometheus, futures that are given up on their way, and a look at the names of metrics. A development dependency only.
//!
//! Nothing here sleeps for a fixed time, uses a fixed port or a shared file: addresses are bound on port 0,
//! folders are temporary, and [`wait_for`] looks again until a state is reached.

#![warn(missing_docs)]

pub mod connect;
pub mod control;
pub mod fleet;
pub mod hello;
pub mod metric;
pub mod postgres;
pub mod prometheus;
pub mod proxy;
pub mod turns;
pub mod wait;

pub use connect::ConnectProxy;
pub use control::{TestControl, on_postgresql_too};
pub use fleet::TestFleet;
pub use postgres::{PostgresServer, TestDatabase};
pub use prometheus::PrometheusServer;
pub use proxy::FaultProxy;
pub use turns::Turns;
pub use wait::wait_for;
