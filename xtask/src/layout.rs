//! Where things lie: the source tree, the build folder, the cache and the state of `up`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the source tree. Cargo says at run time where the package is; what was compiled in may be another
/// checkout that shares the build folder.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Folder for what is downloaded or made once: `$XDG_CACHE_HOME/fleetmend` or `~/.cache/fleetmend`.
pub(crate) fn cache() -> Result<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache")
}

/// Folder for the state of `up`: `$XDG_STATE_HOME/fleetmend/up` or `~/.local/state/fleetmend/up`.
pub(crate) fn up_state() -> Result<PathBuf> {
    Ok(user_folder("XDG_STATE_HOME", ".local/state")?.join("up"))
}

fn user_folder(variable: &str, below_home: &str) -> Result<PathBuf> {
    let base = match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("find the home folder: HOME is not set")?)
            .join(below_home),
    };
    Ok(base.join("fleetmend"))
}

/// Folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A built program.
pub(crate) fn binary(profile: Profile, name: &str) -> PathBuf {
    target().join(profile.folder()).join(name)
}

/// The two profiles: quick for everything that runs here, release for benchmarks and packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `dev`: `up`, the tests, CI.
    Quick,
    /// `release`: benchmarks and packages.
    Release,
}

impl Profile {
    /// Folder of the profile below the build folder.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Profile::Quick => "debug",
            Profile::Release => "release",
        }
    }

    /// Flags that choose it.
    pub(crate) const fn flags(self) -> &'static [&'static str] {
        match self {
            Profile::Quick => &[],
            Profile::Release => &["--release"],
        }
    }
}
