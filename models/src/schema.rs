//! `features.json`: the ordered features of a model and how each is made from metrics.
//!
//! One description serves training, evaluation and serving. A feature whose series are absent is *missing*,
//! which is not the same as zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The features of a model, in the order of its input vector.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSchema {
    /// What the schema is, for a person.
    pub about: String,
    /// The features, in order.
    pub features: Vec<Feature>,
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// Name shown in findings.
    pub name: String,
    /// Unit of the value that is shown (UCUM), before scaling.
    pub unit: String,
    /// Series it is made from.
    pub from: Source,
    /// Series to divide by, such as a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Source>,
    /// How the value is brought to about 0..1.
    pub scale: Scale,
}

/// Which series, and how several become one value.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// OpenTelemetry name.
    pub metric: String,
    /// Attributes a series must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Attribute values that rule a series out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without: BTreeMap<String, String>,
    /// How several series become one.
    #[serde(default)]
    pub reduce: Reduce,
    /// Whether the series is a counter, used as its increase per second.
    #[serde(default)]
    pub rate: bool,
}

/// How several series become one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// Their sum.
    #[default]
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
}

/// How a value is brought to about 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Divided by this.
    Linear(f64),
    /// `log10(1 + value)` divided by this, for sizes and rates without a limit.
    Log10(f64),
}

impl Scale {
    /// The scaled value; values below zero count as zero in the logarithm.
    pub fn apply(self, value: f64) -> f64 {
        match self {
            Self::Linear(by) => value / by,
            Self::Log10(by) => value.max(0.0).ln_1p() / std::f64::consts::LN_10 / by,
        }
    }

    /// The value that was scaled.
    pub fn undo(self, scaled: f64) -> f64 {
        match self {
            Self::Linear(by) => scaled * by,
            Self::Log10(by) => (scaled * by * std::f64::consts::LN_10).exp_m1(),
        }
    }
}
