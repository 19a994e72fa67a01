//! A repository that is damaged, forged or full, and a store that is.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fleetmend_event::TimeMicros;

use super::*;
use crate::backup::{Keep, prune};

/// A store with compacted and hot rows, backed up `backups` times, and closed.
async fn filled(place: &Place, backups: usize) {
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 20).await;
    compacted(&bed, 1).await;
    for round in 0..backups {
        commit_execs(&bed, &mut host, 5).await;
        if round % 2 == 1 {
            compacted(&bed, 1).await;
        }
        place.back_up().await.unwrap();
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_any_object_is_found_and_never_restored() {
    let place = Place::new();
    filled(&place, 1).await;
    let objects = place.objects();
    assert!(objects.len() >= 4, "{objects:?}");
    for object in objects {
        let whole = fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [
            Some(flipped),
            Some(whole[..whole.len() - 1].to_vec()),
            Some(Vec::new()),
            None,
        ] {
            match &damaged {
                Some(bytes) => fs::write(&object, bytes).unwrap(),
                None => fs::remove_file(&object).unwrap(),
            }
            let verified = place.verify().await;
            // What is in a damaged list is not known, and told as another fault.
            assert!(
                (1..=2).contains(&verified.faults),
                "{object:?}: {:?}",
                verified.told
            );
            let error = place.restore("target").await.unwrap_err();
            assert!(error.is_damage(), "{error}");
            let refused = crate::Store::open(config(&place.target("target"))).await.err();
            assert!(refused.is_none_or(|error| matches!(error, crate::OpenError::Unfinished { .. })));
            fs::remove_dir_all(place.target("target")).ok();
        }
        fs::write(&object, whole).unwrap();
    }
    assert_eq!(place.verify().await.faults, 0);
    place.restore("target").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_restore_opens_no_store_and_begins_anew() {
    let place = Place::new();
    filled(&place, 1).await;
    let object = place
        .objects()
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let aside = place.target("aside");
    fs::rename(&object, &aside).unwrap();
    place.restore("target").await.unwrap_err();
    let error = crate::Store::open(config(&place.target("target")))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, crate::OpenError::Unfinished { .. }), "{error}");
    fs::rename(&aside, &object).unwrap();
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (250, 10, 1, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_or_none_opens_no_repository() {
    let place = Place::new();
    filled(&place, 1).await;
    for key in [None, Some(BackupKey::new(&[4; 32]))] {
        let error = Repository::open(&place.repository(), key).unwrap_err();
        assert!(matches!(error, BackupError::WrongKey { .. }), "{error}");
        assert!(!error.to_string().contains(&hex::encode([3; 32])));
    }
}

#[test]
fn key_file_that_others_may_read_is_refused() {
    let folder = folder();
    let path = folder.path().join("backup.key");
    let made = BackupKey::create(&path).unwrap();
    assert_eq!(BackupKey::read(&path).unwrap().id(), made.id());
    BackupKey::create(&path).unwrap_err();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        BackupKey::read(&path).unwrap_err(),
        BackupError::KeyExposed { mode: 0o640, .. }
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "too short").unwrap();
    assert!(matches!(
        BackupKey::read(&path).unwrap_err(),
        BackupError::KeyShape { .. }
    ));
    fs::write(&path, [9; 32]).unwrap();
    assert_eq!(
        BackupKey::read(&path).unwrap().id(),
        BackupKey::new(&[9; 32]).id()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_exchanged_and_missing_manifests_break_the_chain() {
    for key in [None, Some(BackupKey::new(&[3; 32]))] {
        let mut place = Place::new();
        place.key = key;
        filled(&place, 4).await;
        let manifests: Vec<Vec<u8>> = (1..=4)
            .map(|sequence| fs::read(place.manifest(sequence)).unwrap())
            .collect();
        // An old one in the place of the newest.
        fs::write(place.manifest(4), &manifests[1]).unwrap();
        assert!(place.plan(None).await.unwrap_err().is_damage());
        assert!(place.verify().await.faults > 0);
        fs::write(place.manifest(4), &manifests[3]).unwrap();
        // One that was deleted by another than prune.
        fs::remove_file(place.manifest(2)).unwrap();
        let verified = place.verify().await;
        assert!(
            verified
                .told
                .iter()
                .any(|fault| fault.contains("manifest 2 is missing")),
            "{:?}",
            verified.told
        );
        fs::write(place.manifest(2), &manifests[1]).unwrap();
        assert_eq!(place.verify().await.faults, 0);
        // Two objects exchanged.
        let objects = place.objects();
        let (one, other) = (&objects[0], &objects[1]);
        let aside = place.target("aside");
        fs::rename(one, &aside).unwrap();
        fs::rename(other, one).unwrap();
        fs::rename(&aside, other).unwrap();
        assert!(place.verify().await.faults >= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_repository_keeps_its_chain_and_every_object_that_is_needed() {
    let place = Place::new();
    filled(&place, 6).await;
    let before = place.objects().len();
    let keep = Keep {
        all_hours: 0,
        hourly: 1,
        daily: 1,
    };
    let prune_now = || {
        let (folder, key) = (place.repository(), place.key.clone());
        blocking(move |_| prune(&Repository::open(&folder, key)?, keep, TimeMicros::now()))
    };
    let pruned = prune_now().await.unwrap();
    // The newest of the hour, and perhaps one of the hour before.
    assert!(pruned.backups >= 4 && pruned.objects > 0, "{pruned:?}");
    assert!(place.objects().len() < before);
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    assert_eq!(prune_now().await.unwrap().backups, 0);
    // Backups go on after it, and the chain goes across what is gone.
    place.back_up().await.unwrap();
    prune_now().await.unwrap();
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (500, 10, 1, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_swept_while_somebody_reads() {
    let place = Place::new();
    filled(&place, 3).await;
    let reader = fs::File::open(place.repository().join("READERS"));
    let reader = reader
        .or_else(|_| fs::File::create(place.repository().join("READERS")))
        .unwrap();
    rustix::fs::flock(&reader, rustix::fs::FlockOperation::LockShared).unwrap();
    let objects = place.objects();
    let keep = Keep {
        all_hours: 0,
        hourly: 0,
        daily: 0,
    };
    let (folder, key) = (place.repository(), place.key.clone());
    let pruned = blocking(move |_| prune(&Repository::open(&folder, key)?, keep, TimeMicros::now()))
        .await
        .unwrap();
    assert!(pruned.postponed && pruned.objects == 0, "{pruned:?}");
    assert_eq!(place.objects(), objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_the_store_lost_is_named_and_the_rest_is_backed_up() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 3).await;
    compacted(&bed, 1).await;
    commit_execs(&bed, &mut host, 2).await;
    let folder = place.store().join("parquet/process_events");
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    for damage in ["missing", "changed"] {
        if damage == "missing" {
            fs::remove_file(&file).unwrap();
        } else {
            let mut changed = whole.clone();
            changed[10] ^= 1;
            fs::write(&file, changed).unwrap();
        }
        let made = place.back_up().await.unwrap();
        assert_eq!(made.manifest.missing.len(), 1, "{damage}: {made:?}");
        assert_eq!(place.verify().await.faults, 0);
    }
    bed.close().await;
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    // What is hot is there, and what is lost is a gap.
    bed.wait_for("SELECT count(*) FROM gaps WHERE stage = 'store'", 1)
        .await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 20);
    bed.close().await;
    // Once it is whole again it is backed up.
    fs::write(&file, &whole).unwrap();
    assert_eq!(place.back_up().await.unwrap().manifest.missing, Vec::new());
}

/// A verify or a restore as root must not leave a file that the collector could not lock.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_makes_no_file() {
    let place = Place::new();
    filled(&place, 1).await;
    let readers = place.repository().join("READERS");
    assert!(readers.exists());
    fs::remove_file(&readers).unwrap();
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    place.restore("target").await.unwrap();
    assert!(!readers.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_of_something_else_is_left_alone() {
    let place = Place::new();
    fs::write(place.repository().join("letters.txt"), "dear").unwrap();
    open(&place.store()).await.close().await;
    let error = place.back_up().await.unwrap_err();
    assert!(matches!(error, BackupError::NoRepository { .. }), "{error}");
    // Where the folder itself is missing, it may not be mounted: nothing is made there.
    let error = Repository::open_or_create(&place.target("nowhere"), None).unwrap_err();
    assert!(matches!(error, BackupError::Absent { .. }), "{error}");
    assert!(!place.target("nowhere").exists());
}
