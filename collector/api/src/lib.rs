//! The API: `/api/v1`, the dashboard's files, and the listener both are served on.
//!
//! The contract is `docs/specs/api.md`; `GET /api/v1/openapi.json` is made from the handlers themselves, so that a
//! route that is mounted cannot be missing from it.
//!
//! # Invariants
//! - Plain HTTP is served on loopback only; any other address without TLS is a fault of the configuration.
//! - Every handler that needs a caller takes [`auth::Caller`] or [`auth::Admin`] as an argument: a handler cannot
//!   forget to look at what it has to name. Passwords are Argon2id; tokens are random and stored as hashes.
//! - A refresh token holds once. Used twice, it ends its session.
//! - What a person typed reaches SQL only through [`query::text`] and [`query::time`], or whole, in `POST sql`, whose
//!   executor refuses whatever is not a query.
//! - Every map is bounded: rate limits, login throttles, live tickets; so is the audit trail. Nothing here waits without a deadline.
//!
//! # Seams
//! What the API reads and orders stands behind the traits of [`backend`]; the binary's wiring adapts the store,
//! ingest and alert to them. Its own state (users, sessions, audit) lies in the shared control database, tables `api_…`.
//!
//! # Tasks and channels
//! [`Api::serve`] starts `api-accept` (critical) and one `api-connection` each (best effort, at most
//! `connections_max`). The channel of live facts is the store's; a client that lags is told so and skips.
//!
//! # Not there yet
//! `Idempotency-Key`, password change by the user, and a second factor.

mod assets;
mod audit;
pub mod auth;
pub mod backend;
mod basic;
mod certificate;
mod config;
mod database;
mod error;
mod exports;
mod groups;
mod headers;
mod json;
mod limit;
mod metrics;
mod page;
mod parameter;
mod password;
mod problem;
mod promql;
pub mod query;
mod routes;
mod serve;
mod sessions;
mod state;
mod throttle;
mod tickets;
mod users;

pub use assets::{Asset, Assets, EmbeddedAssets};
pub use backend::{
    AlertFilter, AlertView, Alerts, AuditRow, BackendError, CommittedFacts, DeliveryView, EnrolledHost,
    EnrolmentTokenView, Enrolments, HostsLive, LiveFact, LiveFacts, LiveHost, NewEnrolmentToken, Operations,
    OwnCertificate, QueryAnswer, QueryError, QueryLimits, QueryView, SqlQuery,
};
pub use certificate::Certificate;
pub use config::{ApiConfig, ApiTls, ConfigFault};
pub use database::TABLES;
pub use error::{BuildError, ServeError, StateError};
pub use exports::{Exports, ParquetWanted, RecordsAnswer, RecordsWanted};
pub use problem::{Code, Problem};
pub use promql::{
    PromAlert, PromAlerting, PromAnswer, PromBounds, PromData, PromError, PromLabels, PromList, PromMetric,
    PromPoint, PromRule, PromRuleGroup, PromSelection, Promql,
};
pub use serve::{Api, Backends, openapi};
pub use users::{Accounts, Role, UserView};
