//! Logs: lines of the journal and of files, and what they say of authentication.

use super::table;
use crate::{Lane, TimeMicros, words};

table! {
    /// A line of a log.
    pub struct LogRecord("log_records", id 30, version 1, Lane::Events) {
        /// When it was logged, by the log's own clock.
        time: TimeMicros,
        /// Where it was read: `journal`, or the path of the file; `agent` for a row that tells of a log, such as a storm.
        source: String,
        /// Who logged it, such as `sshd`.
        identifier: String,
        /// systemd unit, when known.
        unit: Option<String>,
        /// Process id, when known.
        pid: Option<u32>,
        /// User id, when known.
        uid: Option<u32>,
        /// Severity as syslog numbers it, 0 (emergency) to 7 (debug), when known.
        priority: Option<u32>,
        /// Facility as syslog numbers it, when known.
        facility: Option<u32>,
        /// The message, secrets masked, cut at the configured length.
        message: String,
        /// Whether it was cut.
        truncated: bool,
        /// Number of its template, equal for lines that differ in their variable parts only; 0 when none.
        template: u64,
        /// How many equal lines this row stands for.
        repeats: u64,
    }
}

words! {
    /// What was tried.
    pub enum AuthEventKind {
        /// A login, by password, key or otherwise.
        Login = "login",
        /// A session opened.
        SessionOpened = "session_opened",
        /// A session closed.
        SessionClosed = "session_closed",
        /// A command as another user by sudo, su, doas or pkexec.
        Elevation = "elevation",
        /// An account or group made, changed or removed.
        Account = "account",
        /// A password or key changed.
        Secret = "secret",
    }
}

words! {
    /// How it ended.
    pub enum AuthOutcome {
        /// Allowed.
        Success = "success",
        /// Refused.
        Failure = "failure",
    }
}

table! {
    /// An authentication or a change of accounts, as a log tells it.
    pub struct AuthEvent("auth_events", id 31, version 1, Lane::Critical) {
        /// When it was logged.
        time: TimeMicros,
        /// What was tried.
        kind: AuthEventKind,
        /// How it ended.
        outcome: AuthOutcome,
        /// Service that logged it, such as `sshd`, `sudo`, `su`, `login`.
        service: String,
        /// How: `password`, `publickey`, `keyboard-interactive`, `pam` and such, when told.
        method: Option<String>,
        /// Account that was tried or became another.
        user: String,
        /// Whether the account exists, when told.
        user_valid: Option<bool>,
        /// Account whose rights were taken, for an elevation.
        target_user: Option<String>,
        /// Command run, for an elevation, secrets masked.
        command: Option<String>,
        /// Terminal, when told.
        terminal: Option<String>,
        /// Address it came from, when told.
        remote_address: Option<String>,
        /// Port it came from, when told.
        remote_port: Option<u32>,
        /// Fingerprint of the key, when told.
        key_fingerprint: Option<String>,
        /// Process id of the service, when known.
        pid: Option<u32>,
        /// Where it was read: `journal`, `audit`, or the path of the file.
        source: String,
        /// How many equal lines this row stands for.
        repeats: u64,
    }
}
