//! Detections by really doing the thing: each deed is done by a child process on the kernel that runs the tests, and
//! what the loaded sensor tells of that child and its descendants is judged by a detector of its own.
//!
//! One sensor is loaded for all deeds. Facts of other processes are left out of a deed's judgement, so that whatever
//! else runs beside the test cannot change it; what stands above the test itself (a build) is replaced by nothing.
//! Deeds that change the system's files do so in a mount namespace whose folders are empty memory.
//!
//! Needs root. A deed whose family of facts this kernel does not deliver, or whose tool is not installed, says so.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of a test fail loudly, say what could not run, and do what only an intruder does"
)]

#[path = "deeds/child.rs"]
mod child;
#[path = "deeds/list.rs"]
mod list;
#[path = "deeds/rig.rs"]
mod rig;

use fleetmend_event::table::Severity;

use self::list::{Expect, deeds};
use self::rig::Rig;

/// Tells a process of this program which deed it is to do.
const DEED: &str = "FLEETMEND_DEED";

#[test]
fn deeds_of_intruders_are_found_and_their_lookalikes_are_not() {
    if std::env::var_os(DEED).is_some() {
        return;
    }
    let Some(mut rig) = Rig::start() else { return };
    let mut faults = Vec::new();
    for deed in deeds() {
        let missing = deed.needs.iter().find(|table| !rig.delivers(table));
        if let Some(table) = missing {
            println!(
                "DID NOT RUN: {}: this kernel or build delivers no {table}",
                deed.name
            );
            continue;
        }
        if let Some(tool) = deed
            .tools
            .iter()
            .find(|tool| !std::path::Path::new(tool).exists())
        {
            println!("DID NOT RUN: {}: {tool} is not installed", deed.name);
            continue;
        }
        let wanted = |found: &[(String, Severity)]| match deed.expect {
            Expect::Finding(rule, severity) => found
                .iter()
                .any(|(name, grave)| name == rule && *grave >= severity),
            Expect::AtMost(severity) => found.iter().all(|(_, grave)| *grave <= severity),
        };
        let found = rig.judge(&deed, wanted);
        println!("{}: {found:?}", deed.name);
        if !wanted(&found) {
            faults.push(format!(
                "{}: wanted {:?}, found {found:?}; {}",
                deed.name,
                deed.expect,
                rig.last_facts()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Not a test: the other side of [`Rig::judge`], in a process of its own.
#[test]
fn child_does_its_deed() {
    if let Some(deed) = std::env::var_os(DEED) {
        child::act(deed.to_str().unwrap());
    }
}
