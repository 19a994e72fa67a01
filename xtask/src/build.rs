//! Builds our programs.

use anyhow::Result;

use crate::layout::{self, Profile};
use crate::step::{command, run, step};

/// What runs on every host: in release it is optimised as a whole, which takes minutes, and of the collector half an
/// hour and 9 GB.
const AGENT: &str = "fleetmend-agent";
/// The settings of the release profile for that.
const WHOLE: [(&str, &str); 2] = [
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
];

/// The programs of a running instance.
pub(crate) const INSTANCE: [&str; 4] = [AGENT, "fleetmend-healer", "fleetmend-collector", "fleetmend-cli"];

/// Builds the programs of these packages.
pub(crate) fn programs(profile: Profile, packages: &[&str]) -> Result<()> {
    let (whole, others): (Vec<&str>, Vec<&str>) = packages
        .iter()
        .copied()
        .partition(|package| profile == Profile::Release && *package == AGENT);
    some(profile, &others, &[])?;
    some(profile, &whole, &WHOLE)
}

fn some(profile: Profile, packages: &[&str], settings: &[(&str, &str)]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    step(&format!("build {}", packages.join(", ")), || {
        let mut cargo = command("cargo", &["build", "--quiet", "--locked"]);
        cargo
            .args(profile.flags())
            .envs(settings.iter().copied())
            .current_dir(layout::root());
        for package in packages {
            cargo.args(["--package", package]);
        }
        run(&mut cargo)
    })
}
