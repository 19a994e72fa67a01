//! Runaway processes.

use std::time::Duration;

use fleetmend_event::remedy::{Ending, ProcessRef};
use fleetmend_event::table::ActionStage;
use fleetmend_healer::ledger::Ledger;
use fleetmend_healer::policy::{Grant, Mode};

use super::fixture::*;

#[test]
fn a_hog_is_throttled_verified_and_released_in_time() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    let action = throttle(&hog.process(), 2);
    let action_id = action.action_id;
    let steps = heal(&healer, action);
    assert_eq!(stages(&steps), HEALED, "{steps:#?}");
    assert_eq!(ending(&steps), Some(Ending::Healed));
    let used = |json: &str| {
        serde_json::from_str::<serde_json::Value>(json).unwrap()["cpu_core_pct"]
            .as_f64()
            .unwrap()
    };
    let last = steps.last().unwrap();
    assert!(used(&last.before) >= 8.0 && used(&last.after) <= 8.0, "{last:#?}");
    assert!(
        hog.group()
            .starts_with(&format!("{}/fleetmend-throttle-", hog.cgroup)),
        "{}",
        hog.group()
    );
    assert!(hog.cpu_core_pct() < 8.0);

    healer.tick();
    assert_ne!(hog.group(), hog.cgroup, "released before its time");
    fleet.clock.advance(Duration::from_secs(601));
    healer.tick();
    assert_eq!(hog.group(), hog.cgroup);
    assert!(hog.groups_below().is_empty());
    let last = super::fixture::steps(&healer, action_id).pop().unwrap();
    assert_eq!(
        (last.stage, last.ending),
        (ActionStage::Undone, Some(Ending::Healed))
    );
    assert!(
        last.reason.contains("under a limit of") && last.reason.contains("the limit is taken off"),
        "it keeps what healed: {}",
        last.reason
    );
    assert!(Ledger::verify(&fleet.options().ledger_file()).unwrap().entries >= 8);
}

#[test]
fn a_second_throttle_of_the_same_process_is_refused_and_an_ended_one_is_cleared_away() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    assert_eq!(
        ending(&heal(&healer, throttle(&hog.process(), 2))),
        Some(Ending::Healed)
    );
    let again = heal(&healer, throttle(&hog.process(), 2));
    assert!(
        again.last().unwrap().reason.contains("throttled already"),
        "{again:#?}"
    );
    assert_eq!(hog.groups_below().len(), 1);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(hog.process().pid).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !hog.groups_below().is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "group is still there: {:?}",
            hog.groups_below()
        );
        healer.tick();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_idle_process_that_is_said_to_run_away_is_left_alone() {
    let fleet = Fleet::new();
    let mut idle = Hog::running("while :; do sleep 5; done");
    let healer = fleet.enforcing(vec![throttle_grant(&idle.cgroup), kill_grant(&idle.cgroup)]);
    for action in [throttle(&idle.process(), 2), kill(&idle.process())] {
        let steps = heal(&healer, action);
        let refused = steps
            .iter()
            .find(|step| step.stage == ActionStage::Refused)
            .unwrap();
        assert!(
            refused
                .reason
                .starts_with("precondition: what the finding says does not hold"),
            "{}",
            refused.reason
        );
        assert_eq!(ending(&steps), Some(Ending::NoOp));
        assert!(!stages(&steps).contains(&ActionStage::Applied));
    }
    assert!(idle.runs() && idle.groups_below().is_empty());
}

#[test]
fn a_process_that_is_not_the_one_that_was_meant_is_never_touched() {
    let fleet = Fleet::new();
    let mut hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup), kill_grant(&hog.cgroup)]);
    let process = hog.process();
    let reused = ProcessRef {
        start_boot_ns: process.start_boot_ns - 50_000_000,
        ..process.clone()
    };
    let gone = ProcessRef {
        pid: 4_194_300,
        ..process
    };
    for action in [
        throttle(&reused, 2),
        kill(&reused),
        throttle(&gone, 2),
        kill(&gone),
    ] {
        let steps = heal(&healer, action);
        assert_eq!(stages(&steps), [ActionStage::Proposed, ActionStage::Refused]);
        assert!(steps[1].reason.starts_with("sight: "), "{}", steps[1].reason);
    }
    assert!(hog.runs() && hog.group() == hog.cgroup);
}

#[test]
fn a_hog_is_ended_even_when_it_ignores_sigterm() {
    let fleet = Fleet::new();
    let mut hog = Hog::running("trap '' TERM; while :; do :; done");
    let healer = fleet.enforcing(vec![kill_grant(&hog.cgroup)]);
    // The shell needs a moment to set its trap; the measurement before the signal gives it that.
    let steps = heal(&healer, kill(&hog.process()));
    assert_eq!(stages(&steps), HEALED, "{steps:#?}");
    assert_eq!(ending(&steps), Some(Ending::Healed));
    assert!(!hog.runs());
}

#[test]
fn a_kill_that_was_not_granted_for_good_is_refused() {
    let fleet = Fleet::new();
    let mut hog = Hog::busy();
    let void = match kill_grant(&hog.cgroup) {
        Grant::KillProcess {
            scope,
            grace_s,
            limits,
            ..
        } => Grant::KillProcess {
            scope,
            irreversible_allowed: false,
            grace_s,
            limits,
        },
        other => other,
    };
    for grants in [
        vec![void],
        vec![throttle_grant(&hog.cgroup)],
        vec![kill_grant("/elsewhere")],
    ] {
        let fleet = Fleet::new();
        let steps = heal(&fleet.enforcing(grants), kill(&hog.process()));
        assert_eq!(
            stages(&steps),
            [ActionStage::Proposed, ActionStage::Refused],
            "{steps:#?}"
        );
    }
    assert_eq!(fleet.healer().status().policy_version, 0);
    assert!(hog.runs());
}

#[test]
fn in_observe_mode_and_without_a_policy_it_says_what_it_would_do_and_does_nothing() {
    let mut hog = Hog::busy();
    for mode in [Some(Mode::Observe), None] {
        let fleet = Fleet::new();
        let healer = fleet.healer();
        if let Some(mode) = mode {
            let grants = vec![throttle_grant(&hog.cgroup), kill_grant(&hog.cgroup)];
            healer
                .install_policy(&fleet.envelope(&fleet.policy(1, mode, grants)))
                .unwrap();
        }
        assert_eq!(healer.status().mode, "observe");
        for (action, words) in [
            (throttle(&hog.process(), 50), "limit it to 50 %"),
            (kill(&hog.process()), "SIGTERM"),
        ] {
            // Without a policy the default threshold holds, which a shared machine may not reach.
            let steps = heal(&healer, action);
            let last = steps.last().unwrap();
            let measured: serde_json::Value = serde_json::from_str(&last.before).unwrap();
            if mode.is_some() || measured["cpu_core_pct"].as_f64().unwrap() >= 50.0 {
                assert_eq!(last.stage, ActionStage::WouldAct, "{steps:#?}");
                assert!(
                    last.reason.contains("would ") && last.reason.contains(words),
                    "{}",
                    last.reason
                );
            }
            assert!(!stages(&steps).contains(&ActionStage::Journalled));
        }
    }
    assert!(hog.runs() && hog.group() == hog.cgroup && hog.groups_below().is_empty());
}

#[test]
fn the_stop_switch_stops_acting_until_it_is_taken_away() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    healer.set_stopped(true).unwrap();
    assert!(healer.status().stopped);
    let steps = heal(&healer, throttle(&hog.process(), 2));
    assert!(
        steps.last().unwrap().reason.starts_with("kill-switch: "),
        "{steps:#?}"
    );
    assert_eq!(hog.group(), hog.cgroup);
    healer.set_stopped(false).unwrap();
    assert_eq!(
        ending(&heal(&healer, throttle(&hog.process(), 2))),
        Some(Ending::Healed)
    );
    // Proposing what is known decides nothing anew.
    let action = throttle(&hog.process(), 2);
    let (first, _) = healer.propose(action.clone());
    let (second, job) = healer.propose(action);
    assert!(job.is_none() && first == second, "{first:?} {second:?}");
}

#[test]
fn a_unit_is_not_restarted_where_systemd_does_not_run() {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        // With systemd the remedy is applicable; what it does there is tested in the virtual machine.
        return;
    }
    let fleet = Fleet::new();
    let units = Grant::RestartUnit {
        units: vec!["shop.service".to_owned()],
        limits: limits(),
    };
    let healer = fleet.enforcing(vec![units]);
    let steps = heal(&healer, restart("shop.service"));
    assert_eq!(stages(&steps), [ActionStage::Proposed, ActionStage::Refused]);
    assert!(
        steps[1]
            .reason
            .starts_with("not-applicable: systemd is not running"),
        "{}",
        steps[1].reason
    );
    let support = healer.status().remedies;
    let applicable = |name: &str| support.iter().find(|row| row.remedy == name).unwrap().applicable;
    assert!(applicable("throttle-process") && applicable("kill-process") && applicable("free-disk"));
    assert!(!applicable("restart-unit"));
}

#[test]
fn a_peer_is_never_a_target_while_it_is_connected() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    healer.protect(hog.process().pid);
    let steps = heal(&healer, throttle(&hog.process(), 2));
    assert!(
        steps.last().unwrap().reason.starts_with("protected: "),
        "{steps:#?}"
    );
    healer.unprotect(hog.process().pid);
    assert_eq!(
        ending(&heal(&healer, throttle(&hog.process(), 2))),
        Some(Ending::Healed)
    );
}
