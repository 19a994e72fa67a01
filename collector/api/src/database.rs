//! The API's tables in the control database, and the steps that made them what they are.

use fleetmend_control::{Control, Migrations};

use crate::StateError;

/// Tables of the API. Never edited after a release: a change is a new step.
pub const TABLES: Migrations = Migrations {
    room: "api",
    steps: &["CREATE TABLE api_users (
        name TEXT PRIMARY KEY, password_hash TEXT NOT NULL, role TEXT NOT NULL,
        created_at INTEGER NOT NULL, last_login_at INTEGER
    ) STRICT;
    CREATE TABLE api_sessions (
        session_id TEXT PRIMARY KEY, \"user\" TEXT NOT NULL REFERENCES api_users(name) ON DELETE CASCADE,
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX api_sessions_user ON api_sessions(\"user\");
    CREATE TABLE api_tokens (
        hash BLOB PRIMARY KEY, session_id TEXT NOT NULL REFERENCES api_sessions(session_id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK (kind IN ('access', 'refresh')), expires_at INTEGER NOT NULL, used_at INTEGER
    ) STRICT;
    CREATE INDEX api_tokens_session ON api_tokens(session_id);
    CREATE INDEX api_tokens_expiry ON api_tokens(expires_at);
    CREATE TABLE api_audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, outcome TEXT NOT NULL, detail TEXT NOT NULL, remote_address TEXT
    ) STRICT;
    CREATE INDEX api_audit_time ON api_audit(time);",
        "ALTER TABLE api_users ADD COLUMN scoped INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE api_groups (
        name TEXT PRIMARY KEY, created_at INTEGER NOT NULL, created_by TEXT NOT NULL
    ) STRICT;
    CREATE TABLE api_group_hosts (
        group_name TEXT NOT NULL, host TEXT NOT NULL, PRIMARY KEY (group_name, host)
    ) STRICT;
    CREATE TABLE api_user_groups (
        user_name TEXT NOT NULL, group_name TEXT NOT NULL, PRIMARY KEY (user_name, group_name)
    ) STRICT;",
    ],
};

/// Brings the tables up to date.
pub(crate) async fn migrate(control: &Control) -> Result<(), StateError> {
    let wrap = StateError::database("bring the tables up to date");
    control.migrate(&TABLES).await.map_err(wrap)
}
