//! What every handler has at hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::TimeMicros;
use fleetmend_shutdown::CancellationToken;

use crate::assets::Assets;
use crate::backend::{Alerts, AuditRow, Enrolments, HostsLive, LiveFacts, Operations, QueryLimits, SqlQuery};
use crate::error::StateError;
use crate::limit::RateLimits;
use crate::sessions::Sessions;
use crate::throttle::LoginThrottle;
use crate::tickets::Tickets;
use crate::users::Accounts;

pub(crate) type Shared = Arc<ApiState>;

pub(crate) struct ApiState {
    pub(crate) sql: Arc<dyn SqlQuery>,
    pub(crate) live: Arc<dyn LiveFacts>,
    pub(crate) hosts: Arc<dyn HostsLive>,
    pub(crate) enrolments: Arc<dyn Enrolments>,
    pub(crate) alerts: Arc<dyn Alerts>,
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) assets: Arc<dyn Assets>,
    pub(crate) accounts: Accounts,
    pub(crate) sessions: Sessions,
    pub(crate) limits: RateLimits,
    pub(crate) throttle: LoginThrottle,
    pub(crate) tickets: Tickets,
    /// Live streams that may still be opened.
    pub(crate) live_slots: Arc<tokio::sync::Semaphore>,
    pub(crate) openapi: String,
    pub(crate) query_timeout: Duration,
    /// Cancelled when the process drains: live streams end then.
    pub(crate) draining: CancellationToken,
}

/// Where a request came from; absent only in tests that have no connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

impl ApiState {
    pub(crate) fn query_limits(&self, rows_max: usize) -> QueryLimits {
        QueryLimits {
            rows_max,
            timeout: self.query_timeout,
        }
    }

    /// Writes one entry of the API's own audit trail. An order is carried out only when this succeeded.
    pub(crate) async fn audit(&self, entry: AuditEntry<'_>) -> Result<(), StateError> {
        sqlx::query(
            "INSERT INTO api_audit (time, actor, action, subject, outcome, detail, remote_address)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(TimeMicros::now().0)
        .bind(entry.actor)
        .bind(entry.action)
        .bind(entry.subject)
        .bind(entry.outcome)
        .bind(entry.detail)
        .bind(entry.remote.map(|remote| remote.0.ip().to_string()))
        .execute(self.accounts.pool())
        .await
        .map_err(StateError::database("write the audit trail"))?;
        Ok(())
    }

    /// Entries of the API's own trail before `before`, newest first.
    pub(crate) async fn audit_rows(
        &self,
        before: TimeMicros,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StateError> {
        use sqlx::Row as _;
        let rows = sqlx::query(
            "SELECT id, time, actor, action, subject, outcome, detail, remote_address FROM api_audit
             WHERE time < ? ORDER BY time DESC, id DESC LIMIT ?",
        )
        .bind(before.0)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.accounts.pool())
        .await
        .map_err(StateError::database("read the audit trail"))?;
        let row = |row: sqlx::sqlite::SqliteRow| AuditRow {
            id: format!("api-{}", row.get::<i64, _>(0)),
            time: TimeMicros(row.get(1)),
            actor: row.get(2),
            action: row.get(3),
            subject: row.get(4),
            outcome: row.get(5),
            detail: row.get(6),
            remote_address: row.get(7),
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

/// An entry of the audit trail that is about to be written.
#[derive(Clone, Copy)]
pub(crate) struct AuditEntry<'a> {
    pub(crate) actor: &'a str,
    pub(crate) action: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) outcome: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) remote: Option<Remote>,
}
