//! ONNX Runtime: finding the library, loading it once, and running the host-anomaly graph.
//!
//! The library is loaded at run time, so that an agent without it starts, says so and goes on with what needs
//! no model. It is looked for in this order: the configured path, `ORT_DYLIB_PATH`, the package's
//! `/usr/lib/fleetmend/libonnxruntime.so`. ONNX Runtime's own telemetry is switched off before the first
//! session exists. Sessions use one thread, and whoever owns one runs it on a thread of its own
//! ([`crate::anomaly::worker`]), never on the async runtime.

mod graph;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use graph::{GraphInputs, GraphOutputs, HostGraph};

/// Where the package installs the library.
pub const PACKAGED_LIBRARY: &str = "/usr/lib/fleetmend/libonnxruntime.so";

/// Environment variable that names the library, as ONNX Runtime's own tools read it.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why a model cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// None of the places holds the library.
    #[error("find libonnxruntime.so: looked for {}", .tried.join(", "))]
    LibraryMissing {
        /// Places that were looked at.
        tried: Vec<String>,
    },
    /// The library is there and cannot be used.
    #[error("load ONNX Runtime from {path}: {reason}")]
    Library {
        /// File that was loaded.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// A graph cannot be loaded.
    #[error("load the graph of model {model}: {reason}")]
    Graph {
        /// Model by its manifest.
        model: String,
        /// What the runtime said.
        reason: String,
    },
    /// A graph cannot be run.
    #[error("run the graph of model {model}: {reason}")]
    Run {
        /// Model by its manifest.
        model: String,
        /// What the runtime said.
        reason: String,
    },
}

/// The loaded library; clones share it.
#[derive(Clone)]
pub struct Runtime {
    environment: Arc<ort::environment::Environment>,
    path: PathBuf,
}

/// The library is loaded once per process: a second path would be ignored by the loader.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Finds and loads the library, or hands out the one that is loaded.
    pub fn load(configured: Option<&Path>) -> Result<Self, OnnxError> {
        let path = find_library(configured)?;
        let mut loaded = LOADED.lock();
        if let Some(runtime) = loaded.as_ref() {
            return Ok(runtime.clone());
        }
        let failed = |reason: String| OnnxError::Library {
            path: path.clone(),
            reason,
        };
        let environment = ort::init_from(&path)
            .map_err(|error| failed(error.to_string()))?
            .with_name("fleetmend")
            .with_telemetry(false)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let runtime = Self {
            environment: Arc::new(environment),
            path,
        };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// File the library was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn environment(&self) -> &ort::environment::Environment {
        &self.environment
    }
}

/// File of the library, once it is loaded in full. Does not wait for it.
pub fn loaded_library() -> Option<PathBuf> {
    let loaded = LOADED.try_lock()?;
    loaded.as_ref().map(|runtime| runtime.path.clone())
}

/// The library's file. A configured path is the only one that is tried.
fn find_library(configured: Option<&Path>) -> Result<PathBuf, OnnxError> {
    let places: Vec<PathBuf> = match (configured, std::env::var_os(LIBRARY_VARIABLE)) {
        (Some(path), _) => vec![path.to_owned()],
        (None, Some(path)) => vec![PathBuf::from(path), PathBuf::from(PACKAGED_LIBRARY)],
        (None, None) => vec![PathBuf::from(PACKAGED_LIBRARY)],
    };
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(OnnxError::LibraryMissing {
            tried: places.iter().map(|path| path.display().to_string()).collect(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The library as the tests find it; they fail without it.
    pub(crate) fn test_runtime() -> Runtime {
        let cached = || {
            PathBuf::from(std::env::var("HOME").unwrap())
                .join(".cache/fleetmend/onnxruntime-1.31.1/libonnxruntime.so")
        };
        let path = std::env::var_os("FLEETMEND_ONNXRUNTIME").map_or_else(cached, PathBuf::from);
        Runtime::load(Some(&path)).expect("tests need ONNX Runtime: `cargo xtask test` installs it")
    }

    #[test]
    fn missing_library_is_an_error_that_names_the_place() {
        let error = find_library(Some(Path::new("/nonexistent/libonnxruntime.so"))).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/libonnxruntime.so"),
            "{error}"
        );
    }
}
