//! Short runs of the `carry-chaos` lab with the real collector: every kind of fault once, and the lab's own count.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What chooses the faults' details, unless `FLEETMEND_CHAOS_SEED` says another.
const SEED: &str = "20260101";

#[test]
fn kills_retries_and_restores_lose_and_double_nothing() -> Result<()> {
    chaos(&[
        "collector-upgraded",
        "agents-killed",
        "forced-retries",
        "collector-killed",
        "rude-batches",
        "collector-restored",
    ])
}

#[test]
fn wrong_clocks_on_slow_links_lose_and_double_nothing() -> Result<()> {
    chaos(&["clock-jumps", "links-slow"])
}

#[test]
fn full_disks_and_dead_links_lose_and_double_nothing() -> Result<()> {
    chaos(&["spool-disk-full", "store-disk-full", "links-half-open"])
}

#[test]
fn clones_and_wiped_spools_lose_and_double_nothing() -> Result<()> {
    chaos(&[
        "links-cut",
        "host-cloned",
        "spool-wiped",
        "collector-killed",
        "agents-restarted",
    ])
}

/// Runs the lab until each of these faults came.
fn chaos(faults: &[&str]) -> Result<()> {
    let lab = Path::new(env!("CARGO_BIN_EXE_fleetmend-lab"));
    let programs = match std::env::var_os("FLEETMEND_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => lab.parent().context("find the lab's folder")?.to_owned(),
    };
    ensure!(
        programs.join("fleetmend-collector").exists(),
        "fleetmend-collector is not built: run cargo xtask test"
    );
    let seed = std::env::var("FLEETMEND_CHAOS_SEED").unwrap_or_else(|_| SEED.to_owned());
    let output = Command::new(lab)
        .args(["run", "carry-chaos", "--json", "--agents", "4", "--seconds", "1"])
        .args(["--seed", &seed, "--faults", &faults.join(",")])
        .env("FLEETMEND_BIN_DIR", programs)
        .stdin(Stdio::null())
        .output()
        .context("start the lab")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("seed {seed}: the lab printed no report: {said}"))?;
    let passed = report.get("passed") == Some(&Value::Bool(true));
    ensure!(
        passed && output.status.success(),
        "seed {seed}: {report:#}\n{said}"
    );
    let count = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let missing = report.get("not_covered").and_then(Value::as_object);
    let missing = missing.context("read what was not covered")?;
    for (fault, why) in missing {
        writeln!(std::io::stderr(), "not covered: {fault}: {why}").context("say what was not covered")?;
    }
    for fault in faults {
        let came = count(&format!("/faults/{fault}")) > 0;
        ensure!(
            came != missing.contains_key(*fault),
            "{fault} did not come: {report:#}"
        );
    }
    // Wherever the tests of a release run, every fault can be had.
    ensure!(
        missing.is_empty() || std::env::var_os("CI").is_none(),
        "not covered: {missing:?}"
    );
    for lane in ["units", "findings", "metrics"] {
        ensure!(count(&format!("/stored/{lane}")) > 0, "{report:#}");
    }
    Ok(())
}
