//! The agent's process, sandboxed as it is shipped, makes the forbidden calls itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of a test fail loudly, as the test does"
)]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Runs `fleetmend-agent sandbox-test`: its exit code, its answer, and outcome by call.
fn sandbox_test(flags: &[&str]) -> (Option<i32>, Value, BTreeMap<String, String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_fleetmend-agent"))
        .args(["sandbox-test", "--json"])
        .args(flags)
        .output()
        .expect("agent runs");
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let attempts = answer["attempts"].as_array().expect("attempts");
    let pair = |attempt: &Value| {
        let text = |key: &str| attempt[key].as_str().expect("text").to_owned();
        (text("call"), text("outcome"))
    };
    (
        output.status.code(),
        answer.clone(),
        attempts.iter().map(pair).collect(),
    )
}

#[test]
fn sandboxed_agent_fails_at_everything_forbidden() {
    let (code, answer, outcomes) = sandbox_test(&[]);
    for call in [
        "ptrace",
        "process_vm_writev",
        "pidfd_getfd",
        "mount",
        "setns",
        "init_module",
        "finit_module",
        "bpf(BPF_PROG_LOAD)",
        "bpf(BPF_PROG_ATTACH)",
        "bpf(BPF_LINK_CREATE)",
    ] {
        assert_eq!(outcomes.get(call).map(String::as_str), Some("denied"), "{call}");
    }
    assert!(outcomes.len() >= 30, "{outcomes:?}");
    assert!(
        outcomes
            .iter()
            .all(|(call, outcome)| outcome == "denied" || call == "clone3"),
        "{outcomes:?}"
    );
    assert_eq!(outcomes.get("clone3").map(String::as_str), Some("absent"));
    assert_eq!(code, Some(0));

    let needs = answer["needs"].as_object().expect("needs");
    assert!(
        needs.contains_key("attach a loaded program")
            && needs.len() >= 5
            && needs.values().all(|met| *met == Value::Bool(true)),
        "{needs:?}"
    );

    let sandbox = &answer["sandbox"];
    assert_eq!(sandbox["no_new_privs"], Value::Bool(true));
    let kept = sandbox["capabilities"].as_array().expect("list");
    let allowed = ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_BPF"];
    assert!(
        kept.iter().all(|one| allowed.iter().any(|name| one == name)),
        "{kept:?}"
    );
}

#[test]
fn same_attempts_reach_the_kernel_without_the_sandbox() {
    let (code, _, outcomes) = sandbox_test(&["--without"]);
    // On a process of one's own these need no privilege, so here the attempt itself is proven.
    for call in ["ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"] {
        assert_eq!(outcomes.get(call).map(String::as_str), Some("allowed"), "{call}");
    }
    assert_eq!(code, Some(1));
}
