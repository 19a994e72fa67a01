//! What a Fleetmend process says about itself: logs, metrics, readiness, and the admin server that shows them.
//!
//! # Invariants
//! - Logs go to stderr, one line each. Under journald ([`LogFormat::Plain`] with `JOURNAL_STREAM` set) a line
//!   starts with its syslog priority and has no time of its own.
//! - Alive is not ready: `/healthz` answers 200 as long as the process can answer at all; `/readyz` answers 503
//!   with the reasons until every named condition of [`Readiness`] holds, and again when one ceases to.
//! - The admin server listens on a unix socket or on loopback, nowhere else; it holds at most
//!   [`admin::CONNECTIONS_MAX`] connections and waits for nobody without a deadline.
//! - Nothing here leaves the host by itself.
//!
//! # Tasks and channels
//! [`admin::serve`] starts `accept`, one `connection` each, and `upkeep`, which empties the histograms' buffers
//! every few seconds, because they grow when nobody scrapes. [`Readiness`] is a `watch`.

pub mod admin;
mod error;
mod logs;
mod metric;
mod process;
mod readiness;
mod repeat;

#[cfg(test)]
mod tests;

pub use error::{AdminError, LogsError, MetricsError};
pub use logs::{LogFormat, init_logs};
pub use metric::{MetricsHandle, install_metrics};
pub use readiness::{Readiness, State};
pub use repeat::RateLimited;

#[doc(hidden)]
pub use tracing;
