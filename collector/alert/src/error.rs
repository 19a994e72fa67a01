//! What may fail.

use std::path::PathBuf;

use crate::query::QueryError;

/// A rule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The file does not say what a rule file says.
    #[error("rule file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Every fault with its line.
        source: fleetmend_config::ConfigFaults,
    },
    /// Two rules of one name.
    #[error("two rules are named {0:?}")]
    Twice(String),
    /// A rule sends to nobody that is configured.
    #[error("rule {rule:?} sends to {receiver:?}, which is no receiver")]
    Receiver {
        /// The rule.
        rule: String,
        /// What it names.
        receiver: String,
    },
}

/// Alerting could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// A rule cannot be used.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A receiver cannot be used.
    #[error("receiver {name:?}: {reason}")]
    Receiver {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The control database refused.
    #[error("cannot {attempt} in the state of alerting")]
    Database {
        /// What was attempted, as a verb phrase.
        attempt: &'static str,
        /// The engine's word.
        source: fleetmend_control::ControlError,
    },
    /// The facts cannot be read.
    #[error("cannot read facts")]
    Query(#[from] QueryError),
    /// Facts came in another shape than their table has.
    #[error("cannot read rows of {table}: {reason}")]
    Rows {
        /// The table.
        table: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl AlertError {
    pub(crate) fn database(
        attempt: &'static str,
    ) -> impl FnOnce(fleetmend_control::ControlError) -> AlertError {
        move |source| AlertError::Database { attempt, source }
    }
}
