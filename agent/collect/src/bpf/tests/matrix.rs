//! What each family says of itself on this kernel: the lines that the kernel matrix makes its table from.

use super::*;

#[test]
fn every_family_works_on_this_kernel_and_says_how_far() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        println!("COULD NOT RUN: only root may load BPF programs");
        return;
    }
    let (_sensor, statuses) = BpfSensor::load(config());
    // The harness has written the name of the test and has not ended the line.
    println!();
    for status in &statuses {
        let Some(family) = status.probe.strip_prefix("bpf.") else {
            continue;
        };
        // One line each, as the table is read.
        println!(
            "FAMILY {family} {} {}",
            status.state,
            wrong(status).replace('\n', " ")
        );
    }
    for family in Family::ALL {
        let name = format!("bpf.{}", family.as_str());
        let told: Vec<&ProbeStatus> = statuses.iter().filter(|status| status.probe == name).collect();
        let [status] = told.as_slice() else {
            panic!("{name} is told {} times: {statuses:#?}", told.len());
        };
        assert_ne!(status.state, ProbeState::Broken, "{status:?}");
        assert_eq!(
            status.state == ProbeState::Degraded,
            !wrong(status).is_empty(),
            "whoever is degraded says why, and nobody else: {status:?}"
        );
    }
}

/// What is wrong with a family, without the limits that its hooks always have.
fn wrong(status: &ProbeStatus) -> &str {
    let reason = status.reason.as_str();
    let end = if reason.starts_with("limits: ") {
        Some(0)
    } else {
        reason.find("; limits: ")
    };
    reason.get(..end.unwrap_or(reason.len())).unwrap_or_default()
}
