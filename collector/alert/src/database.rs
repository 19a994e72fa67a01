//! The room's tables in the control database, and the steps that made them what they are.

use fleetmend_control::{Control, ControlError, Migrations};

/// Tables of alerting. Never edited after a release: a change is a new step.
pub const TABLES: Migrations = Migrations {
    room: "alert",
    steps: &[
        "CREATE TABLE alert_cursors (
        name TEXT PRIMARY KEY, ingested_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE alert_alerts (
        alert_id TEXT PRIMARY KEY, key TEXT NOT NULL, rule TEXT NOT NULL, state TEXT NOT NULL,
        severity TEXT NOT NULL, host_id TEXT, finding_id TEXT, action_id TEXT,
        subject TEXT NOT NULL, title TEXT NOT NULL, summary TEXT NOT NULL, value REAL,
        started_at INTEGER NOT NULL, since INTEGER NOT NULL, judged_at INTEGER NOT NULL, unknown_since INTEGER,
        row_time INTEGER NOT NULL, deadline_us INTEGER NOT NULL, receivers TEXT NOT NULL,
        fired_at INTEGER, resolved_at INTEGER, changed_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX alert_alerts_key ON alert_alerts(key);
    CREATE INDEX alert_alerts_state ON alert_alerts(state);
    CREATE INDEX alert_alerts_changed ON alert_alerts(changed_at, alert_id);
    CREATE INDEX alert_alerts_finding ON alert_alerts(finding_id);
    CREATE TABLE alert_tried (
        host_id TEXT NOT NULL, action_id TEXT NOT NULL, finding_id TEXT NOT NULL, remedy TEXT NOT NULL,
        target TEXT NOT NULL, refused INTEGER NOT NULL, would_act INTEGER NOT NULL, ending TEXT,
        reason TEXT NOT NULL, seen_at INTEGER NOT NULL, PRIMARY KEY (host_id, action_id)
    ) STRICT;
    CREATE INDEX alert_tried_finding ON alert_tried(host_id, finding_id);
    CREATE TABLE alert_deliveries (
        delivery_id TEXT PRIMARY KEY, alert_id TEXT NOT NULL, receiver TEXT NOT NULL, event TEXT NOT NULL,
        body TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, created_at INTEGER NOT NULL,
        next_attempt_at INTEGER, delivered_at INTEGER, last_status INTEGER, last_error TEXT
    ) STRICT;
    CREATE INDEX alert_deliveries_alert ON alert_deliveries(alert_id);
    CREATE INDEX alert_deliveries_due ON alert_deliveries(state, next_attempt_at);",
        // Rows that were applied before this step are behind the cursor.
        "ALTER TABLE alert_alerts ADD COLUMN row_ingested_at INTEGER NOT NULL DEFAULT 0;
    UPDATE alert_alerts SET row_ingested_at =
        coalesce((SELECT ingested_at FROM alert_cursors WHERE name = 'findings'), 0);",
    ],
};

/// Brings the tables up to date.
pub(crate) async fn migrate(control: &Control) -> Result<(), ControlError> {
    control.migrate(&TABLES).await
}
