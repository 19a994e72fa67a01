//! Leaving the fleet with the real programs: by the host, without its collector, and by order of an operator.

use std::path::Path;
use std::process::Output;

use super::*;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The hosts that are listed, and those that are when removed ones are asked for.
async fn hosts(instance: &Instance) -> (usize, usize) {
    let count = async |path: &str| instance.get(path).await["items"].as_array().unwrap().len();
    (count("hosts").await, count("hosts?removed=true").await)
}

async fn host_id(instance: &Instance) -> String {
    instance.get("hosts").await["items"][0]["host_id"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn nothing_is_left(instance: &Instance) {
    for gone in [
        "agent/identity",
        "agent/trusted-time",
        "healer/trust-bundle.json",
        "healer/host-id",
    ] {
        assert!(!Path::new(&instance.path(gone)).exists(), "{gone} is still there");
    }
}

async fn audited(instance: &Instance, action: &str) -> bool {
    let audit = instance.get("audit").await;
    let rows = audit["items"].as_array().unwrap();
    rows.iter().any(|row| row["action"] == action)
}

#[tokio::test]
async fn a_host_that_leaves_is_revoked_wiped_and_no_longer_waited_for() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    instance.wait_until_spooled().await;
    let host = host_id(&instance).await;
    let refused = instance.unenrol(&["--yes"]);
    assert!(
        !refused.status.success() && said(&refused).contains("the agent runs"),
        "{}",
        said(&refused)
    );
    instance.kill_agent();

    let asked = instance.unenrol(&[]);
    assert!(
        !asked.status.success(),
        "nobody was there to say yes: {}",
        said(&asked)
    );
    assert!(
        said(&asked).contains("--yes") && said(&asked).contains("on disk"),
        "{}",
        said(&asked)
    );
    assert_eq!(hosts(&instance).await, (1, 1));
    assert!(instance.path("agent/identity/host.key").exists());

    let left = instance.unenrol(&["--yes", "--purge-spool", "--reason", "sold"]);
    assert!(left.status.success(), "{}", said(&left));
    let told = said(&left);
    assert!(
        told.contains("took it out of the fleet") && told.contains("the collector has"),
        "{told}"
    );
    nothing_is_left(&instance);
    assert!(!instance.path("agent/spool").exists());
    assert_eq!(hosts(&instance).await, (0, 1));
    assert!(audited(&instance, "unenrolled").await);
    let kept = format!("SELECT count(*) AS n FROM host_info WHERE host_id = '{host}'");
    assert_ne!(
        instance.sql(&kept).await[0]["n"].to_string().trim_matches('"'),
        "0",
        "its data stays"
    );

    let again = instance.unenrol(&["--yes", "--purge-spool"]);
    assert!(
        again.status.success() && said(&again).contains("not enrolled"),
        "{}",
        said(&again)
    );
    // It may come back, as another host.
    instance.enrol().await;
    assert_eq!(hosts(&instance).await, (1, 2));
    assert_ne!(host_id(&instance).await, host);
}

#[tokio::test]
async fn a_host_leaves_without_its_collector_and_is_told_what_is_left_to_do() {
    let mut instance = Instance::start().await;
    let host = host_id(&instance).await;
    instance.kill_collector();
    let left = instance.unenrol(&["--yes"]);
    assert!(left.status.success(), "{}", said(&left));
    let told = said(&left);
    assert!(told.contains("THE COLLECTOR WAS NOT TOLD"), "{told}");
    assert!(told.contains(&format!("fleetmend hosts remove {host}")), "{told}");
    nothing_is_left(&instance);

    instance.start_collector().await;
    assert_eq!(hosts(&instance).await, (1, 1), "it does not know yet");
    for _ in 0..2 {
        let removed = instance.operate(&["hosts", "remove", &host, "--reason", "left offline"]);
        assert!(removed.status.success(), "{}", said(&removed));
    }
    assert_eq!(hosts(&instance).await, (0, 1));
    assert!(audited(&instance, "remove-host").await && audited(&instance, "removed").await);
    let listed = instance.operate(&["certs"]);
    let listed = said(&listed);
    for name in [
        "TLS of the carrier",
        "issuing certificate",
        "online key",
        "fleet root",
        "trust bundle 1",
    ] {
        assert!(listed.contains(name), "{name}: {listed}");
    }
    let shown = instance.metrics().await;
    for kind in ["issuing", "root"] {
        let name = format!("fleetmend_collector_ingest_cert_not_after_seconds{{certificate=\"{kind}\"}} ");
        assert!(shown.contains(&name), "{name}: {shown}");
    }
    let expiring = said(&instance.operate(&["certs", "--expiring"]));
    assert!(
        !expiring.contains("online key") && !expiring.contains("fleet root"),
        "{expiring}"
    );
}

#[tokio::test]
async fn removing_a_host_closes_its_stream_and_keeps_it_out() {
    let mut instance = Instance::start().await;
    instance.start_agent().await;
    let host = host_id(&instance).await;
    assert!(instance.operate(&["hosts", "remove", &host]).status.success());
    let begun = std::time::Instant::now();
    loop {
        let shown = instance.get(&format!("hosts/{host}")).await;
        if shown["connected"] == false {
            assert!(
                shown["removed_at"].is_string() && shown["revoked"] == true,
                "{shown}"
            );
            break;
        }
        assert!(begun.elapsed() < ARRIVE, "its stream stands: {shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    instance.kill_agent();
    let left = instance.unenrol(&["--yes"]);
    assert!(
        left.status.success() && said(&left).contains("revoked it before"),
        "{}",
        said(&left)
    );
    nothing_is_left(&instance);
}
