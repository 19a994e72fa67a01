//! Dying at every point of a transaction.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::ActionStage;
use fleetmend_healer::interrupt::{Interrupt, Interrupted, POINTS};
use fleetmend_healer::policy::Grant;

use super::fixture::*;

struct DieAt(&'static str);

impl Interrupt for DieAt {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if point == self.0 {
            Err(Interrupted(point))
        } else {
            Ok(())
        }
    }
}

#[test]
fn a_throttle_that_is_cut_short_at_any_point_is_brought_to_rest_at_the_next_start() {
    let expected = |point| match point {
        "journalled" | "checked" | "applying" => Ending::NoOp,
        "done-not-journalled" => Ending::Reverted,
        _ => Ending::Healed,
    };
    for point in POINTS.into_iter().filter(|point| *point != "undone") {
        let fleet = Fleet::new();
        let hog = Hog::busy();
        let healer = fleet.enforcing(vec![throttle_grant(&hog.cgroup)]);
        drop(healer);
        let action = throttle(&hog.process(), 2);
        let action_id = action.action_id;
        let dying = fleet.healer_with(Arc::new(DieAt(point)));
        heal(&dying, action);
        drop(dying);

        let healer = fleet.healer();
        let steps = steps(&healer, action_id);
        assert_eq!(
            ending(&steps),
            Some(expected(point)),
            "died at {point}: {steps:#?}"
        );
        let ended = steps
            .iter()
            .filter(|step| step.stage == ActionStage::Ended)
            .count();
        assert_eq!(ended, 1, "died at {point}: {steps:#?}");
        let limited = hog.group() != hog.cgroup;
        assert_eq!(
            limited,
            expected(point) == Ending::Healed,
            "died at {point}: in {}",
            hog.group()
        );
        assert_eq!(hog.groups_below().len(), usize::from(limited), "died at {point}");
        let kept = std::fs::read_dir(fleet.path("state/journal")).unwrap().count();
        assert_eq!(
            kept,
            usize::from(limited),
            "died at {point}: a standing limit keeps its record, nothing else does"
        );
        drop(healer);
        // A start after that finds nothing more to do.
        let healer = fleet.healer();
        assert_eq!(
            super::fixture::steps(&healer, action_id).len(),
            steps.len(),
            "died at {point}"
        );
    }
}

#[test]
fn a_kill_that_is_cut_short_ends_healed_only_where_that_is_known() {
    let expected = |point| match point {
        "journalled" | "checked" => (Ending::NoOp, true),
        "applying" => (Ending::FailedSafe, true),
        "done-not-journalled" => (Ending::Unknown, false),
        _ => (Ending::Healed, false),
    };
    for point in POINTS.into_iter().filter(|point| *point != "undone") {
        let fleet = Fleet::new();
        let mut hog = Hog::busy();
        drop(fleet.enforcing(vec![kill_grant(&hog.cgroup)]));
        let action = kill(&hog.process());
        let action_id = action.action_id;
        let dying = fleet.healer_with(Arc::new(DieAt(point)));
        heal(&dying, action);
        drop(dying);
        let steps = steps(&fleet.healer(), action_id);
        assert_eq!(
            (ending(&steps).unwrap(), hog.runs()),
            expected(point),
            "died at {point}: {steps:#?}"
        );
        assert_eq!(
            std::fs::read_dir(fleet.path("state/journal")).unwrap().count(),
            0,
            "died at {point}"
        );
    }
}

fn throttle_grant_verified_within(cgroup: &str, verify_deadline_s: u64) -> Grant {
    let mut grant = throttle_grant(cgroup);
    if let Grant::ThrottleProcess { limits, .. } = &mut grant {
        limits.verify_deadline_s = verify_deadline_s;
    }
    grant
}

/// Takes the limit off whenever it was set: a remedy that does not help. May die as well.
struct Sabotage {
    group: Mutex<Option<PathBuf>>,
    die_at: &'static str,
}

impl Interrupt for Sabotage {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if point == "applied" {
            let parent = self.group.lock().unwrap().clone().unwrap();
            let leaf = std::fs::read_dir(parent)
                .unwrap()
                .flatten()
                .find(|entry| entry.path().is_dir())
                .unwrap()
                .path();
            if std::fs::write(leaf.join("cpu.cfs_quota_us"), "-1").is_err() {
                std::fs::write(leaf.join("cpu.max"), "max").unwrap();
            }
        }
        if point == self.die_at {
            Err(Interrupted(point))
        } else {
            Ok(())
        }
    }
}

#[test]
fn what_does_not_help_is_undone_also_when_it_is_cut_short() {
    for die_at in ["nowhere", "measured", "undone", "ended"] {
        let fleet = Fleet::new();
        let hog = Hog::busy();
        let grant = throttle_grant_verified_within(&hog.cgroup, 1);
        drop(fleet.enforcing(vec![grant]));
        let host = fleetmend_healer::remedy::Host::here();
        let parent = host
            .cgroups
            .cpu()
            .unwrap()
            .1
            .join(hog.cgroup.trim_start_matches('/'));
        let sabotage = Sabotage {
            group: Mutex::new(Some(parent)),
            die_at,
        };
        let healer = fleet.healer_with(Arc::new(sabotage));
        let action = throttle(&hog.process(), 1);
        let action_id = action.action_id;
        heal(&healer, action);
        drop(healer);
        let steps = steps(&fleet.healer(), action_id);
        assert_eq!(
            ending(&steps),
            Some(Ending::Reverted),
            "died at {die_at}: {steps:#?}"
        );
        assert_eq!(hog.group(), hog.cgroup, "died at {die_at}");
        assert!(hog.groups_below().is_empty(), "died at {die_at}");
    }
}

/// Makes a limit of no effect, and one that cannot be taken off: a group with a group in it stays.
struct Wedge(PathBuf);

impl Interrupt for Wedge {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if point == "applied" {
            Sabotage {
                group: Mutex::new(Some(self.0.clone())),
                die_at: "nowhere",
            }
            .at(point)?;
            std::fs::create_dir(leaf_of(&self.0).join("wedge")).unwrap();
        }
        Ok(())
    }
}

fn leaf_of(group: &std::path::Path) -> PathBuf {
    let mut entries = std::fs::read_dir(group).unwrap().flatten();
    entries.find(|entry| entry.path().is_dir()).unwrap().path()
}

#[test]
fn a_limit_that_could_not_be_taken_off_is_tried_again_until_it_is() {
    let fleet = Fleet::new();
    let hog = Hog::busy();
    let grant = throttle_grant_verified_within(&hog.cgroup, 1);
    drop(fleet.enforcing(vec![grant]));
    let group = fleetmend_healer::remedy::Host::here()
        .cgroups
        .cpu()
        .unwrap()
        .1
        .join(hog.cgroup.trim_start_matches('/'));
    let healer = fleet.healer_with(Arc::new(Wedge(group.clone())));
    let action = throttle(&hog.process(), 1);
    let action_id = action.action_id;
    let steps = heal(&healer, action);
    assert_eq!(ending(&steps), Some(Ending::FailedSafe), "{steps:#?}");
    healer.tick();
    drop(healer);
    let healer = fleet.healer();
    assert_eq!(hog.groups_below().len(), 1, "it cannot be removed yet");
    std::fs::remove_dir(leaf_of(&group).join("wedge")).unwrap();
    healer.tick();
    assert!(hog.groups_below().is_empty());
    let last = super::fixture::steps(&healer, action_id).pop().unwrap();
    assert_eq!(
        (last.stage, last.ending),
        (ActionStage::Undone, Some(Ending::FailedSafe))
    );
    assert_eq!(std::fs::read_dir(fleet.path("state/journal")).unwrap().count(), 0);
}
