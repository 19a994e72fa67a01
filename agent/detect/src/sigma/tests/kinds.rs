//! What facts and records are to rules.

use fleetmend_event::table::{
    Actor, FileEvent, FileEventKind, LogRecord, MemoryEvent, MemoryEventKind, NetworkEvent, NetworkEventKind,
};

use super::*;
use crate::sigma::{RawEvent, Sigma};

fn rules(texts: &[(&str, &str)]) -> Sigma {
    let folder = tempfile::tempdir().unwrap();
    for (number, (source, detection)) in texts.iter().enumerate() {
        let text = format!(
            "title: Rule {number}\nlogsource: {{{source}}}\ndetection:\n  sel: {{{detection}}}\n  condition: sel\n"
        );
        std::fs::write(folder.path().join(format!("{number}.yml")), text).unwrap();
    }
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    let odd: Vec<_> = sigma
        .listing()
        .iter()
        .filter(|rule| rule.state != RuleState::Loaded)
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
    sigma
}

fn actor() -> Actor {
    Actor {
        pid: 7,
        comm: "sh".into(),
        exe: Some("/usr/bin/dash".into()),
        command_line: Some("sh -c x".into()),
        uid: 0,
        ..Actor::default()
    }
}

#[test]
fn exec_is_a_process_creation_and_what_auditd_would_log() {
    let mut sigma = rules(&[
        (
            "product: linux, category: process_creation",
            "Image|endswith: /chmod, CommandLine|contains: ' 777 ', User: root",
        ),
        (
            "product: linux, service: auditd",
            "type: EXECVE, a0: chmod, a1: 777",
        ),
        (
            "product: linux, service: auditd",
            "type: SYSCALL, SYSCALL: execve, exe|endswith: /chmod, uid: 0",
        ),
        ("product: linux", "CommandLine|contains: ' 777 '"),
        ("category: process_creation", "ParentImage|endswith: /sshd"),
        ("product: linux, service: auditd", "type: PATH"),
    ]);
    let mut found = titles(&mut sigma, &exec("/usr/bin/chmod", &["chmod", "777", "/srv"]));
    found.sort();
    assert_eq!(found, ["Rule 0", "Rule 1", "Rule 2", "Rule 3", "Rule 4"]);
}

#[test]
fn what_auditd_told_is_not_told_twice() {
    let mut sigma = rules(&[("product: linux, service: auditd", "type: EXECVE, a0: chmod")]);
    let Fact::ProcessEvent(mut event) = exec("/usr/bin/chmod", &["chmod", "x"]) else {
        unreachable!()
    };
    event.source = Source::Audit;
    assert_eq!(
        titles(&mut sigma, &Fact::ProcessEvent(event)),
        Vec::<String>::new()
    );
    let record = RawEvent {
        product: Some("linux".into()),
        service: Some("auditd".into()),
        fields: [("type", "EXECVE"), ("a0", "chmod")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        ..RawEvent::default()
    };
    assert_eq!(sigma.observe_raw(&record).len(), 1);
}

#[test]
fn files_are_of_the_category_of_what_was_done() {
    let mut sigma = rules(&[
        (
            "product: linux, category: file_event",
            "TargetFilename: /etc/cron.d/x",
        ),
        (
            "product: linux, category: file_delete",
            "TargetFilename: /etc/cron.d/x",
        ),
        (
            "product: linux, category: file_rename",
            "SourceFilename: /tmp/y, TargetFilename: /etc/cron.d/x",
        ),
        (
            "product: linux, category: file_access",
            "FileName: /etc/shadow, Image|endswith: /dash",
        ),
        ("product: linux, category: file_change", "TargetFilename: /bin/su"),
        (
            "product: linux, service: auditd",
            "type: PATH, name: /etc/cron.d/x, nametype: CREATE",
        ),
    ]);
    let mut found = |kind, path: &str, target: Option<&str>| {
        let event = FileEvent {
            path: path.into(),
            target: target.map(str::to_owned),
            ..FileEvent::by(actor(), kind, TimeMicros(1), 1, Source::Ebpf)
        };
        titles(&mut sigma, &event.into())
    };
    assert_eq!(
        found(FileEventKind::Create, "/etc/cron.d/x", None),
        ["Rule 0", "Rule 5"]
    );
    assert_eq!(found(FileEventKind::OpenWrite, "/etc/cron.d/x", None), ["Rule 0"]);
    assert_eq!(found(FileEventKind::Unlink, "/etc/cron.d/x", None), ["Rule 1"]);
    assert_eq!(
        found(FileEventKind::Rename, "/tmp/y", Some("/etc/cron.d/x")),
        ["Rule 2", "Rule 0", "Rule 5"]
    );
    assert_eq!(found(FileEventKind::OpenRead, "/etc/shadow", None), ["Rule 3"]);
    assert_eq!(found(FileEventKind::Chmod, "/bin/su", None), ["Rule 4"]);
}

#[test]
fn rule_for_every_source_sees_a_fact_of_two_sides_once() {
    let mut sigma = rules(&[
        ("product: linux", "TargetFilename: /etc/cron.d/x"),
        (
            "product: linux, category: file_rename",
            "TargetFilename: /etc/cron.d/x",
        ),
        (
            "product: linux, category: file_event",
            "TargetFilename: /etc/cron.d/x",
        ),
    ]);
    let event = FileEvent {
        path: "/tmp/y".into(),
        target: Some("/etc/cron.d/x".into()),
        ..FileEvent::by(actor(), FileEventKind::Rename, TimeMicros(1), 1, Source::Ebpf)
    };
    let mut found = titles(&mut sigma, &event.into());
    found.sort();
    assert_eq!(found, ["Rule 0", "Rule 1", "Rule 2"]);
}

#[test]
fn act_that_auditd_tells_as_well_is_one_match() {
    let record = |args: &[&str], time| RawEvent {
        time: TimeMicros(time),
        product: Some("linux".into()),
        service: Some("auditd".into()),
        category: None,
        fields: [("type".to_owned(), "EXECVE".to_owned())]
            .into_iter()
            .chain([("argc".to_owned(), args.len().to_string())])
            .chain(
                (0..)
                    .zip(args)
                    .map(|(number, arg)| (format!("a{number}"), (*arg).to_owned())),
            )
            .collect(),
    };
    let many: Vec<String> = (0..40).map(|number| format!("x{number}")).collect();
    let many: Vec<&str> = ["chmod"]
        .into_iter()
        .chain(many.iter().map(String::as_str))
        .collect();
    for args in [&["chmod", "777", "/srv"][..], &many] {
        let rule = [("product: linux, service: auditd", "type: EXECVE, a0: chmod")];
        let fact = exec("/usr/bin/chmod", args);
        // Either may be first, and each stands for one.
        let mut sigma = rules(&rule);
        assert_eq!(titles(&mut sigma, &fact).len(), 1);
        assert_eq!(titles(&mut sigma, &fact).len(), 1);
        assert_eq!(sigma.observe_raw(&record(args, 1_000)).len(), 0);
        assert_eq!(sigma.observe_raw(&record(args, 1_000)).len(), 0);
        assert_eq!(sigma.observe_raw(&record(args, 1_000)).len(), 1);
        assert_eq!(titles(&mut sigma, &fact).len(), 0);
        // Another act, or the same at another time, is one of its own.
        let mut sigma = rules(&rule);
        assert_eq!(titles(&mut sigma, &fact).len(), 1);
        assert_eq!(sigma.observe_raw(&record(&["chmod", "755"], 1_000)).len(), 1);
        assert_eq!(sigma.observe_raw(&record(args, 60_000_000)).len(), 1);
    }
}

#[test]
fn act_that_failed_is_none() {
    let mut sigma = rules(&[("product: linux, category: file_event", "TargetFilename: /x")]);
    let event = FileEvent {
        path: "/x".into(),
        error: Some(13),
        ..FileEvent::by(actor(), FileEventKind::Create, TimeMicros(1), 1, Source::Ebpf)
    };
    assert_eq!(titles(&mut sigma, &event.into()), Vec::<String>::new());
}

#[test]
fn connection_is_told_from_who_opened_it() {
    let mut sigma = rules(&[
        (
            "product: linux, category: network_connection",
            "Initiated: 'true', DestinationPort: 4444, DestinationIp|cidr: 192.0.2.0/24",
        ),
        (
            "product: linux, category: network_connection",
            "Initiated: 'false', SourceIp: 192.0.2.7, DestinationPort: 22",
        ),
    ]);
    let event = |kind, local_port, remote_port| NetworkEvent {
        time: TimeMicros(1),
        boot_ns: 1,
        kind,
        owner: fleetmend_event::table::ConnectionOwner::Caller,
        pid: 7,
        start_boot_ns: 1,
        comm: "nc".into(),
        uid: 0,
        protocol: "tcp".into(),
        local_address: "198.51.100.1".into(),
        local_port,
        remote_address: "192.0.2.7".into(),
        remote_port,
        bytes_sent: None,
        bytes_received: None,
        duration_us: None,
        error: None,
        source: Source::Ebpf,
        exe: Some("/usr/bin/nc".into()),
        cgroup: None,
        unit: None,
        container_id: None,
        retransmits: None,
        round_trip_us: None,
        network_namespace: None,
    };
    assert_eq!(
        titles(
            &mut sigma,
            &event(NetworkEventKind::Connect, 50_000, 4_444).into()
        ),
        ["Rule 0"]
    );
    assert_eq!(
        titles(&mut sigma, &event(NetworkEventKind::Accept, 22, 50_000).into()),
        ["Rule 1"]
    );
    assert_eq!(
        titles(&mut sigma, &event(NetworkEventKind::Close, 50_000, 4_444).into()),
        Vec::<String>::new()
    );
}

#[test]
fn acts_are_under_our_own_names() {
    let mut sigma = rules(&[
        (
            "product: linux, service: fleetmend, category: memory_access",
            "kind: ptrace, detail: PTRACE_ATTACH, target_comm: sshd, Image|endswith: /dash",
        ),
        ("product: linux, service: auditd", "SYSCALL: ptrace, comm: sh"),
    ]);
    let event = MemoryEvent {
        detail: Some("PTRACE_ATTACH".into()),
        target_comm: Some("sshd".into()),
        ..MemoryEvent::by(actor(), MemoryEventKind::Ptrace, TimeMicros(1), 1, Source::Ebpf)
    };
    assert_eq!(titles(&mut sigma, &event.into()), ["Rule 0", "Rule 1"]);
}

#[test]
fn line_of_a_log_is_of_its_program_and_of_syslog() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source) in [
        ("sshd", "product: linux, service: sshd"),
        ("auth", "product: linux, service: auth"),
        ("syslog", "product: linux, service: syslog"),
        ("linux", "product: linux"),
        ("cron", "product: linux, service: cron"),
        ("web", "category: webserver"),
    ] {
        let text = format!(
            "title: {name}\nlogsource: {{{source}}}\ndetection:\n  keywords: ['Corrupted MAC*input']\n  condition: keywords\n"
        );
        std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
    }
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    let mut found = |identifier: &str| {
        let record = LogRecord {
            time: TimeMicros(1),
            source: "journal".into(),
            identifier: identifier.into(),
            unit: None,
            pid: Some(1),
            uid: None,
            priority: None,
            facility: None,
            message: "ssh_dispatch_run_fatal: corrupted mac on input [preauth]".into(),
            truncated: false,
            template: 0,
            repeats: 1,
        };
        let mut found = titles(&mut sigma, &record.into());
        found.sort();
        found
    };
    assert_eq!(found("sshd-session"), ["auth", "linux", "sshd", "syslog"]);
    assert_eq!(found("CRON"), ["auth", "cron", "linux", "syslog"]);
    assert_eq!(found("other"), ["linux", "syslog"]);
}

#[test]
fn access_log_is_a_web_server_s() {
    let mut sigma = rules(&[(
        "category: webserver",
        "cs-uri-query|contains: ../../etc/, sc-status: 200, cs-referer: null",
    )]);
    let record = |status: &str| RawEvent {
        category: Some("webserver".into()),
        service: Some("nginx".into()),
        fields: [
            ("cs-uri-query", "/x?f=../../etc/passwd"),
            ("sc-status", status),
            ("c-ip", "192.0.2.1"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into(),
        ..RawEvent::default()
    };
    let notices = sigma.observe_raw(&record("200"));
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].subject.kind, SubjectKind::Address);
    assert!(sigma.observe_raw(&record("404")).is_empty());
}

#[test]
fn sources_that_nothing_feeds_are_listed_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source) in [
        ("windows", "product: windows, service: security"),
        ("proxy", "category: proxy"),
        ("dns", "product: linux, category: dns_query"),
        ("none", ""),
    ] {
        let text =
            format!("title: {name}\nlogsource: {{{source}}}\ndetection: {{sel: {{a: b}}, condition: sel}}\n");
        std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
    }
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    for (title, wanted) in [
        ("windows", "product 'windows'"),
        ("proxy", "'proxy'"),
        ("dns", "'linux/dns_query'"),
        ("none", "no log source"),
    ] {
        let listed = sigma.listing().iter().find(|rule| rule.title == title).unwrap();
        assert!(
            matches!(&listed.state, RuleState::Unsupported(reason) if reason.contains(wanted)),
            "{listed:?}"
        );
    }
}

#[test]
fn keyword_has_neither_beginning_nor_end() {
    let folder = tempfile::tempdir().unwrap();
    for modifier in ["startswith", "endswith", "contains"] {
        let text = format!(
            "title: {modifier}\nlogsource: {{product: linux, service: sshd}}\ndetection: {{words: {{'|{modifier}': abc}}, condition: words}}\n"
        );
        std::fs::write(folder.path().join(format!("{modifier}.yml")), text).unwrap();
    }
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    for rule in sigma.listing() {
        match &rule.state {
            RuleState::Loaded => assert_eq!(rule.title, "contains"),
            RuleState::Unsupported(reason) => assert!(reason.contains("name a field"), "{reason}"),
            other => panic!("{}: {other:?}", rule.title),
        }
    }
    assert_eq!(sigma.listing().len(), 3);
}
