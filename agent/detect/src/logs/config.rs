//! What can be set of the detection in logs.

use serde::{Deserialize, Serialize};

/// Section `detect.logs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsConfig {
    /// Whether lines are looked at.
    pub enabled: bool,
    /// Seconds that a program is watched before a line of it can be new.
    pub learn_s: u64,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            learn_s: 24 * 3_600,
        }
    }
}
