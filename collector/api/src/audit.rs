//! The API's own audit trail: who ordered what, and who was not let in.
//!
//! An order is carried out only when its row was written; one that then fails has a second row that says why. Refusals cost a stranger nothing, so they are bounded
//! three ways: rows of one source per minute, rows of everybody per minute, rows kept, apart from those of orders.
//! What a minute had too many of is counted, and the count stands in the next refusal.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fleetmend_control::{self as control, Control, ControlError, Row};
use fleetmend_event::TimeMicros;
use parking_lot::Mutex;

use crate::backend::AuditRow;
use crate::error::StateError;
use crate::state::Remote;

const WINDOW: Duration = Duration::from_secs(60);
/// Refusals of one source that are written per minute.
const PER_SOURCE_MAX: u32 = 20;
/// Refusals of all sources that are written per minute.
const TOTAL_MAX: u32 = 600;
/// Old rows are deleted once in so many writes.
const PRUNE_EVERY: u64 = 256;

/// An entry of the audit trail that is about to be written.
#[derive(Clone, Copy)]
pub(crate) struct AuditEntry<'a> {
    pub(crate) actor: &'a str,
    pub(crate) action: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) detail: &'a str,
    pub(crate) remote: Option<Remote>,
}

pub(crate) struct Audit {
    pool: Control,
    /// Refusals kept, and other rows kept.
    rows_max: u32,
    window: Mutex<Window>,
}

struct Window {
    begun: Instant,
    total: u32,
    sources: HashMap<Option<IpAddr>, u32>,
    suppressed: u64,
    written: u64,
}

impl Audit {
    pub(crate) fn new(pool: Control, rows_max: u32) -> Self {
        let window = Mutex::new(Window {
            begun: Instant::now(),
            total: 0,
            sources: HashMap::new(),
            suppressed: 0,
            written: 0,
        });
        Self {
            pool,
            rows_max,
            window,
        }
    }

    /// Writes what is allowed. An order is carried out only when this succeeded.
    pub(crate) async fn allowed(&self, entry: AuditEntry<'_>) -> Result<(), StateError> {
        self.write("allowed", entry).await
    }

    /// Writes that what was allowed could not be done.
    pub(crate) async fn failed(&self, entry: AuditEntry<'_>) -> Result<(), StateError> {
        self.write("failed", entry).await
    }

    /// Writes a refusal, unless its source or everybody together had too many this minute.
    pub(crate) async fn refused(&self, entry: AuditEntry<'_>) -> Result<(), StateError> {
        let source = entry.remote.map(|remote| remote.0.ip());
        let admitted = self.window.lock().admit(source, Instant::now());
        let detail = match admitted {
            None => {
                metrics::counter!(crate::metrics::AUDIT_SUPPRESSED).increment(1);
                return Ok(());
            }
            Some(0) => entry.detail.to_owned(),
            Some(count) => format!("{} ({count} refusals before it were only counted)", entry.detail),
        };
        let entry = AuditEntry {
            detail: detail.trim_start(),
            ..entry
        };
        self.write("refused", entry).await
    }

    /// Entries before `before`, newest first.
    pub(crate) async fn rows(&self, before: TimeMicros, limit: usize) -> Result<Vec<AuditRow>, StateError> {
        let rows = control::query(
            "SELECT id, time, actor, action, subject, outcome, detail, remote_address FROM api_audit
             WHERE time < $1 ORDER BY time DESC, id DESC LIMIT $2",
        )
        .bind(before.0)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(StateError::database("read the audit trail"))?;
        let row = |row: &Row| {
            Ok(AuditRow {
                id: format!("api-{}", row.try_get::<i64>(0)?),
                time: TimeMicros(row.try_get(1)?),
                actor: row.try_get(2)?,
                action: row.try_get(3)?,
                subject: row.try_get(4)?,
                outcome: row.try_get(5)?,
                detail: row.try_get(6)?,
                remote_address: row.try_get(7)?,
            })
        };
        rows.iter().map(row).collect()
    }

    async fn write(&self, outcome: &str, entry: AuditEntry<'_>) -> Result<(), StateError> {
        control::query(
            "INSERT INTO api_audit (time, actor, action, subject, outcome, detail, remote_address)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(TimeMicros::now().0)
        .bind(entry.actor)
        .bind(entry.action)
        .bind(entry.subject)
        .bind(outcome)
        .bind(entry.detail)
        .bind(entry.remote.map(|remote| remote.0.ip().to_string()))
        .execute(&self.pool)
        .await
        .map_err(StateError::database("write the audit trail"))?;
        let due = self.window.lock().prune_is_due();
        if due && let Err(error) = self.prune().await {
            tracing::warn!(%error, "old audit rows could not be deleted");
        }
        Ok(())
    }

    /// Refusals and the rest apart: a flood of refusals must not push the orders out.
    async fn prune(&self) -> Result<(), ControlError> {
        for of_class in ["outcome = 'refused'", "outcome <> 'refused'"] {
            let statement = format!(
                "DELETE FROM api_audit WHERE {of_class} AND id <=
                 (SELECT id FROM api_audit WHERE {of_class} ORDER BY id DESC LIMIT 1 OFFSET $1)"
            );
            control::composed(statement)
                .bind(i64::from(self.rows_max))
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }
}

impl Window {
    /// How many refusals were left out before this one, when it is to be written.
    fn admit(&mut self, source: Option<IpAddr>, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.begun) >= WINDOW {
            self.begun = now;
            self.total = 0;
            self.sources.clear();
        }
        // Sources are entered only while rows are written, so there are never more than TOTAL_MAX of them.
        let of_source = self.sources.get(&source).copied().unwrap_or(0);
        if self.total >= TOTAL_MAX || of_source >= PER_SOURCE_MAX {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.total += 1;
        self.sources.insert(source, of_source + 1);
        Some(std::mem::take(&mut self.suppressed))
    }

    fn prune_is_due(&mut self) -> bool {
        self.written = self.written.wrapping_add(1);
        self.written.is_multiple_of(PRUNE_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn audit(folder: &std::path::Path, rows_max: u32) -> Audit {
        let pool = Control::sqlite(&folder.join("control.sqlite")).await.unwrap();
        crate::database::migrate(&pool).await.unwrap();
        Audit::new(pool, rows_max)
    }

    fn entry(source: [u8; 4]) -> AuditEntry<'static> {
        AuditEntry {
            actor: "somebody",
            action: "login",
            subject: "somebody",
            detail: "",
            remote: Some(Remote((source, 1).into())),
        }
    }

    #[tokio::test]
    async fn a_flood_of_refusals_is_counted_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit(folder.path(), 1_000).await;
        for _ in 0..50 {
            audit.refused(entry([10, 0, 0, 1])).await.unwrap();
        }
        audit.refused(entry([10, 0, 0, 2])).await.unwrap();
        let rows = audit.rows(TimeMicros(i64::MAX), 100).await.unwrap();
        assert_eq!(rows.len(), 21);
        assert_eq!(rows[0].detail, "(30 refusals before it were only counted)");
        assert!(audit.window.lock().admit(None, Instant::now() + WINDOW).is_some());
    }

    #[tokio::test]
    async fn the_trail_is_bounded_and_refusals_do_not_push_orders_out() {
        let folder = tempfile::tempdir().unwrap();
        let audit = audit(folder.path(), 10).await;
        audit.allowed(entry([10, 0, 0, 1])).await.unwrap();
        let sources = (0..).map(|number: u32| number.to_be_bytes());
        for source in sources.take(usize::try_from(PRUNE_EVERY).unwrap() - 1) {
            audit.refused(entry(source)).await.unwrap();
        }
        let rows = audit.rows(TimeMicros(i64::MAX), 1_000).await.unwrap();
        assert_eq!(rows.iter().filter(|row| row.outcome == "refused").count(), 10);
        assert_eq!(rows.iter().filter(|row| row.outcome == "allowed").count(), 1);
    }
}
