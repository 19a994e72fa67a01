//! What this room needs of PromQL: values at one time, with what is not known about them, and a place for what rules
//! record. The binary's wiring implements it over the evaluator and the store.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use fleetmend_event::{HostId, TimeMicros};

use crate::query::QueryError;

/// Stands for alerts and losses that are of no host in particular.
pub const NO_HOST: HostId = HostId::from_bytes([0; 16]);

/// Labels with their values; the metric's name is `__name__`.
pub type PromLabels = BTreeMap<String, String>;

/// The value of an expression.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromValues {
    /// Each series once. A scalar is a series without labels.
    pub series: Vec<(PromLabels, f64)>,
    /// Hosts of which samples are missing that the expression may have needed, or that send nothing now. [`NO_HOST`] is
    /// among them as soon as there is one: what is computed over hosts may be wrong then.
    pub unknown: BTreeSet<HostId>,
}

/// A sample that a rule computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// With the name that the rule gives.
    pub labels: PromLabels,
    /// Its value; `None` where the series is not there any more.
    pub value: Option<f64>,
}

/// Evaluates expressions, and keeps what rules record.
///
/// # Cancel safety
/// Every future may be dropped; what was being recorded may be stored or not.
#[async_trait]
pub trait PromQuery: Send + Sync + 'static {
    /// The value at one time.
    async fn instant(&self, query: &str, time: TimeMicros) -> Result<PromValues, QueryError>;

    /// Stores samples of one time. Of several samples of one series and time the last one stored counts.
    async fn record(&self, time: TimeMicros, samples: Vec<Recorded>) -> Result<(), QueryError>;
}

/// Says what is wrong with an expression.
pub type CheckExpression = fn(&str) -> Result<(), String>;

thread_local! {
    /// How expressions are checked while rule files are read: validation has no argument for it.
    static CHECK: Cell<Option<CheckExpression>> = const { Cell::new(None) };
}

/// Reads with a check of expressions.
pub(crate) fn checking<T>(check: Option<CheckExpression>, read: impl FnOnce() -> T) -> T {
    let before = CHECK.replace(check);
    let done = read();
    CHECK.set(before);
    done
}

/// What is wrong with an expression, as far as it is checked.
pub(crate) fn fault_of(expression: &str) -> Option<String> {
    if expression.trim().is_empty() {
        return Some("is empty".to_owned());
    }
    CHECK.get()?(expression).err()
}
