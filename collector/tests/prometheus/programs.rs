//! Where Prometheus' programs are.

use std::path::PathBuf;

/// A program of Debian's package, or `None` where it is missing and may be.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("FLEETMEND_PROMETHEUS").map(PathBuf::from);
    let cached = || {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("fleetmend/debian/prometheus/usr/bin"))
    };
    let path = folder.or_else(cached)?.join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing: run the tests with `cargo xtask test`, which unpacks it",
        path.display()
    );
    eprintln!(
        "NOT RUN: {} is missing; `cargo xtask test` unpacks it",
        path.display()
    );
    None
}
