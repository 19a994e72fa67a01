//! Control state: users, hosts, tokens, alerts, leases, in SQLite or PostgreSQL behind one handle.
//!
//! [`Control`] is the pool, [`query`] a statement, [`Control::begin`] a transaction that writes,
//! [`Control::migrate`] the one runner of the tables' steps, [`copy`] the way from one engine to the other, [`Leases`] who may do what only one collector may do,
//! [`Control::follow`] that something was changed elsewhere. Rooms see no driver.
//!
//! # One text for both engines
//! sqlx's own pool over several engines was looked at and left: it takes its options from a URL alone, which would
//! have to hold the password, gives no deadline to a statement, and knows neither engine's transactions. Here stands
//! an enum of two pools; statements keep to these rules:
//! - Values are `$1`, `$2`, …; a value may be used twice. They are integers (i64), numbers (f64), text and bytes, each
//!   possibly missing. There is no NaN: it is stored as nothing. PostgreSQL's text cannot hold U+0000; it is replaced
//!   by U+FFFD.
//! - A flag is an INTEGER of 0 or 1; a condition becomes one by `CASE WHEN … THEN 1 ELSE 0 END`.
//! - `count(*)` is an integer; `sum` and `avg` are cast (`CAST(sum(a) AS BIGINT)`), since PostgreSQL widens them.
//! - `INSERT … ON CONFLICT (key) DO UPDATE SET a = excluded.a` and `RETURNING`; in the update the table's own columns
//!   are written with its name, as PostgreSQL demands. The larger of two values is `CASE WHEN`. A parameter whose
//!   type nothing tells is cast: `CAST($1 AS BIGINT)`.
//! - Columns are named, never `*`: a connection that was open when one was added may know the table without it.
//! - Order of text is by bytes only where the column is ASCII; ids and times are.
//! - Words that only one engine has are refused in steps of the tables ([`Migrations`]).
//!
//! # Invariants
//! - A transaction of a room excludes other transactions of that room ([`Control::begin`]): SQLite by its one writer,
//!   PostgreSQL by an advisory lock. What was read in it is still so when it commits, and no serialization failure
//!   has to be retried by a room. Single statements outside one that meet a deadlock are done again, a few times.
//! - Every wait ends: for a connection (5 s), for a statement (`statement_timeout`), on the server too; a transaction
//!   whose collector went silent is ended by the server after 30 s.
//! - A connection that failed is never used again; the pool makes new ones by itself, also to another server behind
//!   the same address.
//! - The password is read from its file, goes to the server and nowhere else.
//!
//! # Tasks and channels
//! [`Control::watch`] starts `control-health`; [`Control::serve_signals`] `control-signals`; [`Leases::hold`] one
//! `control-lease` each. All best effort: they go on by themselves. Signals and health are `watch` channels.
//!
//! # What is thin
//! A pooler between that shares connections by transaction (PgBouncer) does not work: statements are prepared and
//! signals listened to. Client certificates and Kerberos towards PostgreSQL are not there; the password is.

#![warn(missing_docs)]

mod config;
mod copy;
mod dialect;
mod error;
mod lease;
mod metrics;
mod migrate;
mod pool;
mod row;
mod run;
mod signal;
mod statement;
mod transaction;

pub use config::{ControlConfig, ControlUrl, PostgresUrl, Tls};
pub use copy::{Copied, CopiedTable, CopyError, copy};
pub use error::{ControlError, UrlError};
pub use lease::{BATCH, FencingToken, Held, LeaseSet, Leases, Tenure};
pub use migrate::Migrations;
pub use pool::{Control, Engine, Executor, Health};
pub use row::{Cell, ColumnKey, FromCell, Row};
pub use statement::{Answer, Query, Value, composed, query};
pub use transaction::Transaction;
