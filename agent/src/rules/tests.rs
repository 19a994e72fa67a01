use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const RULE: &str = "title: Cat of a secret\nid: 3b6f2f4e-1111-4222-8333-444455556666\nlevel: high\n\
    logsource: {product: linux, category: process_creation}\n\
    detection:\n  sel: {Image|endswith: /cat, CommandLine|contains: secret}\n  condition: sel\n";

/// The program itself, where the tests' build made it.
fn agent(arguments: &[&str]) -> Option<Output> {
    let Some(folder) = std::env::var_os("FLEETMEND_BIN_DIR") else {
        println!("did not run: FLEETMEND_BIN_DIR is not set");
        return None;
    };
    let program = PathBuf::from(folder).join("fleetmend-agent");
    Some(
        Command::new(program)
            .args(["rules"])
            .args(arguments)
            .args(["--config", "/nonexistent/agent.toml"])
            .output()
            .unwrap(),
    )
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn rules_are_checked_explained_and_tried() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("good.yml"), RULE).unwrap();
    let Some(checked) = agent(&["check", &path("good.yml")]) else {
        return;
    };
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("loaded"), "{}", text(&checked));

    let explained = agent(&["explain", &path("good.yml")]).unwrap();
    let words = text(&explained);
    for wanted in [
        "execs (process_events)",
        "Image ends with \"/cat\"",
        "CommandLine contains \"secret\"",
        "literals",
    ] {
        assert!(words.contains(wanted), "{wanted}: {words}");
    }

    let events = "{\"Image\": \"/bin/cat\", \"CommandLine\": \"cat /secret\", \"_expect\": \"match\"}\n\
        {\"Image\": \"/bin/cat\", \"CommandLine\": \"cat /x\", \"_expect\": \"silent\"}\n";
    std::fs::write(path("good.ndjson"), events).unwrap();
    let tried = agent(&["test", &path("good.yml")]).unwrap();
    assert!(tried.status.success(), "{}", text(&tried));
    assert!(
        text(&tried).contains("2 events, 0 not as expected"),
        "{}",
        text(&tried)
    );

    std::fs::write(
        path("other.ndjson"),
        "{\"Image\": \"/bin/dog\", \"_expect\": \"match\"}\n",
    )
    .unwrap();
    let tried = agent(&[
        "test",
        &path("good.yml"),
        "--event",
        &path("other.ndjson"),
        "--json",
    ])
    .unwrap();
    assert!(!tried.status.success(), "{}", text(&tried));
    let line: Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!(line["as_expected"], false, "{line}");

    // Another rule: one with the same id would be replaced by the sound one.
    let bad = RULE
        .replace("3b6f2f4e", "3b6f2f4f")
        .replace("condition: sel", "condition: seil");
    std::fs::write(path("bad.yml"), bad).unwrap();
    let checked = agent(&["check", &folder.path().display().to_string(), "--json"]).unwrap();
    assert!(!checked.status.success());
    let answer: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let bad = answer["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["state"] == "broken")
        .unwrap();
    assert!(bad["reason"].as_str().unwrap().contains("line 7"), "{bad}");
}

#[test]
fn what_is_not_there_is_said() {
    let Some(missing) = agent(&["check", "/nonexistent/rules"]) else {
        return;
    };
    assert!(!missing.status.success());
    assert!(text(&missing).contains("does not exist"), "{}", text(&missing));
}
