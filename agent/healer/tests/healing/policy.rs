//! Policies: who may write one, and which of two counts.

use std::time::Duration;

use fleetmend_event::HostId;
use fleetmend_event::table::ActionStage;
use fleetmend_healer::policy::{HostScope, InstallError, Mode, Policy};
use fleetmend_identity::{Context, FleetRoot};

use super::fixture::*;

fn installed(fleet: &Fleet, policy: &Policy) -> Result<(), InstallError> {
    fleet.healer().install_policy(&fleet.envelope(policy))
}

#[test]
fn only_the_root_of_this_fleet_makes_a_policy() {
    let fleet = Fleet::new();
    let policy = fleet.policy(1, Mode::Enforce, vec![throttle_grant("/demo")]);
    let other = FleetRoot::create(&fleet.path("other"), "test-fleet".parse().unwrap()).unwrap();
    let healer = fleet.healer();
    let foreign = other.sign(Context::Policy, &policy).unwrap().to_bytes().unwrap();
    assert!(matches!(
        healer.install_policy(&foreign),
        Err(InstallError::Signature(_))
    ));
    let for_something_else = fleet
        .root
        .sign(Context::Order, &policy)
        .unwrap()
        .to_bytes()
        .unwrap();
    assert!(matches!(
        healer.install_policy(&for_something_else),
        Err(InstallError::Signature(_))
    ));
    let good = String::from_utf8(fleet.envelope(&policy)).unwrap();
    let position = good.find("\"payload\":\"").unwrap() + 40;
    let mut changed = good.clone().into_bytes();
    changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
    assert!(healer.install_policy(&changed).is_err());
    assert!(healer.install_policy(b"\xff{}").is_err());
    assert!(
        healer
            .install_policy(serde_json::to_string(&policy).unwrap().as_bytes())
            .is_err(),
        "unsigned"
    );
    assert_eq!(healer.status().policy_version, 0);
    healer.install_policy(good.as_bytes()).unwrap();
    assert_eq!(
        (healer.status().policy_version, healer.status().mode.as_str()),
        (1, "enforce")
    );
}

#[test]
fn an_older_policy_is_refused_also_after_a_restart_and_when_its_file_is_put_back() {
    let fleet = Fleet::new();
    installed(
        &fleet,
        &fleet.policy(3, Mode::Enforce, vec![throttle_grant("/demo")]),
    )
    .unwrap();
    let third = std::fs::read(fleet.path("state/policy.json")).unwrap();
    let older = installed(&fleet, &fleet.policy(2, Mode::Enforce, Vec::new()));
    assert!(
        matches!(
            older,
            Err(InstallError::Older {
                found: 2,
                installed: 3
            })
        ),
        "{older:?}"
    );
    let twin = installed(&fleet, &fleet.policy(3, Mode::Enforce, Vec::new()));
    assert!(matches!(twin, Err(InstallError::SameVersion(3))), "{twin:?}");
    fleet.healer().install_policy(&third).unwrap();
    installed(&fleet, &fleet.policy(4, Mode::Observe, Vec::new())).unwrap();
    std::fs::write(fleet.path("state/policy.json"), &third).unwrap();
    let healer = fleet.healer();
    assert_eq!(
        (healer.status().policy_version, healer.status().mode.as_str()),
        (0, "observe")
    );
}

#[test]
fn an_expired_policy_only_observes_and_setting_the_clock_back_does_not_help() {
    let fleet = Fleet::new();
    let mut hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    fleet.clock.advance(Duration::from_secs(3700));
    assert_eq!(healer.status().mode, "observe");
    let mut action = throttle(&hog.process(), 2);
    action.not_after = action.not_after.plus_millis(3_800_000);
    let steps = heal(&healer, action.clone());
    assert_eq!(steps.last().unwrap().stage, ActionStage::WouldAct, "{steps:#?}");
    assert!(steps.last().unwrap().reason.contains("expired"));
    drop(healer);
    fleet.clock.set_back(Duration::from_secs(3700));
    assert_eq!(fleet.healer().status().mode, "observe");
    assert!(hog.runs() && hog.group() == hog.cgroup);
}

#[test]
fn a_clock_that_ran_ahead_is_forgotten_when_root_says_so() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    let years = Duration::from_secs(10 * 365 * 24 * 3600);
    fleet.clock.advance(years);
    heal(&healer, throttle(&hog.process(), 2));
    drop(healer);
    fleet.clock.set_back(years);
    let healer = fleet.healer();
    healer.tick();
    assert_eq!(healer.status().mode, "observe");
    std::fs::write(fleet.options().accept_clock_file(), "").unwrap();
    healer.tick();
    assert!(!fleet.options().accept_clock_file().exists());
    assert_eq!(healer.status().mode, "enforce");
    drop(healer);
    let healer = fleet.healer();
    assert_eq!(healer.status().mode, "enforce");
    let steps = heal(&healer, throttle(&hog.process(), 2));
    assert_eq!(stages(&steps), HEALED, "{steps:#?}");
}

#[test]
fn a_policy_for_other_hosts_or_for_nobody_is_refused() {
    let fleet = Fleet::new();
    let with = |scope| Policy {
        scope,
        ..fleet.policy(1, Mode::Enforce, Vec::new())
    };
    let other_host = with(HostScope::Hosts {
        hosts: vec![HostId::random()],
    });
    assert!(matches!(
        installed(&fleet, &other_host),
        Err(InstallError::Scope(_))
    ));
    let nobody = with(HostScope::Hosts { hosts: Vec::new() });
    assert!(matches!(
        installed(&fleet, &nobody),
        Err(InstallError::Content(_))
    ));
    let other_fleet = with(HostScope::Fleet {
        fleet: "another".parse().unwrap(),
    });
    assert!(matches!(
        installed(&fleet, &other_fleet),
        Err(InstallError::Scope(_))
    ));
    installed(
        &fleet,
        &with(HostScope::Fleet {
            fleet: "test-fleet".parse().unwrap(),
        }),
    )
    .unwrap();
}

#[test]
fn what_could_be_read_as_everything_is_refused() {
    let fleet = Fleet::new();
    let good = fleet.policy(1, Mode::Enforce, vec![throttle_grant("/demo")]);
    assert_eq!(good.fault(), None);
    let text = serde_json::to_string(&good).unwrap();
    for (from, to) in [
        ("\"cgroup_prefixes\":[\"/demo\"]", "\"cgroup_prefixes\":[]"),
        ("\"cgroup_prefixes\":[\"/demo\"]", "\"cgroup_prefixes\":[\"\"]"),
        ("\"cpu_core_pct_min\":8", "\"cpu_core_pct_min\":0"),
        ("\"cpu_core_pct_floor\":1", "\"cpu_core_pct_floor\":0"),
        ("\"hold_s\":600", "\"hold_s\":18446744073709551615"),
        ("\"verify_deadline_s\":10", "\"verify_deadline_s\":86400"),
        ("\"format\":1", "\"format\":2"),
        ("\"attempts_max\":50", "\"attempts_max\":0"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        let bad: Policy = serde_json::from_str(&text.replace(from, to)).unwrap();
        assert!(bad.fault().is_some(), "{to}");
    }
    let unknown = text.replace("\"format\":1", "\"format\":1,\"allow_everything\":true");
    assert!(serde_json::from_str::<Policy>(&unknown).is_err());
    let unknown = text.replace("\"hold_s\":", "\"hold\":1,\"hold_s\":");
    assert!(
        serde_json::from_str::<Policy>(&unknown).is_err(),
        "also within a grant"
    );
}

#[test]
fn a_trust_bundle_that_others_may_change_keeps_the_healer_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new();
    let bundle = fleet.path("trust-bundle.json");
    std::fs::set_permissions(&bundle, std::fs::Permissions::from_mode(0o666)).unwrap();
    let open = || {
        let host = fleetmend_healer::remedy::Host::here();
        let never = std::sync::Arc::new(fleetmend_healer::interrupt::Never);
        fleetmend_healer::engine::Healer::open(fleet.options(), host, fleet.clock.clone(), never).map(drop)
    };
    assert!(open().is_err());
    std::fs::set_permissions(&bundle, std::fs::Permissions::from_mode(0o644)).unwrap();
    open().unwrap();
    std::os::unix::fs::chown(&bundle, Some(65534), None).unwrap();
    assert!(open().is_err(), "a file of another user is not root's word");
}

#[test]
fn a_broken_ledger_stops_everything_and_says_so() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    drop(fleet.enforcing(vec![throttle_grant(&hog.cgroup)]));
    let path = fleet.options().ledger_file();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("installed", "instAlled", 1)).unwrap();
    let healer = fleet.healer();
    assert!(healer.status().stopped);
    let (reply, job) = healer.propose(throttle(&hog.process(), 2));
    assert!(job.is_none());
    let said = format!("{reply:?}");
    assert!(
        said.contains("Refused") && said.contains("broken at entry"),
        "{said}"
    );
    assert_eq!(hog.group(), hog.cgroup);
    let here = fleetmend_healer::remedy::Host::here();
    let second = fleetmend_healer::engine::Healer::open(
        fleet.options(),
        here,
        fleet.clock.clone(),
        std::sync::Arc::new(fleetmend_healer::interrupt::Never),
    );
    assert!(second.is_err(), "two healers on one state");
}

#[test]
fn a_host_that_is_enrolled_while_the_healer_runs_can_take_a_policy() {
    let fleet = Fleet::new();
    let bundle = fleet.path("trust-bundle.json");
    let aside = fleet.path("aside.json");
    std::fs::rename(&bundle, &aside).unwrap();
    let healer = fleet.healer();
    let envelope = fleet.envelope(&fleet.policy(1, Mode::Enforce, vec![throttle_grant("/demo")]));
    assert!(matches!(
        healer.install_policy(&envelope),
        Err(InstallError::NoAnchors)
    ));
    std::fs::rename(&aside, &bundle).unwrap();
    healer.install_policy(&envelope).unwrap();
    assert_eq!(healer.status().policy_version, 1);
}

#[test]
fn a_journal_record_that_cannot_be_read_is_said_and_stops_nothing_else() {
    let fleet = Fleet::new();
    drop(fleet.healer());
    for content in [&b""[..], b"{\"format\":1", b"\xff\xff"] {
        std::fs::write(
            fleet.path("state/journal/01a1fcdf-d773-7092-ab67-2404ecaa2af0.json"),
            content,
        )
        .unwrap();
        let healer = fleet.healer();
        let entries = healer.page(0).unwrap().read().unwrap();
        let last = &entries.last().unwrap().0.body;
        assert!(last.contains("journal record cannot be read"), "{last}");
        assert!(!healer.status().stopped);
    }
}
