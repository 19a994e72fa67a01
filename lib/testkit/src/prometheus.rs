//! Prometheus' programs, as Debian has them: a server that takes remote write, and where the others are.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A program of Debian's package, or none where it is missing and may be, which is said.
///
/// # Panics
/// In CI, where it has to be there.
pub fn program(name: &str) -> Option<PathBuf> {
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
    let missing = format!("{} is missing: `cargo xtask test` unpacks it", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("NOT RUN: {missing}");
    None
}

/// A server on a port of its own, killed when dropped. Whoever asks it waits until it is ready.
#[derive(Debug)]
pub struct PrometheusServer {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl PrometheusServer {
    /// Starts one, with `more` arguments.
    pub fn start<A: AsRef<OsStr>>(program: &Path, more: impl IntoIterator<Item = A>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (file, data) = (folder.path().join("prometheus.yml"), folder.path().join("data"));
        std::fs::write(&file, "global: {}\n").context("write the configuration of Prometheus")?;
        let log = std::fs::File::create(folder.path().join("log")).context("create the log of Prometheus")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-remote-write-receiver")
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            folder,
        })
    }

    /// Where it answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it said until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
