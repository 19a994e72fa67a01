//! `golden.json`: inputs and the outputs that must come of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The golden cases of a model.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Largest allowed difference, absolute or relative.
    pub tolerance: f64,
    /// The cases.
    pub cases: Vec<GoldenCase>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenCase {
    /// What is special about it.
    pub name: String,
    /// Inputs by name.
    pub inputs: BTreeMap<String, Tensor>,
    /// Outputs by name.
    pub outputs: BTreeMap<String, Tensor>,
}

/// A dense tensor, row by row.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}
