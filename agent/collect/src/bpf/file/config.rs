//! Which files are watched, and how long equal acts are counted.

use serde::{Deserialize, Serialize};

/// How acts on files are told. In a path a `*` stands for any part of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilesConfig {
    /// Files that hold secrets: opens for reading are told too.
    pub secrets: Vec<String>,
    /// Files whose acts are told in a ring of their own, which no storm can fill. Secrets are watched too.
    pub watched: Vec<String>,
    /// For so long acts that are equal in process, kind and file are counted instead of told, in seconds.
    pub repeat_window_s: u64,
}

impl Default for FilesConfig {
    fn default() -> Self {
        let all = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        Self {
            secrets: all(&[
                "/etc/shadow",
                "/etc/gshadow",
                "/etc/ssh/ssh_host_*_key",
                "/root/.ssh/id_*",
                "/home/*/.ssh/id_*",
            ]),
            watched: all(&[
                "/etc/passwd",
                "/etc/group",
                "/etc/sudoers",
                "/etc/sudoers.d/*",
                "/etc/ld.so.preload",
                "/etc/ssh/sshd_config",
                "/etc/pam.d/*",
                "/etc/crontab",
                "/root/.ssh/authorized_keys",
                "/home/*/.ssh/authorized_keys",
            ]),
            repeat_window_s: 10,
        }
    }
}

impl FilesConfig {
    /// What is wrong with the values, each with the key it concerns.
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (key, paths) in [("secrets", &self.secrets), ("watched", &self.watched)] {
            for path in paths.iter().filter(|path| !path.starts_with('/')) {
                faults.push((format!("files.{key}"), format!("{path} must be an absolute path")));
            }
        }
        if !(1..=600).contains(&self.repeat_window_s) {
            faults.push((
                "files.repeat_window_s".to_owned(),
                "must be from 1 to 600".to_owned(),
            ));
        }
        faults
    }

    pub(crate) fn repeat_window_ns(&self) -> u64 {
        self.repeat_window_s.saturating_mul(1_000_000_000)
    }
}
