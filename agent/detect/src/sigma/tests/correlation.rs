//! Correlation rules and filters.

use std::path::Path;

use super::*;
use crate::sigma::RuleOptions;
use crate::sigma::read::RuleFile;
use crate::sigma::set::RuleSet;
use crate::sigma::{RawEvent, Sigma};

fn sigma(text: &str) -> Sigma {
    let options = RuleOptions::default();
    let file = RuleFile::parse(Path::new("rules.yml"), text.to_owned());
    Sigma::over(RuleSet::of(&options, vec![file]), options)
}

fn line(second: i64, fields: &[(&str, &str)]) -> RawEvent {
    RawEvent {
        time: TimeMicros(second * 1_000_000),
        product: Some("linux".into()),
        service: Some("sshd".into()),
        category: None,
        fields: fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn fired(sigma: &mut Sigma, event: &RawEvent) -> Vec<String> {
    sigma
        .observe_raw(event)
        .into_iter()
        .map(|notice| notice.title)
        .collect()
}

const FAILED: &str = "title: Failed\nname: failed\nlogsource: {product: linux, service: sshd}\n\
    detection:\n  sel: {outcome: failed}\n  condition: sel\n---\n\
    title: Accepted\nname: accepted\nlogsource: {product: linux, service: sshd}\n\
    detection:\n  sel: {outcome: accepted}\n  condition: sel\n---\n";

fn failed(second: i64, user: &str, ip: &str) -> RawEvent {
    line(second, &[("outcome", "failed"), ("user", user), ("ip", ip)])
}

fn with(correlation: &str) -> String {
    format!("{FAILED}title: Many\nname: many\nlevel: high\ncorrelation:\n{correlation}")
}

#[test]
fn events_are_counted_per_group_within_the_timespan() {
    let mut sigma = sigma(&with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 60s\n  condition: {gte: 3}\n",
    ));
    assert_eq!(
        fired(&mut sigma, &failed(0, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &failed(1, "a", "192.0.2.2")),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &failed(2, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
    // The first is 61 s ago by then.
    assert_eq!(
        fired(&mut sigma, &failed(61, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
    let notices = sigma.observe_raw(&failed(62, "a", "192.0.2.1"));
    assert_eq!(notices.len(), 1);
    assert_eq!(notices[0].title, "Many");
    assert_eq!(notices[0].subject.kind, SubjectKind::Address);
    assert_eq!(notices[0].subject.name, "192.0.2.1");
    // Once per timespan while it holds.
    assert_eq!(
        fired(&mut sigma, &failed(63, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
}

#[test]
fn generate_lets_the_rules_speak_as_well() {
    let text = with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 60s\n  condition: {gte: 2}\n",
    );
    let mut sigma = sigma(&format!("{text}generate: true\n"));
    assert_eq!(fired(&mut sigma, &failed(0, "a", "192.0.2.1")), ["Failed"]);
    assert_eq!(
        fired(&mut sigma, &failed(1, "a", "192.0.2.1")),
        ["Failed", "Many"]
    );
}

#[test]
fn distinct_values_are_counted() {
    let mut sigma = sigma(&with(
        "  type: value_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 5m\n  condition: {field: user, gte: 3}\n",
    ));
    for (second, user) in [(0, "a"), (1, "A"), (2, "a"), (3, "b")] {
        assert_eq!(
            fired(&mut sigma, &failed(second, user, "192.0.2.1")),
            Vec::<String>::new()
        );
    }
    assert_eq!(fired(&mut sigma, &failed(4, "c", "192.0.2.1")), ["Many"]);
}

#[test]
fn temporal_wants_all_and_ordered_in_order() {
    for (kind, first, second, fires) in [
        ("temporal", "failed", "accepted", true),
        ("temporal", "accepted", "failed", true),
        ("temporal_ordered", "failed", "accepted", true),
        ("temporal_ordered", "accepted", "failed", false),
    ] {
        let mut sigma = sigma(&with(&format!(
            "  type: {kind}\n  rules: [failed, accepted]\n  group-by: [user]\n  timespan: 1m\n"
        )));
        let event = |second, outcome| line(second, &[("outcome", outcome), ("user", "a")]);
        assert_eq!(fired(&mut sigma, &event(0, first)), Vec::<String>::new());
        let other = line(1, &[("outcome", second), ("user", "b")]);
        assert_eq!(fired(&mut sigma, &other), Vec::<String>::new(), "another group");
        assert_eq!(
            !fired(&mut sigma, &event(2, second)).is_empty(),
            fires,
            "{kind} {first} {second}"
        );
    }
}

#[test]
fn temporal_condition_may_be_written_out() {
    let mut sigma = sigma(&with(
        "  type: temporal\n  rules: [failed, accepted]\n  group-by: [user]\n  timespan: 1m\n  condition: failed and not accepted\n",
    ));
    assert_eq!(
        fired(&mut sigma, &line(0, &[("outcome", "accepted"), ("user", "a")])),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &line(1, &[("outcome", "failed"), ("user", "a")])),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &line(2, &[("outcome", "failed"), ("user", "b")])),
        ["Many"]
    );
}

#[test]
fn numbers_are_summed_averaged_and_ranked() {
    for (kind, more, values, wanted) in [
        ("value_sum", "gt: 100", [50, 60, 1], 2),
        ("value_avg", "gte: 20", [10, 20, 40], 3),
        ("value_median", "gte: 20", [10, 20, 40], 3),
        ("value_percentile", "gte: 30, percentile: 90", [10, 20, 40], 3),
    ] {
        let mut sigma = sigma(&with(&format!(
            "  type: {kind}\n  rules: [failed]\n  group-by: [user]\n  timespan: 1m\n  condition: {{field: bytes, {more}}}\n"
        )));
        let mut first = None;
        for (number, value) in (1..).zip(values) {
            let event = line(
                number,
                &[
                    ("outcome", "failed"),
                    ("user", "a"),
                    ("bytes", &value.to_string()),
                ],
            );
            if !fired(&mut sigma, &event).is_empty() {
                first = first.or(Some(number));
            }
        }
        assert_eq!(first, Some(wanted), "{kind}");
    }
}

#[test]
fn aliases_name_the_field_of_each_rule() {
    let mut sigma = sigma(&with(
        "  type: temporal\n  rules: [failed, accepted]\n  group-by: [who]\n  timespan: 1m\n  \
         aliases: {who: {failed: user, accepted: account}}\n",
    ));
    assert_eq!(
        fired(&mut sigma, &line(0, &[("outcome", "failed"), ("user", "a")])),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &line(1, &[("outcome", "accepted"), ("account", "b")])),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &line(2, &[("outcome", "accepted"), ("account", "a")])),
        ["Many"]
    );
}

#[test]
fn correlation_looks_at_correlations() {
    let text = with(
        "  type: event_count\n  rules: [failed]\n  group-by: [user]\n  timespan: 60s\n  condition: {gte: 2}\n",
    );
    let mut sigma = sigma(&format!(
        "{text}---\ntitle: Then in\ncorrelation:\n  type: temporal_ordered\n  rules: [many, accepted]\n  group-by: [user]\n  timespan: 5m\n"
    ));
    let event = |second, outcome| line(second, &[("outcome", outcome), ("user", "a")]);
    assert_eq!(fired(&mut sigma, &event(0, "accepted")), Vec::<String>::new());
    assert_eq!(fired(&mut sigma, &event(1, "failed")), Vec::<String>::new());
    assert_eq!(
        fired(&mut sigma, &event(2, "failed")),
        Vec::<String>::new(),
        "it speaks through the other"
    );
    assert_eq!(fired(&mut sigma, &event(3, "accepted")), ["Then in"]);
}

#[test]
fn chain_goes_on_while_its_first_part_holds() {
    let text = with(
        "  type: event_count\n  rules: [failed]\n  group-by: [user]\n  timespan: 1h\n  condition: {gte: 10}\n",
    );
    let text = format!(
        "{text}---\ntitle: Then in\ncorrelation:\n  type: temporal_ordered\n  rules: [many, accepted]\n  group-by: [user]\n  timespan: 10m\n\
         ---\ntitle: Often\ncorrelation:\n  type: event_count\n  rules: [many]\n  group-by: [user]\n  timespan: 2h\n  condition: {{gte: 2}}\n"
    );
    let mut sigma = sigma(&text);
    let event = |second, outcome| line(second, &[("outcome", outcome), ("user", "a")]);
    for minute in 0..30 {
        assert_eq!(
            fired(&mut sigma, &event(minute * 60, "failed")),
            Vec::<String>::new(),
            "within an hour it fires once, and is counted once"
        );
    }
    assert_eq!(
        fired(&mut sigma, &event(30 * 60 + 10, "accepted")),
        ["Then in"],
        "it held a minute ago, though it fired twenty minutes ago"
    );
}

#[test]
fn chain_over_a_field_that_its_first_part_does_not_group_by_is_listed() {
    let text = with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 60s\n  condition: {gte: 2}\n",
    );
    let sigma = sigma(&format!(
        "{text}---\ntitle: Then in\ncorrelation:\n  type: temporal\n  rules: [many, accepted]\n  group-by: [user]\n  timespan: 5m\n"
    ));
    let listed = sigma
        .listing()
        .iter()
        .find(|rule| rule.title == "Then in")
        .unwrap();
    assert!(
        matches!(&listed.state, RuleState::Unsupported(reason) if reason.contains("'user'") && reason.contains("'many'")),
        "{:?}",
        listed.state
    );
}

#[test]
fn events_count_where_they_belong_in_whatever_order_they_come() {
    let ordered =
        "  type: temporal_ordered\n  rules: [failed, accepted]\n  group-by: [user]\n  timespan: 1m\n";
    let event = |second, outcome| line(second, &[("outcome", outcome), ("user", "a")]);
    let mut late = sigma(&with(ordered));
    assert_eq!(fired(&mut late, &event(10, "failed")), Vec::<String>::new());
    assert_eq!(
        fired(&mut late, &event(5, "accepted")),
        Vec::<String>::new(),
        "it was before"
    );
    let mut early = sigma(&with(ordered));
    assert_eq!(fired(&mut early, &event(10, "accepted")), Vec::<String>::new());
    assert_eq!(fired(&mut early, &event(5, "failed")), ["Many"]);

    let counted =
        "  type: event_count\n  rules: [failed]\n  group-by: [user]\n  timespan: 1m\n  condition: {gte: 3}\n";
    for (seconds, last) in [
        ([100, 45, 155], Vec::<&str>::new()),
        ([100, 60, 110], vec!["Many"]),
        // One of long ago between two.
        ([100, 101, 30], vec![]),
    ] {
        let mut sigma = sigma(&with(counted));
        let all: Vec<_> = seconds
            .iter()
            .map(|second| fired(&mut sigma, &event(*second, "failed")))
            .collect();
        assert_eq!(all[2], last, "{seconds:?}");
        if seconds[2] == 30 {
            assert_eq!(
                fired(&mut sigma, &event(102, "failed")),
                ["Many"],
                "it spoils nothing of what is there"
            );
        }
    }
    // What was read late counts among itself.
    let mut sigma = sigma(&with(counted));
    assert_eq!(fired(&mut sigma, &event(9_000, "failed")), Vec::<String>::new());
    assert_eq!(fired(&mut sigma, &event(10, "failed")), Vec::<String>::new());
    assert_eq!(fired(&mut sigma, &event(20, "failed")), Vec::<String>::new());
    assert_eq!(fired(&mut sigma, &event(30, "failed")), ["Many"]);
}

#[test]
fn order_is_that_of_the_rules_that_a_condition_needs() {
    const THIRD: &str = "title: Locked\nname: locked\nlogsource: {product: linux, service: sshd}\n\
        detection:\n  sel: {outcome: locked}\n  condition: sel\n---\n";
    for (condition, outcomes, fires) in [
        (
            "failed and (accepted or locked)",
            &["failed", "accepted"][..],
            true,
        ),
        ("failed and (accepted or locked)", &["failed", "locked"], true),
        ("failed and (accepted or locked)", &["accepted", "failed"], false),
        (
            "failed and accepted and not locked",
            &["locked", "failed", "accepted"],
            false,
        ),
        ("all of *e*", &["failed", "accepted", "locked"], true),
        ("2 of *e*", &["failed", "locked"], true),
        ("2 of *e*", &["locked", "failed"], false),
    ] {
        let mut sigma = sigma(&format!(
            "{THIRD}{}",
            with(&format!(
                "  type: temporal_ordered\n  rules: [failed, accepted, locked]\n  group-by: [user]\n  timespan: 1m\n  condition: {condition}\n"
            ))
        ));
        let mut told = Vec::new();
        for (second, outcome) in (0..).zip(outcomes) {
            told.extend(fired(
                &mut sigma,
                &line(second, &[("outcome", outcome), ("user", "a")]),
            ));
        }
        assert_eq!(!told.is_empty(), fires, "{condition} {outcomes:?}");
    }
}

#[test]
fn aliases_may_call_a_rule_by_another_of_its_names() {
    let id = "11111111-1111-4111-8111-111111111111";
    let text = with(&format!(
        "  type: temporal\n  rules: [{id}, accepted]\n  group-by: [who]\n  timespan: 1m\n  condition: failed and accepted\n  \
         aliases: {{who: {{failed: user, accepted: account}}}}\n"
    ));
    let mut sigma = sigma(&text.replacen("name: failed\n", &format!("name: failed\nid: {id}\n"), 1));
    assert_eq!(
        fired(&mut sigma, &line(0, &[("outcome", "failed"), ("user", "a")])),
        Vec::<String>::new()
    );
    assert_eq!(
        fired(&mut sigma, &line(1, &[("outcome", "accepted"), ("account", "a")])),
        ["Many"]
    );
}

#[test]
fn correlations_that_cannot_be_kept_are_listed_with_the_reason() {
    for (correlation, wanted) in [
        (
            "  type: event_count\n  rules: [other]\n  timespan: 1m\n  condition: {gte: 1}\n",
            "'other'",
        ),
        (
            "  type: event_count\n  rules: [many]\n  timespan: 1m\n  condition: {gte: 1}\n",
            "'many'",
        ),
        (
            "  type: event_count\n  rules: [failed]\n  timespan: 30d\n  condition: {gte: 1}\n",
            "7 d",
        ),
        (
            "  type: event_count\n  rules: [failed]\n  timespan: 1m\n  condition: {gte: 100000}\n",
            "4096",
        ),
        (
            "  type: value_count\n  rules: [failed]\n  timespan: 1m\n  condition: {gte: 1}\n",
            "condition.field",
        ),
    ] {
        let sigma = sigma(&with(correlation));
        let listed = sigma.listing().iter().find(|rule| rule.title == "Many").unwrap();
        assert_ne!(listed.state, RuleState::Loaded, "{correlation}");
        assert!(
            listed.state.reason().contains(wanted),
            "{}",
            listed.state.reason()
        );
        // What it would have spoken for speaks itself.
        let mut sigma = sigma;
        assert_eq!(fired(&mut sigma, &failed(0, "a", "192.0.2.1")), ["Failed"]);
    }
}

#[test]
fn correlations_that_say_what_cannot_be_are_broken() {
    for (correlation, wanted) in [
        (
            "  type: temporal\n  rules: [failed, accepted]\n  timespan: 1m\n  condition: failed and not other\n",
            "'other'",
        ),
        (
            "  type: temporal\n  rules: [failed, accepted]\n  timespan: 1m\n  condition: 1 of other_*\n",
            "other_*",
        ),
        (
            "  type: event_count\n  rules: [failed, accepted]\n  timespan: 1m\n  condition: failed and accepted\n",
            "gte",
        ),
        (
            "  type: temporal\n  rules: [failed, accepted]\n  group-by: [who]\n  timespan: 1m\n  aliases: {who: {faild: user, accepted: account}}\n",
            "'faild'",
        ),
        (
            "  type: value_percentile\n  rules: [failed]\n  timespan: 1m\n  condition: {field: bytes, gte: 1, percentile: 99.5}\n",
            "whole number",
        ),
        (
            "  type: temporal\n  rules: [failed, failed]\n  timespan: 1m\n",
            "twice",
        ),
        (
            "  type: temporal\n  rules: [failed, accepted]\n  timespan: 1m\n  condition: 3 of *e*\n",
            "fits 2",
        ),
        (
            "  type: value_sum\n  rules: [failed]\n  timespan: 1m\n  condition: {field: bytes, lt: -5}\n",
            "below 0",
        ),
    ] {
        let sigma = sigma(&with(correlation));
        let listed = sigma.listing().iter().find(|rule| rule.title == "Many").unwrap();
        assert!(
            listed.state.reason().contains(wanted),
            "{correlation}: {:?}",
            listed.state
        );
    }
}

#[test]
fn value_may_be_an_alias() {
    let mut sigma = sigma(&with(
        "  type: value_count\n  rules: [failed, accepted]\n  group-by: [ip]\n  timespan: 1m\n  condition: {field: who, gte: 2}\n  \
         aliases: {who: {failed: user, accepted: account}}\n",
    ));
    let in_as = |second, account| {
        let fields = [("outcome", "accepted"), ("account", account), ("ip", "192.0.2.1")];
        line(second, &fields)
    };
    assert_eq!(
        fired(&mut sigma, &failed(0, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
    assert_eq!(fired(&mut sigma, &in_as(1, "a")), Vec::<String>::new());
    assert_eq!(fired(&mut sigma, &in_as(2, "b")), ["Many"]);
}

#[test]
fn clock_put_back_begins_anew() {
    const YEAR: i64 = 365 * 86_400;
    let mut sigma = sigma(&with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 60s\n  condition: {gte: 3}\n",
    ));
    let mut at = |second| fired(&mut sigma, &failed(second, "a", "192.0.2.1"));
    assert_eq!(at(YEAR), Vec::<String>::new());
    // An hour apart, they are not within a minute because the clock was ahead once.
    for hour in 0..5 {
        assert_eq!(at(hour * 3_600), Vec::<String>::new(), "hour {hour}");
    }
    assert_eq!(at(20_000), Vec::<String>::new());
    assert_eq!(at(20_001), Vec::<String>::new());
    assert_eq!(at(20_002), ["Many"]);
    // One that comes late by less than the timespan is one of them.
    assert_eq!(at(30_000), Vec::<String>::new());
    assert_eq!(at(29_990), Vec::<String>::new());
    assert_eq!(at(30_001), ["Many"]);
}

#[test]
fn reload_keeps_what_correlations_have_counted() {
    let folder = tempfile::tempdir().unwrap();
    let text = |more: &str| {
        with(&format!(
            "  type: event_count\n  rules: [failed, accepted]\n  group-by: [who, ip]\n  timespan: 60s\n  condition: {{gte: 2}}\n  \
             aliases:\n    who: {{failed: user, accepted: account}}\n    ip: {{accepted: ip, failed: ip}}\n\
             one: 1\ntwo: 2\nthree: 3\nfour: 4\nfive: 5\n{more}"
        ))
    };
    std::fs::write(folder.path().join("a.yml"), text("")).unwrap();
    let mut sigma = Sigma::load(&[folder.path().to_owned()]);
    let reloader = sigma.reloader();
    for round in 0..8 {
        let begun = round * 1_000;
        assert_eq!(
            fired(&mut sigma, &failed(begun, "a", "192.0.2.1")),
            Vec::<String>::new()
        );
        std::fs::write(
            folder.path().join("a.yml"),
            text(&format!("description: read {round} times\n")),
        )
        .unwrap();
        reloader.reload();
        assert_eq!(
            fired(&mut sigma, &failed(begun + 1, "a", "192.0.2.1")),
            ["Many"],
            "round {round}"
        );
    }
    // Another timespan is another correlation.
    assert_eq!(
        fired(&mut sigma, &failed(90_000, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
    std::fs::write(folder.path().join("a.yml"), text("").replace("60s", "61s")).unwrap();
    reloader.reload();
    assert_eq!(
        fired(&mut sigma, &failed(90_001, "a", "192.0.2.1")),
        Vec::<String>::new()
    );
}

#[test]
fn groups_are_bounded_and_the_quiet_ones_make_room() {
    let mut sigma = sigma(&with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 1h\n  condition: {gte: 2}\n",
    ));
    for number in 0..10_000 {
        assert_eq!(
            fired(&mut sigma, &failed(number / 10, "a", &format!("host-{number}"))),
            Vec::<String>::new()
        );
    }
    assert!(
        sigma.windows[0].groups() <= 4_096,
        "{}",
        sigma.windows[0].groups()
    );
    assert_eq!(
        fired(&mut sigma, &failed(1_001, "a", "host-9999")),
        ["Many"],
        "the latest are kept"
    );
    assert_eq!(
        fired(&mut sigma, &failed(1_002, "a", "host-0")),
        Vec::<String>::new(),
        "the first is not"
    );
}

#[test]
fn matches_of_all_groups_are_bounded() {
    let mut sigma = sigma(&with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 7d\n  condition: {gte: 4000}\n",
    ));
    let mut fires = 0;
    for number in 0..20 * 4_000 {
        let host = format!("host-{}", number / 4_000);
        fires += fired(&mut sigma, &failed(number, "a", &host)).len();
        if number % 1_000 == 0 {
            assert!(sigma.windows[0].kept() <= 65_536, "{number}");
        }
    }
    assert_eq!(fires, 20, "those at work are not the ones that make room");
    assert!(
        sigma.windows[0].kept() > 32_768,
        "no more is forgotten than has to be"
    );
}

#[test]
fn filter_takes_from_the_rules_it_names() {
    let filter = "---\ntitle: Not the scanner\nlogsource: {product: linux}\n\
        filter:\n  rules: [failed]\n  sel: {ip: 192.0.2.9}\n  condition: not sel\n";
    let mut sigma = sigma(&format!("{}{filter}", FAILED.trim_end_matches("---\n")));
    assert_eq!(fired(&mut sigma, &failed(0, "a", "192.0.2.1")), ["Failed"]);
    assert_eq!(
        fired(&mut sigma, &failed(0, "a", "192.0.2.9")),
        Vec::<String>::new()
    );
    let accepted = line(0, &[("outcome", "accepted"), ("ip", "192.0.2.9")]);
    assert_eq!(
        fired(&mut sigma, &accepted),
        ["Accepted"],
        "only the rules that it names"
    );
    let listed = sigma
        .listing()
        .iter()
        .find(|rule| rule.title == "Not the scanner")
        .unwrap();
    assert_eq!(listed.state, RuleState::Loaded);
}

#[test]
fn filter_without_a_log_source_silences_nothing() {
    for source in [
        "",
        "logsource: {catgory: process_creation}\n",
        "logsource: {product: }\n",
    ] {
        let filter = format!(
            "---\ntitle: Everything\n{source}filter:\n  rules: any\n  sel: {{ip: 192.0.2.9}}\n  condition: not sel\n"
        );
        let mut sigma = sigma(&format!("{}{filter}", FAILED.trim_end_matches("---\n")));
        assert_eq!(fired(&mut sigma, &failed(0, "a", "192.0.2.9")), ["Failed"]);
        let listed = sigma.listing().iter().find(|rule| rule.title == "Everything");
        assert!(
            matches!(&listed.unwrap().state, RuleState::Broken(reason) if reason.contains("'logsource'")),
            "{listed:?}"
        );
    }
}

#[test]
fn late_matches_spoil_no_group() {
    let mut sigma = sigma(&with(
        "  type: event_count\n  rules: [failed]\n  group-by: [ip]\n  timespan: 60s\n  condition: {gte: 10}\n",
    ));
    for second in 0..9 {
        assert_eq!(
            fired(&mut sigma, &failed(10_000 + second, "a", "192.0.2.1")),
            Vec::<String>::new()
        );
    }
    for minute in 0..8 {
        assert_eq!(
            fired(&mut sigma, &failed(minute * 300, "a", "192.0.2.1")),
            Vec::<String>::new()
        );
    }
    assert_eq!(fired(&mut sigma, &failed(10_010, "a", "192.0.2.1")), ["Many"]);
    // With all places taken one late match makes room for itself, and no more than that.
    for number in 0..5_000 {
        fired(&mut sigma, &failed(20_000, "a", &format!("host-{number}")));
    }
    let before = sigma.windows[0].groups();
    fired(&mut sigma, &failed(0, "a", "late"));
    assert!(
        sigma.windows[0].groups() + 600 > before,
        "{before} {}",
        sigma.windows[0].groups()
    );
}

#[test]
fn collection_shares_what_is_global() {
    let text = "action: global\nlogsource: {product: linux, service: sshd}\nlevel: low\n---\n\
        title: One\ndetection: {sel: {outcome: one}, condition: sel}\n---\n\
        title: Two\ndetection: {sel: {outcome: two}, condition: sel}\n---\n\
        action: repeat\ntitle: Three\ndetection: {sel: {outcome: three}}\n";
    let mut sigma = sigma(text);
    for (outcome, title) in [("one", "One"), ("two", "Two"), ("three", "Three")] {
        assert_eq!(fired(&mut sigma, &line(0, &[("outcome", outcome)])), [title]);
    }
}
