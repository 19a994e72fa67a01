//! A short run of the `carry-chaos` lab with the real collector: kills on either side, cut links, forced retries,
//! rude batches and a restored backup, and the lab's own count.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The same faults in each run.
const SEED: &str = "20260101";

#[test]
fn short_chaos_loses_and_doubles_nothing() {
    let lab = env!("CARGO_BIN_EXE_fleetmend-lab");
    let built = std::env::var_os("FLEETMEND_BIN_DIR").map(PathBuf::from);
    let programs = built.unwrap_or_else(|| Path::new(lab).parent().unwrap().to_owned());
    assert!(
        programs.join("fleetmend-collector").exists(),
        "fleetmend-collector is not built: run cargo xtask test"
    );
    let output = Command::new(lab)
        .args(["run", "carry-chaos", "--json", "--agents", "4", "--seconds", "12"])
        .args(["--seed", SEED])
        .env("FLEETMEND_BIN_DIR", programs)
        .stdin(Stdio::null())
        .output()
        .expect("start the lab");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| unreachable!("the lab printed no report: {error}: {said}"));
    assert_eq!(report["passed"], true, "{report:#}\n{said}");
    assert!(output.status.success());
    let steps: Vec<&str> = report["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["step"].as_str())
        .collect();
    assert!(steps.len() > 3, "only {steps:?}");
    for lane in ["units", "findings", "metrics"] {
        assert!(report["stored"][lane].as_u64().unwrap() > 0, "{report:#}");
    }
}
