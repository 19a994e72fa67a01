//! Which logs are read, and how much of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Section `collect.logs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Whether logs are read at all.
    pub enabled: bool,
    /// Folders of the systemd journal. The first readable journal file in any of them makes the journal the source,
    /// and `syslog_files` are left alone: they hold the same lines.
    pub journal_dirs: Vec<PathBuf>,
    /// Files that a syslog daemon writes; read where there is no journal.
    pub syslog_files: Vec<PathBuf>,
    /// Files that programs write themselves; always read where they are present.
    pub files: Vec<PathBuf>,
    /// Access logs of web servers: their lines are shown to rules and not stored. A file that is named here is not read
    /// as one of `files`.
    pub access_logs: Vec<PathBuf>,
    /// Lines of access logs a second that are shown to rules over the long run; 20 seconds of it at once.
    pub access_lines_per_s: u32,
    /// Lines less urgent than this are not stored: 6 leaves out debug. Authentication is read from every line.
    pub priority_max: u32,
    /// Lines a second that are stored over the long run; 20 seconds of it at once after a quiet time.
    pub lines_per_s: u32,
    /// The same for each program.
    pub identifier_lines_per_s: u32,
    /// Longest message that is stored.
    pub message_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Self {
            enabled: true,
            journal_dirs: paths(&["/run/log/journal", "/var/log/journal"]),
            syslog_files: paths(&[
                "/var/log/auth.log",
                "/var/log/syslog",
                "/var/log/secure",
                "/var/log/messages",
            ]),
            files: paths(&[
                "/var/log/nginx/error.log",
                "/var/log/apache2/error.log",
                "/var/log/httpd/error_log",
            ]),
            access_logs: paths(&[
                "/var/log/nginx/access.log",
                "/var/log/apache2/access.log",
                "/var/log/apache2/other_vhosts_access.log",
                "/var/log/httpd/access_log",
                "/var/log/caddy/access.log",
            ]),
            access_lines_per_s: 500,
            priority_max: 6,
            lines_per_s: 100,
            identifier_lines_per_s: 25,
            message_bytes_max: 4_096,
        }
    }
}

/// Most files that are followed.
const FILES_MAX: usize = 64;
/// More lines of access logs a second would take more of the processor than the agent is meant to.
const ACCESS_LINES_MAX: u32 = 10_000;

impl LogConfig {
    /// What is wrong with the values, each with the key it concerns.
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut check = |wrong: bool, key: &str, reason: &str| {
            if wrong {
                faults.push((format!("logs.{key}"), reason.to_owned()));
            }
        };
        for (key, paths) in [
            ("journal_dirs", &self.journal_dirs),
            ("syslog_files", &self.syslog_files),
            ("files", &self.files),
            ("access_logs", &self.access_logs),
        ] {
            check(
                paths.iter().any(|path| !path.is_absolute()),
                key,
                "must be absolute paths",
            );
            check(paths.len() > FILES_MAX, key, "must be at most 64");
        }
        check(
            !(1..=ACCESS_LINES_MAX).contains(&self.access_lines_per_s),
            "access_lines_per_s",
            "must be from 1 to 10000; to read no access logs, set access_logs = []",
        );
        check(
            self.priority_max > 7,
            "priority_max",
            "must be from 0 (emergency) to 7 (debug)",
        );
        check(
            self.lines_per_s == 0,
            "lines_per_s",
            "must be at least 1; to read no logs, set enabled = false",
        );
        check(
            self.identifier_lines_per_s == 0 || self.identifier_lines_per_s > self.lines_per_s,
            "identifier_lines_per_s",
            "must be from 1 to lines_per_s",
        );
        check(
            !(128..=16_384).contains(&self.message_bytes_max),
            "message_bytes_max",
            "must be from 128 to 16384",
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound_and_every_fault_names_its_key() {
        assert!(LogConfig::default().faults().is_empty());
        let wrong = LogConfig {
            files: vec![PathBuf::from("relative.log")],
            access_logs: vec![PathBuf::from("access.log")],
            access_lines_per_s: 0,
            priority_max: 8,
            lines_per_s: 0,
            message_bytes_max: 1,
            ..LogConfig::default()
        };
        let keys: Vec<String> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        let wanted = [
            "logs.files",
            "logs.access_logs",
            "logs.access_lines_per_s",
            "logs.priority_max",
            "logs.lines_per_s",
            "logs.identifier_lines_per_s",
            "logs.message_bytes_max",
        ];
        assert_eq!(keys, wanted);
    }
}
