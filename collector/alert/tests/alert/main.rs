//! Alerting on a real store and a real control database, SQLite and PostgreSQL, with a real HTTP server as the receiver.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod findings;
mod groups;
mod leader;
mod metrics;
mod promql;
mod receiver;
mod removed;
mod testbed;
mod webhook;

#[test]
fn alerting_on_postgresql_too() {
    fleetmend_testkit::on_postgresql_too("", "alerting_on_postgresql_too").unwrap();
}
