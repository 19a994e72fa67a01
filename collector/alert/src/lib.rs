//! Alerts: rules over findings and metrics, and messages that arrive once somebody takes them.
//!
//! # What becomes of a finding (heal first)
//! A finding that a rule wants becomes an alert that **waits**: a few seconds for a remedy to be proposed, then for
//! the remedy's ending, at most until its deadline. `healed` or `no-op` is recorded and pages nobody. A remedy that
//! failed, was refused, would only have acted, or has no ending by the deadline makes the alert **fire**, and the
//! message says what was tried. It is **resolved** by the finding's own last row. A row that was older than
//! `late_after` when it arrived is recorded as **late** and pages nobody.
//!
//! # What becomes of a metric
//! A series is inactive, **pending** while its condition holds for less than `for`, **firing**, then **resolved**.
//! Where samples are missing or a gap overlaps the window the condition is *unknown*: nothing fires and nothing
//! resolves by it, and the time does not count towards `for`.
//!
//! A rule may have an expression of PromQL in place of a metric and a limit ([`PromQuery`]): it holds for each series
//! that the expression gives, and is unknown where samples of that series' host are missing; a series of no host in
//! particular is unknown as soon as samples of any host are. Rule files of Prometheus are read too: their rules for
//! alerts become such rules, their recording rules give series (`record.rs`), and each group is evaluated in its order
//! on its interval (`group.rs`).
//!
//! # What becomes of a host that leaves
//! Its alerts end, whoever was told of them is told so, and nothing of it begins one ([`RemovedHosts`]).
//!
//! # Invariants
//! - What is read, what it changes, the messages that follow and the place read up to are one transaction:
//!   over a restart nothing is missed and nothing is doubled. Rows are read again over a short overlap, because
//!   rows become visible in another order than they are stamped; applying a row twice changes nothing.
//! - One alert per finding, whatever number of its rows arrive; so many alerts of one host a minute, and one more
//!   that says how many were left out.
//! - Nothing this room does is a fact; findings about it (a rule `alert…` of the collector's own host zero, or of the
//!   subject `agent`) never reach a rule. Other findings of the collector do.
//! - A message is sent until it is accepted with 2xx, for a day, under one delivery id, so that the receiver can
//!   tell a repetition. Redirects are not followed. The secret is in no log and in no table.
//! - Of several collectors that share a control database in PostgreSQL one evaluates and delivers: who has the lease
//!   `alert`. Each round confirms it in its transaction, so that a collector that was stopped for a while writes
//!   nothing when it goes on. A message may be sent twice around such a moment, under the same delivery id.
//!
//! # Tasks and channels
//! [`Alerting::spawn`] starts `alert-evaluate` (each second), `alert-groups` (where there are groups of rules) and one
//! `alert-deliver` for each receiver (when something is due), all critical: a round that fails is done again by itself.
//! They share nothing but the control database and one `watch`, by which evaluating wakes delivering.
//!
//! # Not there yet
//! Silences, grouping, escalation, and receivers other than the webhook.

mod apply;
mod config;
mod database;
mod deliver;
mod error;
mod evaluate;
mod finding_rule;
mod flood;
mod group;
mod heal_first;
mod message;
mod metric_rule;
mod metrics;
mod promql;
mod query;
mod record;
mod removed;
mod rule_file;
mod rule_view;
mod rules;
mod signature;
mod store;
mod task;
mod template;
mod threshold;
mod view;
mod webhook;

pub use config::{AlertConfig, Receiver};
pub use database::TABLES;
pub use error::{AlertError, RuleError};
pub use promql::{CheckExpression, NO_HOST, PromLabels, PromQuery, PromValues, Recorded};
pub use query::{QueryError, QueryLimits, SqlQuery};
pub use removed::RemovedHosts;
pub use rule_file::{PrometheusFile, PrometheusRule, RuleGroup};
pub use rule_view::{AlertingView, RuleAlert, RuleGroupView, RuleView};
pub use rules::{FindingRule, MetricRule, RuleFile, Rules};
pub use signature::{SignatureFault, verify};
pub use task::Alerting;
pub use view::{AlertFilter, AlertView, DeliveryView};
