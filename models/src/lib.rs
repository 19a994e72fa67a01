//! Shipped models: what a bundle is, and the reader that refuses a wrong one.
//!
//! A **bundle** is a folder (or the copy of one that is compiled in, [`Bundle::shipped`]) with
//! `manifest.json`, the ONNX graph, the ordered feature schema, golden inputs and outputs, an evaluation and a
//! card. The manifest names every file and the SHA-256 of those that decide: the graph, the schema and the
//! golden cases. A bundle is accepted whole or not at all.
//!
//! Invariants: no byte of a graph is handed out before its digest was compared; nothing is read beyond
//! [`FILE_BYTES_MAX`]; a file name in a manifest never leaves the bundle's folder. Shipped models are vouched
//! for by the package they came in, so their `signature` is absent; a bundle sent to a fleet must carry one,
//! which its receiver checks against the fleet root before it reads the bundle.
//!
//! The pipeline that makes the bundles is `build.py` beside this crate; it is not needed to build it.

mod bundle;
mod error;
mod golden;
mod manifest;
mod schema;

pub use bundle::{Bundle, FILE_BYTES_MAX, sha256_hex};
pub use error::BundleError;
pub use golden::{Golden, GoldenCase, Tensor};
pub use manifest::{Budget, FileDigest, FileName, GraphFile, Manifest, Parameters, SchemaFile};
pub use schema::{Feature, FeatureSchema, Reduce, Scale, Source};
