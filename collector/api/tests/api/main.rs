//! The API over HTTP, on a real store and a real control database, SQLite and PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod access;
mod admin;
mod answers;
mod dashboard;
mod evaluator;
mod export;
mod facts;
mod live;
mod prometheus;
mod scope;
mod scope_routes;
mod session;
mod testbed;
mod tls;

#[test]
fn the_api_on_postgresql_too() {
    fleetmend_testkit::on_postgresql_too("", "the_api_on_postgresql_too").unwrap();
}
