//! Processes that back up, prune and restore, killed at many moments.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;

use super::*;
use crate::backup::{Keep, prune};

const WORK: &str = "COLLECTOR_STORE_BACKUP_WORK";
const FOLDER: &str = "COLLECTOR_STORE_BACKUP_FOLDER";
const KEY: [u8; 32] = [3; 32];

/// The child: does its one work until it is killed. Without the variables that its parent sets it is no child.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_works_on_a_repository_until_it_is_killed() {
    let (Some(work), Some(folder)) = (std::env::var_os(WORK), std::env::var_os(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let (store, repository, target) = (
        folder.join("store"),
        folder.join("repository"),
        folder.join("target"),
    );
    let key = Some(BackupKey::new(&KEY));
    let work = work.into_string().unwrap();
    blocking(move |runtime| {
        println!("begun");
        let repository = Repository::open_or_create(&repository, key).unwrap();
        loop {
            match work.as_str() {
                "back up" => {
                    let source = Source {
                        store: store.clone(),
                        ..Source::default()
                    };
                    back_up(&repository, &source, false, runtime, &Unwatched).unwrap();
                }
                "prune" => {
                    let keep = Keep {
                        all_hours: 0,
                        hourly: 0,
                        daily: 0,
                    };
                    prune(&repository, keep, TimeMicros::now()).unwrap();
                }
                _ => {
                    let target = RestoreTarget {
                        store: target.clone(),
                        displace: true,
                        ..RestoreTarget::default()
                    };
                    restore(
                        &repository,
                        &plan(&repository, None).unwrap(),
                        &target,
                        runtime,
                        &Unwatched,
                    )
                    .unwrap();
                }
            }
        }
    })
    .await;
}

fn start(work: &str, place: &Place) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::backup::kill::child_that_works_on_a_repository_until_it_is_killed",
            "--nocapture",
        ])
        .env(WORK, work)
        .env(FOLDER, place.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    child.unwrap()
}

/// Lets a child work for a random time after it began, and kills it.
fn kill_within(work: &str, place: &Place, within: Duration) {
    use std::io::{BufRead, BufReader};
    let mut child = start(work, place);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("begun")),
        "{work} did not begin"
    );
    let until = Instant::now() + within.mul_f64(rand::random::<f64>());
    while Instant::now() < until {
        assert!(child.try_wait().unwrap().is_none(), "{work} ended by itself");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn killed(work: &'static str, place: Place, within: Duration) -> Place {
    tokio::task::spawn_blocking(move || {
        kill_within(work, &place, within);
        place
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_backup_leaves_a_whole_repository_and_the_store_as_it_was() {
    let mut place = Place::new();
    let mut host = Host::new();
    let mut records = 0;
    for _ in 0..8 {
        let bed = open(&place.store()).await;
        commit_execs(&bed, &mut host, 30).await;
        compacted(&bed, 1).await;
        commit_execs(&bed, &mut host, 10).await;
        records += 40;
        bed.close().await;
        place = killed("back up", place, Duration::from_millis(60)).await;
        if place.repository().join("repository.json").exists() {
            assert_eq!(place.verify().await.told, Vec::<String>::new());
        }
    }
    place.back_up().await.unwrap();
    assert_eq!(place.repository().join("tmp").read_dir().unwrap().count(), 0);
    assert_eq!(place.store().join("staging").read_dir().unwrap().count(), 0);
    place.restore("target").await.unwrap();
    for name in ["store", "target"] {
        let bed = open(&place.target(name)).await;
        assert_eq!(
            counts(&bed).await,
            (records * 10, 10, i64::from(name == "target"), 0)
        );
        bed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_prune_leaves_a_whole_repository() {
    let mut place = Place::new();
    let mut host = Host::new();
    for _ in 0..6 {
        let bed = open(&place.store()).await;
        for _ in 0..4 {
            commit_execs(&bed, &mut host, 4).await;
            place.back_up().await.unwrap();
        }
        bed.close().await;
        place = killed("prune", place, Duration::from_millis(30)).await;
        assert_eq!(place.verify().await.told, Vec::<String>::new());
    }
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (960, 10, 1, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_restore_never_opens_half_and_ends_when_it_is_repeated() {
    let mut place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    for _ in 0..4 {
        commit_execs(&bed, &mut host, 20).await;
        compacted(&bed, 1).await;
    }
    bed.close().await;
    place.back_up().await.unwrap();
    for _ in 0..8 {
        place = killed("restore", place, Duration::from_millis(80)).await;
        match crate::Store::open(config(&place.target("target"))).await {
            // Not a byte of it is there, or all of it.
            Ok(store) => {
                let rows: u64 = store.stats().tables.iter().map(|table| table.rows).sum();
                let hot = store.stats().hot_rows;
                assert!((rows, hot) == (0, 0) || rows == 800, "{rows} {hot}");
            }
            Err(crate::OpenError::Unfinished { .. } | crate::OpenError::Locked { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        for entry in place
            .folder
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap())
        {
            if entry.file_name().to_str().unwrap().starts_with("target") {
                std::fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        // A marker without an end is what the next one finds.
        std::fs::create_dir(place.target("target")).unwrap();
        std::fs::write(place.target("target").join("RESTORING"), "").unwrap();
        std::fs::write(place.target("target").join("half"), "").unwrap();
    }
    place.restore("target").await.unwrap();
    assert!(!place.target("target").join("half").exists());
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (800, 10, 1, 0));
    bed.close().await;
}
