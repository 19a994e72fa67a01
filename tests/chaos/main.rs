//! Short runs of the `carry-chaos` lab with the real collector: every kind of fault once, and the lab's own count.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What chooses the faults' details, unless `FLEETMEND_CHAOS_SEED` says another.
const SEED: &str = "20260101";

#[test]
fn kills_retries_and_restores_lose_and_double_nothing() {
    chaos(&[
        "collector-upgraded",
        "agents-killed",
        "forced-retries",
        "collector-killed",
        "rude-batches",
        "collector-restored",
    ]);
}

#[test]
fn wrong_clocks_on_slow_links_lose_and_double_nothing() {
    chaos(&["clock-jumps", "links-slow"]);
}

#[test]
fn full_disks_and_dead_links_lose_and_double_nothing() {
    chaos(&["spool-disk-full", "store-disk-full", "links-half-open"]);
}

#[test]
fn clones_and_wiped_spools_lose_and_double_nothing() {
    chaos(&[
        "links-cut",
        "host-cloned",
        "spool-wiped",
        "collector-killed",
        "agents-restarted",
    ]);
}

/// Runs the lab until each of these faults came.
fn chaos(faults: &[&str]) {
    let lab = env!("CARGO_BIN_EXE_fleetmend-lab");
    let built = std::env::var_os("FLEETMEND_BIN_DIR").map(PathBuf::from);
    let programs = built.unwrap_or_else(|| Path::new(lab).parent().unwrap().to_owned());
    assert!(
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
        .expect("start the lab");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| unreachable!("seed {seed}: the lab printed no report: {error}: {said}"));
    assert_eq!(report["passed"], true, "seed {seed}: {report:#}\n{said}");
    assert!(output.status.success());
    let not_covered = report["not_covered"].as_array().unwrap();
    for missing in not_covered {
        eprintln!("not covered: {missing}");
    }
    for fault in faults {
        assert!(
            !not_covered.is_empty() || report["faults"][fault].as_u64().is_some_and(|count| count > 0),
            "{fault} did not come: {report:#}"
        );
    }
    for lane in ["units", "findings", "metrics"] {
        assert!(report["stored"][lane].as_u64().unwrap() > 0, "{report:#}");
    }
}
