//! `manifest.json`: name, version, digests and budget of a model.

use serde::{Deserialize, Serialize};

/// Version of the manifest format that this crate reads.
pub(crate) const MANIFEST_VERSION: u32 = 1;

/// A model's manifest.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format.
    pub manifest_version: u32,
    /// Name of the model, such as `host-anomaly`.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// The ONNX graph.
    pub graph: GraphFile,
    /// The ordered feature schema.
    pub features: SchemaFile,
    /// Golden inputs and outputs.
    pub golden: FileDigest,
    /// Evaluation report.
    pub evaluation: FileName,
    /// Card for people.
    pub card: FileName,
    /// Constants that the host's side of the model must share with the graph.
    pub parameters: Parameters,
    /// What one inference may cost.
    pub budget: Budget,
    /// Signature of the fleet root over the graph's digest; absent in shipped models.
    pub signature: Option<String>,
}

/// The graph and what reads it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFile {
    /// File name.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// ONNX operator set.
    pub opset: u32,
    /// ONNX format version.
    pub ir: u32,
}

/// The feature schema.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaFile {
    /// File name.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal; a host's learnt state is keyed by it.
    pub sha256: String,
    /// Number of features.
    pub count: usize,
}

/// A file with its digest.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// File name.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// A file whose content decides nothing.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileName {
    /// File name.
    pub file: String,
}

/// Constants shared by the graph and the host's side of it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Lags of the forecast.
    pub lags: usize,
    /// Steps in the subspace window, this one included.
    pub window: usize,
    /// Time-of-day features: sines, then cosines.
    pub season: usize,
    /// Standardised values and residuals are clipped here.
    pub clip: f64,
    /// Fixed random units of the forecast.
    pub hidden_units: usize,
    /// Seed of their weights.
    pub hidden_seed: u64,
    /// Smallest standard deviation of a metric.
    pub scale_floor: f64,
    /// Names of the graph's four scores, in order.
    pub layers: Vec<String>,
}

/// What one inference may cost.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Threads.
    pub threads: u32,
}
