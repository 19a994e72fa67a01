//! Each detection with rows that raise it and rows that look like it and do not.

mod acts;
mod files;
mod flows;
mod innocent;
mod kernel;
mod scans;
mod shipped;
mod world;

use fleetmend_event::Lane;
use fleetmend_event::table::{Exactness, Severity, Source};

use self::world::World;
use super::*;

/// Rows of a table are lost in the kernel.
fn lose(world: &mut World, table: &str, count: u64) {
    lose_for(world, table, count, "ring_full");
}

fn lose_for(world: &mut World, table: &str, count: u64, reason: &str) {
    let time = world.time();
    let row = Gap {
        time,
        table: table.to_owned(),
        lane: Lane::Events,
        from_time: time,
        to_time: time,
        count,
        exactness: Exactness::Exact,
        stage: GapStage::Kernel,
        reason: reason.to_owned(),
    };
    world.observe(&row.into());
}

#[test]
fn every_detection_has_a_name_of_its_own_and_a_technique() {
    let mut names: Vec<&str> = detections().map(|known| known.rule).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two have one name: {names:?}");
    for detection in detections() {
        assert!(!detection.tactics.is_empty(), "{}", detection.rule);
        assert!(!detection.techniques.is_empty(), "{}", detection.rule);
        for technique in detection.techniques {
            assert!(technique.starts_with('T') && technique.len() >= 5, "{technique}");
        }
    }
}

/// The table of docs/detections.md: each detection, a test that fires and one that is silent, all of them there.
#[test]
fn every_detection_is_documented_with_its_tests() {
    let page = include_str!("../../../../docs/detections.md");
    let sources = [
        include_str!("tests/acts.rs"),
        include_str!("tests/files.rs"),
        include_str!("tests/flows.rs"),
        include_str!("tests/innocent.rs"),
        include_str!("tests/kernel.rs"),
        include_str!("tests/scans.rs"),
        include_str!("tests/shipped.rs"),
    ]
    .concat();
    for detection in detections() {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", detection.rule)));
        let line = line.unwrap_or_else(|| panic!("{} is not in docs/detections.md", detection.rule));
        for technique in detection.techniques {
            assert!(line.contains(technique), "{technique} is missing in: {line}");
        }
        let tests: Vec<&str> = line
            .split('`')
            .filter(|word| {
                word.len() >= 20
                    && word
                        .chars()
                        .all(|letter| letter == '_' || letter.is_ascii_lowercase())
            })
            .collect();
        assert!(tests.len() >= 2, "no firing and silent test in: {line}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{test} does not exist");
        }
    }
}

#[test]
fn act_of_a_process_that_is_told_later_waits_for_it() {
    let mut world = World::with_session();
    // A package manager's child writes before its exec is told.
    let early = world.file_by_stranger(500, 102, "/usr/bin/dpkg", "/etc/cron.d/job");
    assert_eq!(early, [] as [&str; 0], "it waits");
    world.fork(500, 102);
    world.exec(500, 102, "/usr/bin/dpkg", &["dpkg", "-i", "a.deb"], 0);
    world.later(1);
    world.fork(501, 102);
    assert_eq!(
        world.rules(),
        [] as [&str; 0],
        "a package manager may write there"
    );

    world.file_by_stranger(600, 102, "/usr/bin/tee", "/etc/cron.d/job");
    world.fork(600, 102);
    world.exec(600, 102, "/usr/bin/tee", &["tee", "/etc/cron.d/job"], 0);
    world.later(1);
    world.fork(601, 102);
    assert_eq!(world.rules(), ["persistence-cron"]);
}

#[test]
fn act_of_a_process_that_is_never_told_is_raised_lower_and_says_so() {
    let mut world = World::empty();
    world.file_by_stranger(700, 699, "/usr/bin/tee", "/etc/ld.so.preload");
    let found = world.tick();
    let finding = found.first().expect("a finding");
    assert_eq!(
        (finding.rule.as_str(), finding.severity),
        ("persistence-preload", Severity::Medium)
    );
    assert!(finding.title.contains("not all known"), "{}", finding.title);
    let mut known = World::with_session();
    known.run(110, "/usr/bin/tee", &["tee"], 0);
    known.write(110, "/etc/ld.so.preload");
    assert_eq!(known.worst(), Some(Severity::High));
}

#[test]
fn equal_causes_are_one_finding_counted_up() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/chmod", &["chmod"], 0);
    for index in 0..1_000 {
        world.chmod(110, &format!("/etc/file{index}"), 0o100_666, Some(0o100_644));
    }
    let rows: Vec<u64> = world.findings.iter().map(|finding| finding.count).collect();
    assert_eq!(rows, [1, 10, 100, 1_000]);
}

#[test]
fn what_the_configuration_expects_is_not_raised() {
    let config = BehaviourConfig {
        expected: vec![crate::config::Expected {
            rule: "bpf-load".to_owned(),
            exe: Some("/opt/monitor/*".to_owned()),
        }],
        ..BehaviourConfig::default()
    };
    let mut world = World::new(config);
    world.session();
    world.run(110, "/opt/monitor/agent", &["agent"], 0);
    world.kernel(110, fleetmend_event::table::KernelEventKind::BpfLoad, "x", None);
    assert_eq!(world.rules(), [] as [&str; 0]);
    world.run(111, "/opt/other/agent", &["agent"], 0);
    world.kernel(111, fleetmend_event::table::KernelEventKind::BpfLoad, "x", None);
    assert_eq!(world.rules(), ["bpf-load"]);
}

#[test]
fn faults_of_the_configuration_name_what_there_is() {
    let mut config = crate::DetectConfig::default();
    config.behaviour.expected.push(crate::config::Expected {
        rule: "no-such".to_owned(),
        exe: Some("relative".to_owned()),
    });
    config.behaviour.scan_ports = 1_000;
    let faults = config.faults();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults.iter().any(|(_, reason)| reason.contains("bpf-load")));
}

/// What a common fact costs; a figure to look at, not one to fail by: `cargo test -p agent-detect -- --nocapture cost`.
#[test]
fn cost_of_common_facts_is_printed() {
    let mut world = World::with_session();
    world.run(110, "/usr/bin/cat", &["cat"], 1000);
    let file = world.file_row(
        110,
        fleetmend_event::table::FileEventKind::OpenWrite,
        "/home/eve/src/main.o",
    );
    let connect = world.connection(
        110,
        fleetmend_event::table::NetworkEventKind::Connect,
        "198.51.100.9",
        443,
    );
    let exec = world.exec_row(111, 110, "/usr/bin/gcc", &["gcc", "-c", "main.c"], 1000);
    for (name, fact) in [
        ("file", file.into()),
        ("connect", connect.into()),
        ("exec", exec.into()),
    ] {
        let fact: Fact = fact;
        let rounds = 20_000_u32;
        let began = std::time::Instant::now();
        for _ in 0..rounds {
            world.observe(&fact);
        }
        println!("{name}: {:?} a fact", began.elapsed() / rounds);
    }
    assert_eq!(world.source, Source::Ebpf);
}
