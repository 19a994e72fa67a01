//! Disks that are full, of the repository and of the target.

use std::process::Command;

use super::*;

/// A small disk at `folder`, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where it may not be mounted, which is said; a run in CI must be allowed to.
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(folder)
            .status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self(folder.to_owned()));
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "CI runs the tests of full disks"
        );
        eprintln!("NOT RUN: a test of a full disk needs the right to mount");
        None
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_repository_fails_with_the_reason_and_goes_on_when_there_is_room() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 20).await;
    compacted(&bed, 1).await;
    commit_execs(&bed, &mut host, 20).await;
    let Some(_disk) = Disk::mount(&place.repository(), "1m") else {
        return bed.close().await;
    };
    place.back_up().await.unwrap();
    let filler = place.repository().join("filler");
    let filled = std::fs::write(&filler, vec![1; 2 << 20]);
    assert!(filled.is_err(), "the disk is larger than it should be");
    commit_execs(&bed, &mut host, 400).await;
    let error = place.back_up().await.unwrap_err();
    let text = crate::commit::chain(&error);
    assert!(text.contains("No space left"), "{text}");
    // What is there is whole, and nothing is left of what did not fit.
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(place.back_up().await.unwrap().manifest.sequence, 2);
    assert_eq!(place.repository().join("tmp").read_dir().unwrap().count(), 0);
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    // The store went on all the time.
    assert_eq!(counts(&bed).await, (4_400, 10, 0, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn target_that_is_too_small_is_refused_before_anything_is_written() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    commit_execs(&bed, &mut Host::new(), 20).await;
    place.back_up().await.unwrap();
    bed.close().await;
    std::fs::create_dir(place.target("target")).unwrap();
    let Some(_disk) = Disk::mount(&place.target("target"), "1m") else {
        return;
    };
    let error = place.restore("target").await.unwrap_err();
    assert!(matches!(error, BackupError::Space { .. }), "{error}");
    assert_eq!(place.target("target").read_dir().unwrap().count(), 0);
    // Nor is anything moved out of its way.
    let old = place.target("target/old");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("catalogue.sqlite"), "").unwrap();
    let (folder, key) = (place.repository(), place.key.clone());
    let target = RestoreTarget {
        store: old.clone(),
        displace: true,
        ..RestoreTarget::default()
    };
    let restored = blocking(move |runtime| {
        let repository = Repository::open(&folder, key)?;
        restore(
            &repository,
            &plan(&repository, None)?,
            &target,
            runtime,
            &Unwatched,
        )
    });
    let error = restored.await.unwrap_err();
    assert!(matches!(error, BackupError::Space { .. }), "{error}");
    assert!(old.join("catalogue.sqlite").exists());
}
