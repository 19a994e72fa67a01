//! Detect: facts become findings, on the host.
//!
//! Sources of findings, all behind [`Detector`]: limits that were crossed ([`limits`]), Sigma rules ([`sigma`]),
//! detectors over several facts ([`behaviour`]), attacks on accounts (`auth`), what logs do that they did not (`logs`),
//! and the host-anomaly model ([`anomaly`], computed by ONNX on a thread of its own, [`onnx`]).
//! [`tracker`] counts equal ones together and knows what still holds, over restarts too: a thread keeps a file
//! of the open ones, so that each has a last row some day.
//!
//! Invariants: looking at a fact never waits and never does input or output, so that the hub can do it on the
//! way to the spool; what is unknown neither raises nor resolves; a model or rule that cannot be loaded is
//! reported with its reason while everything else goes on; every map is bounded.

mod act;
pub mod anomaly;
mod auth;
pub mod behaviour;
pub mod config;
mod detector;
mod flow;
mod host_model;
mod kept;
mod learnt;
pub mod limits;
mod lineage;
mod logs;
mod metrics;
pub mod onnx;
mod recent;
pub mod sigma;
pub mod tracker;

pub use auth::AuthConfig;
pub use config::{AnomalyConfig, BehaviourConfig, DetectConfig, Expected, LimitsConfig};
pub use detector::Detector;
pub use logs::LogsConfig;
