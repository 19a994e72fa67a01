//! Freeing disk space, on a filesystem of its own.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fleetmend_event::remedy::Ending;
use fleetmend_event::table::ActionStage;
use fleetmend_healer::interrupt::{Interrupt, Interrupted};
use fleetmend_healer::policy::{Grant, Mode, Place};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::fixture::*;

const MEBIBYTE: usize = 1024 * 1024;

/// A tmpfs of 16 MiB.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = Some("size=16m,mode=755");
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            data,
        )
        .expect("mount a tmpfs (needs root)");
        let disk = Self { folder };
        std::fs::create_dir_all(disk.place()).unwrap();
        disk
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn place(&self) -> PathBuf {
        self.path().join("cache")
    }

    fn grant(&self) -> Grant {
        let place = Place {
            path: self.place(),
            patterns: vec!["*.log".to_owned()],
            depth_max: 2,
            age_s_min: 60,
            keep_newest: 1,
            bytes_max: 64 << 20,
        };
        Grant::FreeDisk {
            places: vec![place],
            used_pct_min: 80,
            used_pct_floor: 40,
            irreversible_allowed: true,
            limits: limits(),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

fn file(path: &Path, mebibytes: usize, age_s: u64) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![1_u8; mebibytes * MEBIBYTE]).unwrap();
    let modified = SystemTime::now() - Duration::from_secs(age_s);
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    path.to_owned()
}

#[test]
fn the_oldest_allowed_files_go_until_enough_is_free_and_nothing_else() {
    let disk = Disk::new();
    let place = disk.place();
    let oldest = file(&place.join("sub/a.log"), 2, 5000);
    let second = file(&place.join("b.log"), 2, 4000);
    let third = file(&place.join("c.log"), 2, 3000);
    let held = file(&place.join("held.log"), 1, 9000);
    let open = std::fs::File::open(&held).unwrap();
    let twin = file(&place.join("twin.log"), 1, 9000);
    std::fs::hard_link(&twin, disk.path().join("twin-elsewhere")).unwrap();
    let keep = [
        file(&place.join("data.db"), 2, 9000),
        file(&place.join("young.log"), 1, 5),
        file(&place.join("1/2/3/deep.log"), 1, 9000),
        file(&disk.path().join("outside.log"), 2, 9000),
        held,
        twin,
    ];
    let fleet = Fleet::new();
    let healer = fleet.enforcing(vec![disk.grant()]);
    // 14 of 16 MiB are used: 87.5 %; 75 % are asked for: 2 MiB have to go, and they are the oldest file's.
    let steps = heal(&healer, free_disk(disk.path(), 75));
    assert_eq!(stages(&steps), HEALED, "{steps:#?}");
    assert_eq!(ending(&steps), Some(Ending::Healed));
    assert!(!oldest.exists() && second.exists() && third.exists());
    for kept in &keep {
        assert!(kept.exists(), "{}", kept.display());
    }
    let after: serde_json::Value = serde_json::from_str(&steps.last().unwrap().after).unwrap();
    assert_eq!(
        (after["deleted_files"].as_u64(), after["deleted_bytes"].as_u64()),
        (Some(1), Some(2 << 20))
    );
    assert!(
        after["deleted"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("cache/sub/a.log"),
        "{after}"
    );

    // It is not full any more: the same finding again is not believed.
    let steps = heal(&healer, free_disk(disk.path(), 50));
    assert_eq!(ending(&steps), Some(Ending::NoOp), "{steps:#?}");
    assert!(second.exists());
    drop(open);
}

#[test]
fn links_out_of_the_place_are_not_followed() {
    let disk = Disk::new();
    let outside = tempfile::tempdir().unwrap();
    let treasure = file(&outside.path().join("treasure.log"), 1, 9000);
    let near = file(&disk.path().join("near/treasure.log"), 14, 9000);
    symlink(outside.path(), disk.place().join("way-out")).unwrap();
    symlink(disk.path().join("near"), disk.place().join("way-near")).unwrap();
    symlink(&treasure, disk.place().join("link.log")).unwrap();
    symlink(&near, disk.place().join("near.log")).unwrap();
    let fleet = Fleet::new();
    let steps = heal(&fleet.enforcing(vec![disk.grant()]), free_disk(disk.path(), 50));
    assert_eq!(
        stages(&steps),
        [ActionStage::Proposed, ActionStage::Refused],
        "{steps:#?}"
    );
    assert!(steps[1].reason.contains("no file"), "{}", steps[1].reason);
    assert!(treasure.exists() && near.exists());

    // A place that is itself a link is refused.
    let linked = disk.path().join("linked");
    symlink(disk.path().join("near"), &linked).unwrap();
    let grant = match disk.grant() {
        Grant::FreeDisk {
            mut places,
            used_pct_min,
            used_pct_floor,
            irreversible_allowed,
            limits,
        } => {
            places[0].path = linked;
            Grant::FreeDisk {
                places,
                used_pct_min,
                used_pct_floor,
                irreversible_allowed,
                limits,
            }
        }
        other => other,
    };
    let fleet = Fleet::new();
    let steps = heal(&fleet.enforcing(vec![grant]), free_disk(disk.path(), 50));
    assert!(
        steps.last().unwrap().reason.contains("symbolic link"),
        "{steps:#?}"
    );
    assert!(near.exists());
}

/// Changes the filesystem between the plan and the deed.
struct Swap<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Interrupt for Swap<F> {
    fn at(&self, point: &'static str) -> Result<(), Interrupted> {
        if point == "applying" {
            (self.0)();
        }
        Ok(())
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_after_planning_is_not_followed() {
    let disk = Disk::new();
    file(&disk.place().join("sub/a.log"), 7, 5000);
    file(&disk.place().join("b.log"), 7, 4000);
    file(&disk.place().join("keep.log"), 0, 3000);
    let victim = disk.path().join("victim");
    let treasure = file(&victim.join("a.log"), 1, 5000);
    let (sub, replaced) = (disk.place().join("sub"), disk.place().join("b.log"));
    let fleet = Fleet::new();
    drop(fleet.enforcing(vec![disk.grant()]));
    let swap = Swap(move || {
        std::fs::rename(&sub, sub.with_extension("moved")).unwrap();
        symlink(&victim, &sub).unwrap();
        std::fs::remove_file(&replaced).unwrap();
        file(&replaced, 7, 10);
    });
    let steps = heal(&fleet.healer_with(Arc::new(swap)), free_disk(disk.path(), 50));
    assert_eq!(ending(&steps), Some(Ending::FailedSafe), "{steps:#?}");
    assert!(treasure.exists() && disk.place().join("b.log").exists());
}

#[test]
fn a_filesystem_that_is_not_full_and_a_policy_that_observes_delete_nothing() {
    let disk = Disk::new();
    let log = file(&disk.place().join("a.log"), 9, 5000);
    let newest = file(&disk.place().join("b.log"), 1, 4000);
    let fleet = Fleet::new();
    let steps = heal(&fleet.enforcing(vec![disk.grant()]), free_disk(disk.path(), 10));
    assert_eq!(ending(&steps), Some(Ending::NoOp), "{steps:#?}");
    file(&disk.path().join("filler"), 5, 1);
    let fleet = Fleet::new();
    let healer = fleet.healer();
    healer
        .install_policy(&fleet.envelope(&fleet.policy(1, Mode::Observe, vec![disk.grant()])))
        .unwrap();
    let steps = heal(&healer, free_disk(disk.path(), 50));
    let last = steps.last().unwrap();
    assert_eq!(last.stage, ActionStage::WouldAct, "{steps:#?}");
    assert!(
        last.reason.contains("would delete up to 1 files") && last.reason.contains("a.log"),
        "{}",
        last.reason
    );
    assert!(log.exists() && newest.exists());
}

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
fn deleting_that_is_cut_short_ends_as_it_is_found() {
    for (point, expected, gone) in [
        ("journalled", Ending::NoOp, false),
        ("applying", Ending::NoOp, false),
        ("done-not-journalled", Ending::Healed, true),
        ("applied", Ending::Healed, true),
        ("verified", Ending::Healed, true),
        ("ended", Ending::Healed, true),
    ] {
        let disk = Disk::new();
        let log = file(&disk.place().join("a.log"), 14, 5000);
        file(&disk.place().join("keep.log"), 0, 4000);
        let fleet = Fleet::new();
        drop(fleet.enforcing(vec![disk.grant()]));
        let action = free_disk(disk.path(), 50);
        let action_id = action.action_id;
        let dying = fleet.healer_with(Arc::new(DieAt(point)));
        heal(&dying, action);
        drop(dying);
        let steps = steps(&fleet.healer(), action_id);
        assert_eq!(
            (ending(&steps), log.exists()),
            (Some(expected), !gone),
            "died at {point}: {steps:#?}"
        );
    }
}
