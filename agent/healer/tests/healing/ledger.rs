//! A ledger that cannot take the next entry, for now or for good.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use fleetmend_event::healer::HealerReply;
use fleetmend_event::remedy::{Ending, ProcessRef};
use fleetmend_event::table::ActionStage;
use fleetmend_healer::engine::{Healer, Options};
use fleetmend_healer::interrupt::{Interrupt, Interrupted};
use fleetmend_healer::ledger::Ledger;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fixture::*;

/// A state folder on a filesystem of 256 KiB.
struct SmallState(PathBuf);

impl SmallState {
    fn of(fleet: &Fleet) -> Self {
        let path = fleet.options().state_dir;
        std::fs::create_dir(&path).unwrap();
        let data = Some("size=256k,mode=700");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), data)
            .expect("mount a tmpfs (needs root)");
        Self(path)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let full = std::fs::write(self.filler(), vec![1_u8; 1 << 20]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(nix::libc::ENOSPC));
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallState {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A process that is not there: refused, with two entries.
fn nobody() -> ProcessRef {
    ProcessRef {
        pid: 4_194_300,
        start_boot_ns: 0,
        comm: "x".to_owned(),
    }
}

/// Proposes until nothing can be recorded any more.
fn until_refused(healer: &Healer) -> String {
    for _ in 0..50 {
        if let (HealerReply::Refused { reason }, None) = healer.propose(throttle(&nobody(), 20)) {
            return reason;
        }
    }
    panic!("the ledger still takes entries")
}

#[test]
fn a_disk_that_is_full_for_a_while_does_not_end_healing_for_good() {
    let fleet = Fleet::new();
    let disk = SmallState::of(&fleet);
    let healer = fleet.enforcing(vec![throttle_grant("/demo")]);
    disk.fill();
    let reason = until_refused(&healer);
    assert!(reason.contains("cannot be written"), "{reason}");
    disk.make_room();
    assert!(!healer.status().stopped);
    let steps = heal(&healer, throttle(&nobody(), 20));
    assert_eq!(stages(&steps), [ActionStage::Proposed, ActionStage::Refused]);
    let found = Ledger::verify(&fleet.options().ledger_file()).unwrap();
    assert_eq!(found.torn_bytes, 0);
}

/// Uses up the ledger when a transaction has come to this point.
struct UsesUp {
    point: &'static str,
    healer: OnceLock<Healer>,
}

impl Interrupt for UsesUp {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if let Some(healer) = self.healer.get().filter(|_| point == self.point) {
            until_refused(healer);
        }
        Ok(())
    }
}

/// A healer whose ledger has room for one transaction and is used up at `point` of it.
fn used_up_at(point: &'static str, fleet: &Fleet) -> Healer {
    let options = fleet.options();
    let ledger_bytes = std::fs::metadata(options.ledger_file()).unwrap().len();
    let options = Options {
        ledger_bytes_max: ledger_bytes + 16 * 1024,
        ..options
    };
    let uses_up = Arc::new(UsesUp {
        point,
        healer: OnceLock::new(),
    });
    let healer = fleet.healer_from(options, uses_up.clone());
    assert!(uses_up.healer.set(healer.clone()).is_ok());
    healer
}

#[test]
fn nothing_is_done_once_the_ledger_was_given_up() {
    let fleet = Fleet::new();
    let mut hog = Hog::busy();
    drop(fleet.enforcing(vec![kill_grant(&hog.cgroup)]));
    let healer = used_up_at("checked", &fleet);
    let (reply, job) = healer.propose(kill(&hog.process()));
    assert!(
        matches!(reply, HealerReply::Decided { accepted: true, .. }),
        "{reply:?}"
    );
    healer.run(job.unwrap());
    assert!(healer.status().stopped);
    assert!(hog.runs());
}

#[test]
fn a_limit_that_cannot_be_recorded_is_taken_off() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    drop(fleet.enforcing(vec![throttle_grant(&hog.cgroup)]));
    let healer = used_up_at("measured", &fleet);
    let (_, job) = healer.propose(throttle(&hog.process(), 2));
    healer.run(job.unwrap());
    assert!(healer.status().stopped);
    healer.tick();
    assert_eq!(hog.group(), hog.cgroup);
    assert!(hog.groups_below().is_empty());
}

struct Fills(Arc<SmallState>);

impl Interrupt for Fills {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if point == "measured" {
            self.0.fill();
        }
        Ok(())
    }
}

#[test]
fn a_limit_that_was_taken_off_on_a_full_disk_is_recorded_when_there_is_room() {
    let fleet = Fleet::new();
    let disk = Arc::new(SmallState::of(&fleet));
    let hog = Hog::busy();
    drop(fleet.enforcing(vec![throttle_grant(&hog.cgroup)]));
    let healer = fleet.healer_with(Arc::new(Fills(disk.clone())));
    let action = throttle(&hog.process(), 2);
    let action_id = action.action_id;
    heal(&healer, action);
    healer.tick();
    assert_eq!(hog.group(), hog.cgroup);
    disk.make_room();
    healer.tick();
    let steps = steps(&healer, action_id);
    assert_eq!(ending(&steps), Some(Ending::Reverted), "{steps:#?}");
    assert_eq!(std::fs::read_dir(fleet.path("state/journal")).unwrap().count(), 0);
}

#[test]
fn a_ledger_that_is_broken_at_start_leaves_no_limit_in_force() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
    heal(&healer, throttle(&hog.process(), 2));
    assert_ne!(hog.group(), hog.cgroup);
    drop(healer);
    let path = fleet.options().ledger_file();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("installed", "instAlled", 1)).unwrap();
    let healer = fleet.healer();
    assert!(healer.status().stopped);
    assert_eq!(hog.group(), hog.cgroup);
    assert!(hog.groups_below().is_empty());
}
