//! Prometheus and VictoriaMetrics as Debian ships them, fed the same host metrics by remote write.
//!
//! Their packages are taken apart, not installed: no user is made and no service started. Prometheus is measured by
//! a snapshot, which writes its head as the block it would become; what stands in its log is told beside it.
//! VictoriaMetrics is flushed and merged.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Found;
use super::peer::{Kind, Peer};
use super::sizes::HostMetrics;
use crate::process::{cpu_seconds, peak_rss_mib};
use crate::report::progress;

/// Measures both; one that cannot be had or does not work is named as not measured.
pub(super) async fn measure(folder: &Path, data: &Path) -> Result<Found> {
    let mut found = Found::default();
    let metrics = HostMetrics::read(data)?;
    let mut requests: Vec<PathBuf> = std::fs::read_dir(data.join("rw"))
        .context("list the remote-write requests")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .context("list the remote-write requests")?;
    requests.sort_unstable();
    for kind in [Kind::Prometheus, Kind::VictoriaMetrics] {
        progress(kind.name());
        if let Err(error) = of_peer(&mut found, kind, folder, &metrics, &requests).await {
            found.not_measured(kind.name(), format!("{error:#}"));
        }
    }
    Ok(found)
}

async fn of_peer(
    found: &mut Found,
    kind: Kind,
    folder: &Path,
    metrics: &HostMetrics,
    requests: &[PathBuf],
) -> Result<()> {
    let binary = binary(kind, &folder.join("packages"))?;
    let own = folder.join(kind.name());
    let peer = Peer::start(kind, &binary, &own).await?;
    let before = cpu_seconds(peer.pid())?;
    let took = peer.write(requests).await?;
    let cpu = cpu_seconds(peer.pid())? - before;
    let samples = metrics.samples() as f64;
    let name = kind.name();
    found.figure(
        format!("{name}_ingest_samples_per_s"),
        samples / took.as_secs_f64(),
    );
    let kept = peer.settle().await?;
    let (host, top) = peer.ask(metrics).await?;
    found.figure(format!("{name}_query_host_1h_p95_ms"), host);
    found.figure(format!("{name}_query_top3_10_hosts_p95_ms"), top);
    found.figure(
        format!("{name}_stored_bytes_per_sample"),
        bytes_below(&kept)? as f64 / samples,
    );
    found.condition(
        name,
        json!({"ingest_cpu_s": cpu, "data_bytes": bytes_below(&own.join("data"))?, "samples": samples,
               "rss_most_mib": peak_rss_mib(peer.pid())?, "program": binary}),
    );
    Ok(())
}

/// The program: from the path, or out of the package.
fn binary(kind: Kind, folder: &Path) -> Result<PathBuf> {
    let package = kind.package();
    let installed = Path::new("/usr/bin").join(package);
    if installed.is_file() {
        return Ok(installed);
    }
    let folder = folder.join(package);
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    run(Command::new("apt-get")
        .args(["download", "--quiet", package])
        .current_dir(&folder))?;
    let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let archive = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("find the package")?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(archive)
        .arg(&folder))?;
    Ok(folder.join("usr/bin").join(package))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("read a folder's entry")?.path();
        let data = std::fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        // Snapshots hold blocks as hard links: they are counted where they are asked for.
        bytes += if data.is_dir() {
            bytes_below(&path)?
        } else {
            data.len()
        };
    }
    Ok(bytes)
}
