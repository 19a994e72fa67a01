//! Tables of the room, and the steps that made them what they are.

use fleetmend_control::{Control, ControlError, Migrations};

/// Tables of enrolment. Never edited once released: a change is a new step.
pub const TABLES: Migrations = Migrations {
    room: "ingest",
    steps: &[
        "
CREATE TABLE ingest_enrolment_tokens (
    digest TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    revoked_at INTEGER
) STRICT;
CREATE TABLE ingest_enrolments (
    token TEXT NOT NULL,
    host_id TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    PRIMARY KEY (token, host_id)
) STRICT;
CREATE TABLE ingest_hosts (
    host_id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    hostname TEXT NOT NULL,
    machine_id_digest TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    revoked_at INTEGER,
    serial TEXT NOT NULL,
    not_after INTEGER NOT NULL
) STRICT;
CREATE TABLE ingest_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    refused INTEGER NOT NULL,
    source TEXT,
    host_id TEXT,
    detail TEXT NOT NULL,
    suppressed INTEGER NOT NULL
) STRICT;
",
        "ALTER TABLE ingest_enrolment_tokens ADD COLUMN created_by TEXT NOT NULL DEFAULT '';",
        // Until when a host may recover counts from the latest end that any certificate of it ever had: those issued
        // while the collector's clock was behind end too early.
        "
ALTER TABLE ingest_hosts ADD COLUMN bundle_sent INTEGER NOT NULL DEFAULT 1;
ALTER TABLE ingest_hosts ADD COLUMN bundle_seen INTEGER NOT NULL DEFAULT 1;
ALTER TABLE ingest_hosts ADD COLUMN latest_end INTEGER NOT NULL DEFAULT 0;
UPDATE ingest_hosts SET latest_end = not_after;
",
        "
ALTER TABLE ingest_hosts ADD COLUMN removed_at INTEGER;
CREATE TABLE ingest_alarms (
    host_id TEXT PRIMARY KEY,
    finding_id TEXT NOT NULL,
    open INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    count INTEGER NOT NULL,
    detail TEXT NOT NULL,
    told INTEGER NOT NULL,
    told_at INTEGER NOT NULL
) STRICT;
",
    ],
};

/// Runs the steps that were not run yet.
pub(super) async fn migrate(control: &Control) -> Result<(), ControlError> {
    control.migrate(&TABLES).await
}
