use std::cell::Cell;
use std::time::{Duration, SystemTime};

use super::*;

/// Files of one block, the first the oldest.
fn files_in(folder: &Path, names: &[&str]) {
    for (age, name) in names.iter().rev().enumerate() {
        let path = folder.join(name);
        std::fs::write(&path, [1; 4096]).unwrap();
        touch(&path, 1000 + u64::try_from(age).unwrap());
    }
}

fn touch(path: &Path, age_s: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(age_s))
        .unwrap();
}

/// Would delete everything in `folder`.
fn plan(folder: &Path) -> FreeDiskPlan {
    let place = Place {
        path: folder.to_owned(),
        patterns: vec!["*.log".to_owned()],
        depth_max: 0,
        age_s_min: 0,
        keep_newest: 0,
        bytes_max: 1 << 20,
    };
    let path = folder.display().to_string();
    FreeDiskPlan::make(&Host::here(), &path, vec![place], 1, 0).unwrap()
}

fn deleted_files(plan: &FreeDiskPlan) -> u64 {
    plan.verify(&Host::here()).measured["deleted_files"]
        .as_u64()
        .unwrap()
}

#[test]
fn deleting_ends_at_the_next_file_once_acting_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    files_in(folder.path(), &["a.log", "b.log", "c.log", "d.log"]);
    let mut plan = plan(folder.path());
    let asked = Cell::new(0);
    let halted = || {
        asked.set(asked.get() + 1);
        (asked.get() > 2).then(|| "acting is stopped".to_owned())
    };
    let error = plan.apply(&Host::here(), &halted).unwrap_err();
    assert_eq!(error.0, "ended after 2 files: acting is stopped");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(deleted_files(&plan), 2);
}

#[test]
fn only_what_was_deleted_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    files_in(folder.path(), &["deleted.log", "appended.log", "rotated.log"]);
    let mut plan = plan(folder.path());
    touch(&folder.path().join("appended.log"), 1);
    let rotated = folder.path().join("rotated.log");
    std::fs::rename(&rotated, folder.path().join("rotated.log.1")).unwrap();
    plan.apply(&Host::here(), &|| None).unwrap();
    assert_eq!(deleted_files(&plan), 1);
    let kept: FreeDiskPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(deleted_files(&kept), 1);

    // After a crash it is not known; a file that was written to is still not one that is gone.
    plan.deleted = None;
    assert_eq!(deleted_files(&plan), 2);
}
