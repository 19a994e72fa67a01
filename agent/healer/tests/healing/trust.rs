//! Following the fleet root: whom the healer believes after a rotation, and what it refuses.

use std::path::PathBuf;

use fleetmend_healer::policy::Mode;
use fleetmend_identity::authority::{Rotated, Stage};
use fleetmend_identity::bundle::RootEntry;
use fleetmend_identity::{CollectorAuthority, Context, FleetRoot, Signed, TrustBundle};

use super::binary::{Program, Running};
use super::fixture::*;

/// A fleet whose collector rotates its root.
struct Rotating {
    fleet: Fleet,
    next: FleetRoot,
}

impl Rotating {
    /// The host is enrolled: root wrote the first bundle.
    fn new() -> Self {
        let fleet = Fleet::new();
        let name = "c1".parse().unwrap();
        let authority = CollectorAuthority::create(&fleet.path("authority"), &fleet.root, name).unwrap();
        let enrolled = fleet.path("trust-bundle.json");
        TrustBundle::write(&enrolled, authority.signed_bundle()).unwrap();
        let next = FleetRoot::in_memory(fleet.root.fleet().clone()).unwrap();
        Self { fleet, next }
    }

    /// Takes the stages of a rotation, and gives the bundle of each as a file.
    fn rotate(&self, with_root: bool, stages: &[Stage]) -> Vec<PathBuf> {
        let place = self.fleet.path("authority");
        let now = fleetmend_event::TimeMicros::now();
        let taken = |stage: &Stage| {
            let successor = with_root.then_some(&self.next);
            let rotated =
                CollectorAuthority::rotate(&place, *stage, &self.fleet.root, successor, now).unwrap();
            let Rotated::Done(version) = rotated else {
                panic!("{stage:?} had been taken before");
            };
            let path = self.fleet.path(&format!("bundle-{version}.json"));
            TrustBundle::write(&path, CollectorAuthority::open(&place).unwrap().signed_bundle()).unwrap();
            path
        };
        stages.iter().map(taken).collect()
    }

    /// A policy of that version in a file, signed by a root.
    fn policy(&self, version: u64, root: &FleetRoot) -> PathBuf {
        let policy = self
            .fleet
            .policy(version, Mode::Enforce, vec![throttle_grant("/demo")]);
        let path = self.fleet.path(&format!("policy-{version}.signed"));
        let envelope = root.sign(Context::Policy, &policy).unwrap().to_bytes().unwrap();
        std::fs::write(&path, envelope).unwrap();
        path
    }
}

const ROTATION: [Stage; 3] = [Stage::Introduce, Stage::Switch, Stage::Retire];

fn refused(program: &Program, arguments: &[&str]) -> String {
    let output = program.output(arguments);
    assert!(!output.status.success(), "{arguments:?} was believed");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn advance(program: &Program, bundle: &std::path::Path) -> String {
    program.says(&["trust", "advance", bundle.to_str().unwrap()])
}

#[test]
fn a_new_root_is_followed_over_the_bundles_between_and_without_enrolling_anew() {
    let scene = Rotating::new();
    let program = Program::new(&scene.fleet, "");
    let running = Running::start(&program);
    let install = |policy: &PathBuf| program.output(&["policy", "install", policy.to_str().unwrap()]);
    let (old, new) = (scene.policy(1, &scene.fleet.root), scene.policy(2, &scene.next));
    assert!(install(&old).status.success());
    assert!(program.says(&["status"]).contains("bundle 1\n"));
    let [introduce, switch, retire] = scene.rotate(true, &ROTATION).try_into().unwrap();

    assert!(!install(&new).status.success(), "nobody told it of the new root");
    let said = refused(&program, &["trust", "advance", switch.to_str().unwrap()]);
    assert!(said.contains("not trusted"), "without what lies between: {said}");
    assert!(advance(&program, &introduce).contains("bundle 2\n"));
    assert!(
        advance(&program, &introduce).contains("bundle 2\n"),
        "once more changes nothing"
    );
    assert!(install(&new).status.success());
    assert!(advance(&program, &switch).contains("bundle 3\n"));
    assert!(advance(&program, &retire).contains("bundle 4\n"));

    for older in [&introduce, &switch] {
        refused(&program, &["trust", "advance", older.to_str().unwrap()]);
    }
    let old_again = scene.policy(3, &scene.fleet.root);
    assert!(!install(&old_again).status.success(), "the old root is retired");
    let status = program.says(&["status"]);
    assert!(
        status.contains("enforce") && status.contains("bundle 4\n"),
        "{status}"
    );
    assert!(program.says(&["policy", "show"]).contains("\"version\": 2"));

    // All of it lies in files: another start, after a kill, stands where this one stood.
    running.kill();
    let _running = Running::start(&program);
    let status = program.says(&["status"]);
    assert!(
        status.contains("enforce") && status.contains("bundle 4\n"),
        "{status}"
    );
    assert!(!install(&old_again).status.success());
    let ledger = std::fs::read_to_string(scene.fleet.path("state/ledger.jsonl")).unwrap();
    assert!(ledger.contains("trust bundle 4 taken over"), "{ledger}");
}

#[test]
fn a_policy_of_a_retired_root_is_in_force_no_longer() {
    let scene = Rotating::new();
    let healer = scene.fleet.healer();
    let old = std::fs::read(scene.policy(1, &scene.fleet.root)).unwrap();
    healer.install_policy(&old).unwrap();
    for bundle in scene.rotate(true, &ROTATION) {
        assert_eq!(healer.status().mode, "enforce");
        healer.advance_trust(&std::fs::read(bundle).unwrap()).unwrap();
    }
    assert_eq!(
        (healer.status().mode.as_str(), healer.status().policy_version),
        ("observe", 0)
    );
    let new = std::fs::read(scene.policy(1, &scene.next)).unwrap();
    healer.install_policy(&new).unwrap();
    assert_eq!(healer.status().mode, "enforce");
}

#[test]
fn forged_foreign_and_replayed_bundles_change_nothing() {
    let scene = Rotating::new();
    let healer = scene.fleet.healer();
    let first = std::fs::read(scene.fleet.path("trust-bundle.json")).unwrap();
    let (_, genuine) = TrustBundle::read(&scene.fleet.path("trust-bundle.json")).unwrap();
    let forger = FleetRoot::in_memory(scene.fleet.root.fleet().clone()).unwrap();
    let entry = RootEntry {
        certificate: forger.certificate().to_vec(),
        key: forger.public(),
    };
    let mut forged = genuine.clone();
    forged.version = 2;
    forged.roots.push(entry.clone());
    let signed_by = |root: &FleetRoot, bundle: &TrustBundle| {
        root.sign(Context::Bundle, bundle).unwrap().to_bytes().unwrap()
    };
    let mut of_another_fleet = genuine.clone();
    of_another_fleet.version = 2;
    of_another_fleet.fleet = "other".parse().unwrap();
    let mut same_version = genuine.clone();
    same_version.roots.push(entry);
    let as_policy = scene.fleet.root.sign(Context::Policy, &forged).unwrap();
    let relabelled = String::from_utf8(as_policy.to_bytes().unwrap()).unwrap();
    let relabelled = relabelled.replace("\"policy\"", "\"bundle\"");
    let mut changed: serde_json::Value =
        serde_json::from_slice(&signed_by(&scene.fleet.root, &forged)).unwrap();
    changed["signature"] = changed["signature"]
        .as_str()
        .unwrap()
        .replacen(|_: char| true, "B", 2)
        .into();
    let bad = [
        ("signed by its own root alone", signed_by(&forger, &forged)),
        (
            "of another fleet",
            signed_by(&scene.fleet.root, &of_another_fleet),
        ),
        (
            "another one of the same version",
            signed_by(&scene.fleet.root, &same_version),
        ),
        ("signed as something else", relabelled.into_bytes()),
        (
            "changed after it was signed",
            serde_json::to_vec(&changed).unwrap(),
        ),
        ("no document", b"\xff[]".to_vec()),
    ];
    for (what, bundle) in &bad {
        assert!(healer.advance_trust(bundle).is_err(), "{what}");
        assert_eq!(healer.status().bundle_version, Some(1), "{what}");
    }
    assert!(!scene.fleet.path("state/trust-chain.json").exists());
    // A chain that begins well and goes on with a forgery stays where it was good.
    let [introduce, switch, retire] = scene.rotate(true, &ROTATION).try_into().unwrap();
    healer.advance_trust(&std::fs::read(&introduce).unwrap()).unwrap();
    forged.version = 9;
    assert!(healer.advance_trust(&signed_by(&forger, &forged)).is_err());
    for bundle in [switch, retire] {
        healer.advance_trust(&std::fs::read(bundle).unwrap()).unwrap();
    }
    // The retired root may be in anybody's hands: it signs nothing any more.
    assert!(
        healer
            .advance_trust(&signed_by(&scene.fleet.root, &forged))
            .is_err()
    );
    assert!(
        healer.advance_trust(&first).is_err(),
        "the bundle of enrolment, again"
    );
    assert_eq!(healer.status().bundle_version, Some(4));
}

#[test]
fn what_is_kept_is_short_and_a_new_enrolment_counts_by_itself() {
    let scene = Rotating::new();
    let healer = scene.fleet.healer();
    for _ in 0..5 {
        for bundle in scene.rotate(false, &ROTATION) {
            healer.advance_trust(&std::fs::read(bundle).unwrap()).unwrap();
        }
    }
    for bundle in scene.rotate(true, &ROTATION) {
        healer.advance_trust(&std::fs::read(bundle).unwrap()).unwrap();
    }
    assert_eq!(healer.status().bundle_version, Some(19));
    let kept = std::fs::read(scene.fleet.path("state/trust-chain.json")).unwrap();
    let kept: Vec<Signed<TrustBundle>> = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept.len(), 2, "one for the change of root, and the newest");
    drop(healer);
    assert_eq!(scene.fleet.healer().status().bundle_version, Some(19));

    // Enrolled into another fleet: what was followed in the one before has no part in it.
    let other = FleetRoot::in_memory("other".parse().unwrap()).unwrap();
    let authority = CollectorAuthority::in_memory(&other, "c1".parse().unwrap()).unwrap();
    TrustBundle::write(&scene.fleet.path("trust-bundle.json"), authority.signed_bundle()).unwrap();
    let healer = scene.fleet.healer();
    assert_eq!(healer.status().bundle_version, Some(1));
    let policy = std::fs::read(scene.policy(1, &scene.next)).unwrap();
    assert!(healer.install_policy(&policy).is_err());
}

#[test]
fn a_damaged_chain_is_no_way_back_to_older_keys() {
    let scene = Rotating::new();
    let healer = scene.fleet.healer();
    for bundle in scene.rotate(true, &ROTATION) {
        healer.advance_trust(&std::fs::read(bundle).unwrap()).unwrap();
    }
    std::fs::write(scene.fleet.path("state/trust-chain.json"), "[").unwrap();
    let old = std::fs::read(scene.policy(1, &scene.fleet.root)).unwrap();
    let error = healer.install_policy(&old).unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");
    drop(healer);
    let program = Program::new(&scene.fleet, "");
    let said = refused(&program, &["check"]);
    assert!(
        said.contains("trust-chain.json") && said.contains("enrol this host anew"),
        "{said}"
    );
}
