//! What a site does to rules: its own, others switched off, all read anew; and rules made to hurt.

use std::time::{Duration, Instant};

use fleetmend_shutdown::Tasks;

use super::*;
use crate::sigma::{DisabledRule, RuleOptions, Sigma, Trial, explain};

fn rule(id: u32, title: &str, image: &str) -> String {
    format!(
        "title: {title}\nid: 40000000-0000-4000-8000-{id:012}\nlogsource: {{product: linux, category: process_creation}}\n\
        detection: {{sel: {{Image: {image}}}, condition: sel}}\n"
    )
}

#[test]
fn site_replaces_and_switches_off_by_id() {
    let (packaged, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(packaged.path().join("a.yml"), rule(1, "Packaged", "/a")).unwrap();
    std::fs::write(packaged.path().join("b.yml"), rule(2, "Noisy", "/b")).unwrap();
    std::fs::write(own.path().join("z.yml"), rule(1, "Own", "/own")).unwrap();
    let mut sigma = Sigma::with(&RuleOptions {
        folders: vec![packaged.path().to_owned(), own.path().to_owned()],
        disabled: vec![DisabledRule {
            rule: "40000000-0000-4000-8000-000000000002".to_owned(),
            reason: "the backup does that".to_owned(),
        }],
        ..RuleOptions::default()
    });
    assert_eq!(titles(&mut sigma, &exec("/own", &["x"])), ["Own"]);
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), Vec::<String>::new());
    assert_eq!(titles(&mut sigma, &exec("/b", &["x"])), Vec::<String>::new());
    let state = |title: &str| {
        sigma
            .listing()
            .iter()
            .find(|rule| rule.title == title)
            .unwrap()
            .state
            .clone()
    };
    assert!(matches!(state("Packaged"), RuleState::Replaced(by) if by.contains("z.yml")));
    assert_eq!(
        state("Noisy"),
        RuleState::Disabled("the backup does that".to_owned())
    );
    let status = sigma.status();
    assert_eq!(status.state, ProbeState::Real);
    assert!(
        status.reason.contains("1 disabled, 1 replaced"),
        "{}",
        status.reason
    );
}

#[test]
fn placeholders_stand_for_what_the_site_says() {
    let folder = tempfile::tempdir().unwrap();
    let text = "title: Admins\nlogsource: {product: linux, category: process_creation}\n\
        detection: {sel: {Image|expand: '/home/%admins%/x'}, condition: sel}\n";
    std::fs::write(folder.path().join("a.yml"), text).unwrap();
    let percent = text
        .replace("Admins", "Percent")
        .replace("Image", "CommandLine")
        .replace("/home/%admins%/x", "7% of %admins%");
    std::fs::write(folder.path().join("b.yml"), percent).unwrap();
    let mut options = RuleOptions {
        folders: vec![folder.path().to_owned()],
        ..RuleOptions::default()
    };
    let sigma = Sigma::with(&options);
    let reason = sigma.listing()[0].state.reason().to_owned();
    assert!(reason.contains("detect.placeholders.admins"), "{reason}");
    options
        .placeholders
        .insert("admins".into(), vec!["ann".into(), "bob".into()]);
    let mut sigma = Sigma::with(&options);
    assert_eq!(titles(&mut sigma, &exec("/home/bob/x", &["x"])), ["Admins"]);
    assert_eq!(
        titles(&mut sigma, &exec("/home/eve/x", &["x"])),
        Vec::<String>::new()
    );
    assert_eq!(titles(&mut sigma, &exec("/x", &["7%", "of", "ann"])), ["Percent"]);
}

#[test]
fn escaped_percent_signs_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let text = "title: Percent\nlogsource: {product: linux, category: process_creation}\n\
        detection: {sel: {CommandLine|expand: '\\%plain%admins%'}, condition: sel}\n";
    std::fs::write(folder.path().join("a.yml"), text).unwrap();
    let none = text.replace("Percent", "None").replace("%admins%", "\\%");
    std::fs::write(folder.path().join("b.yml"), none).unwrap();
    let mut sigma = Sigma::with(&RuleOptions {
        folders: vec![folder.path().to_owned()],
        placeholders: [("admins".to_owned(), vec!["ann".to_owned()])].into(),
        ..RuleOptions::default()
    });
    assert_eq!(titles(&mut sigma, &exec("/x", &["%plainann"])), ["Percent"]);
    assert_eq!(titles(&mut sigma, &exec("/x", &["%plain%"])), ["None"]);
}

#[test]
fn faults_are_told_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = "title: No filter here\nfields: [CommandLine]\n\
        logsource: {product: linux, category: process_creation}\ndetection:\n  sel:\n    CommandLine|MODIFIER: a\n  \
        condition: sel and not filter\n";
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    write("a.yml", text.replace("|MODIFIER", ""));
    write(
        "b.yml",
        text.replace("MODIFIER", "hour")
            .replace(" and not filter", "")
            .replace("No filter here", "No hour"),
    );
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    let reason = |title: &str| {
        let listed = sigma.listing().iter().find(|rule| rule.title == title).unwrap();
        listed.state.reason().to_owned()
    };
    assert!(
        reason("No filter here").starts_with("line 7: "),
        "{}",
        reason("No filter here")
    );
    assert!(reason("No hour").starts_with("line 6: "), "{}", reason("No hour"));
}

#[test]
fn rules_that_are_not_to_be_used_here_are_listed_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, more: &str| {
        let text = rule(1, name, "/a");
        let text = text.replace("id: 40000000-0000-4000-8000-000000000001\n", more);
        std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
    };
    write("Retired", "status: unsupported\n");
    write("Foreign", "taxonomy: ecs\n");
    write("Old", "status: deprecated\ntaxonomy: sigma\n");
    let nginx =
        rule(2, "Nginx", "/a").replace("{product: linux, category: process_creation}", "{product: nginx}");
    std::fs::write(folder.path().join("nginx.yml"), nginx).unwrap();
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    for (title, wanted) in [
        ("Retired", "status"),
        ("Foreign", "'ecs'"),
        ("Nginx", "service: nginx"),
        ("Old", ""),
    ] {
        let listed = sigma.listing().iter().find(|rule| rule.title == title).unwrap();
        assert!(listed.state.reason().contains(wanted), "{listed:?}");
        assert_eq!(
            matches!(listed.state, RuleState::Unsupported(_)),
            !wanted.is_empty(),
            "{listed:?}"
        );
    }
}

#[test]
fn rules_are_tried_on_what_would_reach_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, source: &str| {
        let text = format!(
            "title: {name}\nlogsource: {{{source}}}\ndetection: {{sel: {{_COMM: x, v: 1.0}}, condition: sel}}\n"
        );
        std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
    };
    write("auth", "product: linux, service: auth");
    write("syslog", "service: syslog");
    write("sshd", "product: linux, service: sshd");
    write("cron", "product: linux, service: cron");
    write("exec", "product: linux, category: process_creation");
    let mut trial = Trial::new(folder.path().to_owned(), [].into());
    for (source, wanted) in [
        (
            "\"product\":\"linux\",\"service\":\"sshd\"",
            &["auth", "sshd", "syslog"][..],
        ),
        ("\"service\":\"crond\"", &["auth", "cron", "syslog"]),
        ("\"category\":\"process_creation\"", &["exec"]),
        ("\"service\":\"auditd\"", &[]),
    ] {
        let event = format!("{{\"_log_source\":{{{source}}},\"_COMM\":\"x\",\"v\":1.0}}");
        let verdicts = trial.event(&serde_json::from_str(&event).unwrap()).unwrap();
        let mut titles: Vec<_> = verdicts.into_iter().map(|verdict| verdict.title).collect();
        titles.sort();
        assert_eq!(titles, wanted, "{source}");
    }
}

#[test]
fn reload_takes_what_is_new_and_keeps_what_is_broken_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.yml"), rule(1, "A", "/a")).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    let reloader = sigma.reloader();
    std::fs::write(path("a.yml"), "title: [broken").unwrap();
    std::fs::write(path("b.yml"), rule(2, "B", "/b")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["A"], "as it was before");
    assert_eq!(titles(&mut sigma, &exec("/b", &["x"])), ["B"]);
    let broken = sigma
        .listing()
        .iter()
        .find(|rule| rule.state.as_str() == "broken")
        .unwrap();
    assert!(broken.state.reason().contains("goes on"), "{broken:?}");
    assert_eq!(sigma.status().state, ProbeState::Degraded);

    // Still broken, still kept; then mended, then gone.
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), ["A"]);
    std::fs::write(path("a.yml"), rule(1, "A", "/other")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/a", &["x"])), Vec::<String>::new());
    assert_eq!(titles(&mut sigma, &exec("/other", &["x"])), ["A"]);
    std::fs::remove_file(path("b.yml")).unwrap();
    reloader.reload();
    assert_eq!(titles(&mut sigma, &exec("/b", &["x"])), Vec::<String>::new());
}

#[tokio::test]
async fn change_and_request_are_seen_by_the_thread() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yml"), rule(1, "A", "/a")).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    let tasks = Tasks::new();
    sigma.reloader().spawn(&tasks).unwrap();
    let mut wait_for = |image: &str, wanted: &[&str]| {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let found = titles(&mut sigma, &exec(image, &["x"]));
            if found == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "{image}: {found:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    std::fs::create_dir(folder.path().join("more")).unwrap();
    std::fs::write(folder.path().join("more/b.yml"), rule(2, "B", "/b")).unwrap();
    wait_for("/b", &["B"]);
    std::fs::write(folder.path().join("a.yml"), rule(1, "A", "/elsewhere")).unwrap();
    wait_for("/elsewhere", &["A"]);
    wait_for("/a", &[]);
    tasks.begin("the test is over");
    let report = tasks.drain(Duration::from_secs(30)).await;
    assert!(report.is_clean());
}

#[test]
fn rules_made_to_hurt_are_refused_and_hinder_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, detection: &str| {
        let text = format!(
            "title: {name}\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  {detection}\n"
        );
        std::fs::write(folder.path().join(format!("{name}.yml")), text).unwrap();
    };
    write("look-around", "sel: {CommandLine|re: '(?=a)b'}\n  condition: sel");
    write("huge", "sel: {CommandLine|re: '(a{500}){500}'}\n  condition: sel");
    write(
        "unknown modifier",
        "sel: {CommandLine|sounds_like: a}\n  condition: sel",
    );
    write("no such name", "sel: {Image: /a}\n  condition: sel and other");
    write("no such pattern", "sel: {Image: /a}\n  condition: 1 of other_*");
    write(
        "aggregation",
        "# its condition: sel | count() by x\n  sel: {Image: /a}\n  condition: sel | count() > 5",
    );
    write(
        "three of two",
        "a1: {Image: /a}\n  a2: {Image: /b}\n  condition: 3 of a*",
    );
    write("no hour", "sel: {CommandLine|hour: 24}\n  condition: sel");
    write("half an hour", "sel: {CommandLine|hour: 1.5}\n  condition: sel");
    write(
        "not a network",
        "sel: {CommandLine|cidr: 10.0.0.0/64}\n  condition: sel",
    );
    write("empty list", "sel: {Image: []}\n  condition: sel");
    write(
        "deep",
        &format!(
            "sel: {{Image: /a}}\n  condition: {}sel{}",
            "(".repeat(2_000),
            ")".repeat(2_000)
        ),
    );
    write(
        "dashes",
        "sel: {CommandLine|windash: '-a -b -c -d -e'}\n  condition: sel",
    );
    write("good", "sel: {Image: /good}\n  condition: sel");
    std::fs::write(folder.path().join("long.yml"), "#".repeat(2 << 20)).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    for listed in sigma.listing() {
        let is_good = listed.title == "good";
        assert_eq!(listed.state == RuleState::Loaded, is_good, "{listed:?}");
        assert!(is_good || !listed.state.reason().is_empty(), "{listed:?}");
    }
    assert_eq!(sigma.listing().len(), 15, "{:#?}", sigma.listing());
    let reason = |title: &str| {
        sigma
            .listing()
            .iter()
            .find(|rule| rule.title == title)
            .unwrap()
            .state
            .reason()
            .to_owned()
    };
    assert!(
        reason("no such name").contains("line 5: the condition names 'other'"),
        "{}",
        reason("no such name")
    );
    let of_old = |rule: &RuleListing| rule.state.reason().contains("line 6: aggregation in a condition");
    assert!(sigma.listing().iter().any(of_old), "{:#?}", sigma.listing());
    assert!(
        reason("look-around").contains("look-around"),
        "{}",
        reason("look-around")
    );
    assert_eq!(titles(&mut sigma, &exec("/good", &["x"])), ["good"]);
}

#[test]
fn ten_thousand_rules_are_few_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let text: Vec<String> = (0..10_000)
        .map(|number| rule(number, &format!("R{number}"), &format!("'*/tool{number}'")))
        .collect();
    for (number, part) in text.chunks(1_000).enumerate() {
        std::fs::write(folder.path().join(format!("{number}.yml")), part.join("---\n")).unwrap();
    }
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(
        sigma
            .listing()
            .iter()
            .filter(|rule| rule.state == RuleState::Loaded)
            .count(),
        10_000
    );
    assert_eq!(titles(&mut sigma, &exec("/opt/tool4711", &["x"])), ["R4711"]);
    assert!(sigma.candidates.rules.len() <= 4, "{:?}", sigma.candidates.rules);
    let memory = sigma.set.index_bytes();
    assert!(memory < 8 << 20, "{memory} bytes of automata");
    assert_eq!(sigma.set.unanchored(), 0);
}

#[test]
fn ten_thousand_keywords_are_looked_for_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let words: Vec<String> = (0..10_000).map(|number| format!("word{number}end")).collect();
    let text = format!(
        "title: Words\nlogsource: {{product: linux, category: process_creation}}\n\
        detection: {{words: [{}], condition: words}}\n",
        words.join(", ")
    );
    std::fs::write(folder.path().join("words.yml"), text).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    assert_eq!(sigma.set.unanchored(), 0, "{:?}", sigma.listing());
    assert_eq!(
        titles(&mut sigma, &exec("/x", &["word1234", "end"])),
        Vec::<String>::new()
    );
    assert!(sigma.candidates.rules.is_empty(), "none of them is tried alone");
    assert_eq!(titles(&mut sigma, &exec("/x", &["a-word1234end-b"])), ["Words"]);
}

#[test]
fn rule_is_explained_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let text = "title: Odd\nlogsource: {product: linux, category: process_creation}\n\
        detection:\n  sel: {Image|endswith: /x, CommandLine|re: 'a+bcd'}\n  filter: {User: root}\n  condition: sel and not filter\n";
    std::fs::write(folder.path().join("odd.yml"), text).unwrap();
    let sigma = Sigma::load(&[folder.path().to_owned()]);
    let explained = explain(&sigma, "odd");
    assert_eq!(explained.len(), 1);
    let text = &explained[0].text;
    for wanted in [
        "Image ends with \"/x\"",
        "not:",
        "User is \"root\"",
        "execs (process_events)",
        "\"bcd\"",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    assert_eq!(explained[0].json["fields"].as_array().unwrap().len(), 3);
}

#[test]
fn address_is_found_in_each_of_its_forms() {
    use crate::sigma::rule::Network;

    let holds = |network: &str, address| Network::parse(network).unwrap().holds(address);
    assert!(holds("10.0.0.0/8", "10.1.2.3"));
    assert!(
        holds("10.0.0.0/8", "::ffff:10.1.2.3"),
        "as a socket of version 6 has it"
    );
    assert!(!holds("10.0.0.0/8", "::ffff:11.1.2.3"));
    assert!(holds("::ffff:0:0/96", "::ffff:10.1.2.3"));
    assert!(holds("fe80::/10", "fe80::1%eth0"), "with its link");
    assert!(!holds("fe80::/10", "fd00::1%eth0"));
}

#[test]
fn tactics_are_kept_whatever_their_length() {
    use crate::sigma::meta::tactics;

    let tags = [
        "attack.impact",
        "attack.t1059",
        "attack.command-and-control",
        "car.2013",
    ];
    let tags = tags.map(str::to_owned);
    assert_eq!(tactics(&tags), ["impact", "command-and-control"]);
}
