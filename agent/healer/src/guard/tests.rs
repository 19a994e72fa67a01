mod fixture;
mod properties;

use std::path::{Path, PathBuf};

use fleetmend_event::ActionId;
use fleetmend_event::remedy::{Ending, ProcessRef};

use self::fixture::*;
use super::*;
use crate::history::Attempt;
use crate::policy::{Breaker, HostScope, Limits, Place, ProcessScope};

#[test]
fn a_granted_remedy_on_a_target_in_scope_is_done() {
    assert_eq!(Case::good().decide(), Decision::Act(throttle_grant()));
}

#[test]
fn each_guard_objects_in_its_turn() {
    let cases: Vec<(Guard, Case)> = vec![
        (
            Guard::KillSwitch,
            Case {
                stopped: Some("stop file".to_owned()),
                ..Case::good()
            },
        ),
        (Guard::Plan, {
            let mut case = Case::good();
            case.proposal.not_after = NOW;
            case
        }),
        (Guard::Plan, {
            let mut case = Case::good();
            case.proposal.finding.pid = Some(1);
            case
        }),
        (Guard::Plan, {
            let mut case = Case::good();
            case.proposal.finding.state = FindingState::Resolved;
            case
        }),
        (Guard::Plan, {
            let mut case = Case::good();
            case.proposal.finding.rule = "host-anomaly".to_owned();
            case
        }),
        (
            Guard::Sight,
            Case {
                sight: Sight::Unseen("gone".to_owned()),
                ..Case::good()
            },
        ),
        (
            Guard::NotApplicable,
            Case {
                sight: Sight::NotApplicable("no".to_owned()),
                ..Case::good()
            },
        ),
        (
            Guard::Grant,
            Case {
                policy: Some(policy(Mode::Enforce, Vec::new())),
                ..Case::good()
            },
        ),
        (
            Guard::Scope,
            Case {
                sight: process("/usr/bin/stress", "/demonstration"),
                ..Case::good()
            },
        ),
        (
            Guard::Scope,
            Case {
                sight: process("/usr/bin/stress", "/"),
                ..Case::good()
            },
        ),
        (
            Guard::Protected,
            Case {
                sight: process("/usr/sbin/sshd", "/demo"),
                ..Case::good()
            },
        ),
        (
            Guard::CoolDown,
            Case::good().tried(&[(ago(59), Some(Ending::Healed))]),
        ),
        (
            Guard::CoolDown,
            Case::good().tried(&[(ago(-500), Some(Ending::Healed))]),
        ),
        (
            Guard::Attempts,
            Case::good().tried(&[(ago(300), None), (ago(200), None), (ago(100), None)]),
        ),
        (Guard::InFlight, {
            let case = Case::good();
            Case {
                in_flight: vec![case.sight.target_key()],
                ..case
            }
        }),
    ];
    for (guard, case) in cases {
        assert_eq!(case.guard(), Some(guard), "{:?}", case.decide());
    }
}

#[test]
fn what_cannot_be_undone_needs_its_word_in_the_grant() {
    let process_ref = ProcessRef {
        pid: 4711,
        start_boot_ns: 10_000_000,
        comm: "stress".to_owned(),
    };
    let mut case = Case {
        proposal: proposal(Remedy::KillProcess { process: process_ref }),
        ..Case::good()
    };
    case.policy = Some(policy(Mode::Enforce, vec![kill_grant(false)]));
    assert_eq!(case.guard(), Some(Guard::Grant));
    case.policy = Some(policy(Mode::Enforce, vec![kill_grant(true)]));
    assert_eq!(case.decide(), Decision::Act(kill_grant(true)));
}

#[test]
fn the_breaker_opens_after_failures_and_closes_again() {
    let failed = Some(Ending::FailedSafe);
    let mut case = Case::good().tried(&[
        (ago(1200), failed),
        (ago(800), Some(Ending::Reverted)),
        (ago(700), failed),
    ]);
    if let Some(policy) = &mut case.policy {
        policy.grants = vec![match throttle_grant() {
            Grant::ThrottleProcess {
                scope,
                cpu_core_pct_floor,
                hold_s,
                limits,
            } => {
                let limits = Limits {
                    attempts_max: 100,
                    ..limits
                };
                Grant::ThrottleProcess {
                    scope,
                    cpu_core_pct_floor,
                    hold_s,
                    limits,
                }
            }
            other => other,
        }];
        policy.breaker.open_s = 701;
    }
    assert_eq!(case.guard(), Some(Guard::Breaker));
    if let Some(policy) = &mut case.policy {
        policy.breaker.open_s = 699;
    }
    assert!(matches!(case.decide(), Decision::Act(_)));
    // Open for longer than its window: the first failures are out of that by now, and still it is open.
    if let Some(policy) = &mut case.policy {
        (policy.breaker.window_s, policy.breaker.open_s) = (500, 900);
    }
    assert_eq!(case.guard(), Some(Guard::Breaker));
}

#[test]
fn what_was_tried_while_the_clock_ran_ahead_counts_from_when_that_was_found_out() {
    let mut case = Case::good().tried(&[(ago(-1_000_000), Some(Ending::Healed))]);
    assert_eq!(case.guard(), Some(Guard::CoolDown));
    case.history.set_back(ago(59));
    assert_eq!(case.guard(), Some(Guard::CoolDown));
    case.history.set_back(ago(61));
    assert!(matches!(case.decide(), Decision::Act(_)));
}

#[test]
fn the_host_budget_counts_every_remedy() {
    let mut case = Case::good();
    for index in 0..10 {
        let remedy = if index % 2 == 0 {
            "free-disk"
        } else {
            "kill-process"
        }
        .to_owned();
        let (action_id, target_key) = (ActionId::random(), format!("other-{index}"));
        case.history.begin(Attempt {
            action_id,
            time: ago(100 + index),
            remedy,
            target_key,
            ending: None,
        });
    }
    assert_eq!(case.guard(), Some(Guard::Budget));
}

#[test]
fn a_full_filesystem_may_be_the_root_but_no_protected_place_is_touched() {
    let mut case = Case {
        sight: folder("/"),
        ..Case::good()
    };
    case.proposal = proposal(Remedy::FreeDisk {
        path: "/".to_owned(),
        used_pct_target: 70,
    });
    for (place, expected) in [
        ("/var/tmp/cache", None),
        ("/etc/cron.d", Some(Guard::Protected)),
        ("/var", Some(Guard::Protected)),
    ] {
        case.policy = Some(policy(Mode::Enforce, vec![disk_grant(place)]));
        assert_eq!(case.guard(), expected, "{place}");
    }
    case.sight = folder("/mnt/data");
    case.proposal = proposal(Remedy::FreeDisk {
        path: "/mnt/data".to_owned(),
        used_pct_target: 70,
    });
    case.policy = Some(policy(Mode::Enforce, vec![disk_grant("/var/tmp/cache")]));
    assert_eq!(case.guard(), Some(Guard::Scope));
    assert!(places_for(&disk_grant("/mnt/database"), Path::new("/mnt/data")).is_empty());
}

#[test]
fn another_way_of_naming_a_target_does_not_make_it_another_one() {
    let names = ["/", "/var", "/var/cache", "/var//cache", "/var/./cache"];
    let keys: std::collections::BTreeSet<String> = names.map(|name| folder(name).target_key()).into();
    assert_eq!(keys.len(), 1, "one filesystem");
    let unit = |id: &str, aliases: &[&str]| {
        Sight::Unit(UnitNames {
            id: id.to_owned(),
            aliases: aliases.iter().map(|&name| name.to_owned()).collect(),
        })
    };
    let (own, alias) = (unit("shop.service", &[]), unit("shop.service", &["web.service"]));
    assert_eq!(own.target_key(), alias.target_key());

    // One protected name is enough, whichever it was asked for by.
    let restart = |unit: &str| {
        proposal(Remedy::RestartUnit {
            unit: unit.to_owned(),
        })
    };
    let granted = Grant::RestartUnit {
        units: vec!["*.service".to_owned()],
        limits: limits(),
    };
    for (asked, sight, expected) in [
        ("web.service", alias, None),
        (
            "remote.service",
            unit("ssh.service", &["remote.service"]),
            Some(Guard::Protected),
        ),
        (
            "remote.service",
            unit("remote.service", &["ssh.service"]),
            Some(Guard::Protected),
        ),
    ] {
        let case = Case {
            policy: Some(policy(Mode::Enforce, vec![granted.clone()])),
            proposal: restart(asked),
            sight,
            ..Case::good()
        };
        assert_eq!(case.guard(), expected, "{:?}", case.decide());
    }
}

#[test]
fn without_a_policy_with_an_expired_one_or_in_observe_mode_it_only_observes() {
    let without = Case {
        policy: None,
        ..Case::good()
    };
    assert!(matches!(without.decide(), Decision::Observe { grant: None, .. }));
    let mut expired = Case::good();
    if let Some(policy) = &mut expired.policy {
        policy.not_after = NOW;
    }
    assert!(matches!(
        expired.decide(),
        Decision::Observe { grant: Some(_), .. }
    ));
    let observing = Case {
        policy: Some(policy(Mode::Observe, vec![throttle_grant()])),
        ..Case::good()
    };
    assert!(matches!(
        observing.decide(),
        Decision::Observe { grant: Some(_), .. }
    ));
}
