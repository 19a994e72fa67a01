//! The catalogue and its copy are lost: the store goes on with what its files say of themselves.

use std::path::{Path, PathBuf};

use fleetmend_event::Mark;

use super::catalogue::damage;
use super::events::FIXTURE;
use super::testbed::{Bed, Host, config, eventually, folder, open, open_with};
use crate::StoreConfig;

const EXECS: &str = "SELECT count(*) FROM process_events";
const SAMPLES: &str = "SELECT count(*) FROM metrics";
const GAPS: &str = "SELECT count(*) FROM gaps";
/// What a rebuild says whatever it finds.
const REBUILT: &str = "SELECT count(*) FROM gaps WHERE table = '*' AND count = 0 AND exactness = 'at_least' \
                       AND stage = 'store' AND reason LIKE 'the catalogue was lost%'";

/// Nothing is merged, and what is sealed is compacted at once.
fn calm(folder: &Path) -> StoreConfig {
    StoreConfig {
        merge_files_min: 100,
        ..config(folder)
    }
}

/// Merges whatever there are two of.
fn busy(folder: &Path) -> StoreConfig {
    StoreConfig {
        merge_files_min: 2,
        ..config(folder)
    }
}

/// Commits execs and metrics and waits until they are compacted.
async fn compacted(bed: &Bed, host: &mut Host) {
    let frames = vec![host.execs(5), host.metrics(3)];
    bed.store.commit(host.id, frames).await.unwrap();
    bed.store.seal().await.unwrap();
    eventually("compaction", || bed.store.stats().segments == 0).await;
}

/// Files of a table.
fn files(folder: &Path, table: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("parquet").join(table)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn aside(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("aside")).unwrap().count()
}

/// Loses the catalogue and its copy in some way.
fn lose(folder: &Path, kind: &str) {
    for name in ["catalogue.sqlite", "catalogue.copy.sqlite"] {
        damage(&folder.join(name), kind);
    }
    for end in ["-wal", "-shm"] {
        std::fs::remove_file(folder.join(format!("catalogue.sqlite{end}"))).ok();
    }
}

/// Ten rows of a merged file, five of a compacted one, five hot; of samples three times as many frames of 30.
async fn filled(folder: &Path) -> Host {
    let mut host = Host::new();
    let bed = open_with(calm(folder)).await;
    compacted(&bed, &mut host).await;
    compacted(&bed, &mut host).await;
    bed.close().await;
    let bed = open_with(busy(folder)).await;
    eventually("merges", || bed.store.inner.view.files().len() == 2).await;
    bed.close().await;
    let bed = open_with(calm(folder)).await;
    compacted(&bed, &mut host).await;
    let hot = vec![host.execs(5), host.metrics(3)];
    bed.store.commit(host.id, hot).await.unwrap();
    bed.close().await;
    host
}

/// The marks of a host, by lane.
fn marks(bed: &Bed, host: &Host) -> Vec<Mark> {
    let mut marks = bed.store.marks(host.id);
    marks.sort_by_key(|mark| mark.lane.code());
    marks
}

/// That all rows are there once, and what is sent again is not stored again.
async fn holds(bed: &Bed, host: &mut Host, kind: &str) {
    assert_eq!(
        (bed.number(EXECS).await, bed.number(SAMPLES).await),
        (20, 120),
        "{kind}"
    );
    assert_eq!(
        (bed.number(GAPS).await, bed.number(REBUILT).await),
        (1, 1),
        "{kind}"
    );
    let mut again = Host::new();
    (again.id, again.epoch) = (host.id, host.epoch);
    let sent: Vec<_> = (0..4).flat_map(|_| [again.execs(5), again.metrics(3)]).collect();
    let marks = bed.store.commit(host.id, sent).await.unwrap();
    assert!(marks.iter().all(|mark| mark.sequence.0 == 4), "{kind}: {marks:?}");
    assert_eq!(
        (bed.number(EXECS).await, bed.number(SAMPLES).await),
        (20, 120),
        "{kind}"
    );
}

#[tokio::test]
async fn lost_catalogue_is_made_anew_and_nothing_is_lost_or_doubled() {
    for kind in ["gone", "empty", "cut", "flipped", "headless", "another"] {
        let folder = folder();
        let mut host = filled(folder.path()).await;
        let (known, epoch) = {
            let bed = open_with(calm(folder.path())).await;
            let known = (marks(&bed, &host), bed.store.epoch());
            bed.close().await;
            known
        };
        if kind == "another" {
            let other = super::testbed::folder();
            filled(other.path()).await;
            for name in ["catalogue.sqlite", "catalogue.copy.sqlite"] {
                std::fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
            }
        } else {
            lose(folder.path(), kind);
        }
        let bed = open_with(calm(folder.path())).await;
        assert_eq!(marks(&bed, &host), known, "{kind}");
        assert_ne!(
            bed.store.epoch(),
            epoch,
            "{kind}: agents send again what they hold"
        );
        holds(&bed, &mut host, kind).await;
        let next = vec![host.execs(5), host.metrics(3)];
        bed.store.commit(host.id, next).await.unwrap();
        assert_eq!(bed.number(EXECS).await, 25, "{kind}");
        bed.close().await;
        // It is a store like any other from then on.
        let bed = open_with(busy(folder.path())).await;
        bed.store.seal().await.unwrap();
        eventually("merges", || {
            bed.store.stats().hot_frames == 0 && files(folder.path(), "process_events").len() == 1
        })
        .await;
        assert_eq!(
            (bed.number(EXECS).await, bed.number(SAMPLES).await),
            (25, 150),
            "{kind}"
        );
        assert_eq!((bed.number(GAPS).await, aside(folder.path())), (1, 0), "{kind}");
        bed.close().await;
    }
}

#[tokio::test]
async fn catalogue_of_another_store_gives_way_to_the_own_copy() {
    let (folder, other) = (folder(), super::testbed::folder());
    filled(folder.path()).await;
    filled(other.path()).await;
    let name = "catalogue.sqlite";
    std::fs::copy(other.path().join(name), folder.path().join(name)).unwrap();
    let bed = open_with(calm(folder.path())).await;
    assert_eq!((bed.number(EXECS).await, bed.number(SAMPLES).await), (20, 120));
    assert_eq!(bed.number(GAPS).await, 0);
    bed.close().await;
}

#[tokio::test]
async fn catalogue_older_than_the_files_deletes_none_of_them() {
    let folder = folder();
    let mut host = Host::new();
    let bed = open_with(calm(folder.path())).await;
    compacted(&bed, &mut host).await;
    bed.close().await;
    let catalogue = folder.path().join("catalogue.sqlite");
    let old = std::fs::read(&catalogue).unwrap();
    let bed = open_with(calm(folder.path())).await;
    for _ in 0..3 {
        compacted(&bed, &mut host).await;
    }
    bed.close().await;
    std::fs::write(&catalogue, old).unwrap();
    let bed = open_with(calm(folder.path())).await;
    holds(&bed, &mut host, "old").await;
    bed.close().await;
    assert_eq!(aside(folder.path()), 0);
}

#[tokio::test]
async fn inputs_of_a_merge_that_came_back_are_not_read_twice() {
    let folder = folder();
    let mut host = Host::new();
    let bed = open_with(calm(folder.path())).await;
    compacted(&bed, &mut host).await;
    compacted(&bed, &mut host).await;
    bed.close().await;
    let tables = ["process_events", "metrics"];
    let inputs: Vec<(PathBuf, Vec<u8>)> = tables
        .iter()
        .flat_map(|table| files(folder.path(), table))
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    assert_eq!(inputs.len(), 4);
    let bed = open_with(busy(folder.path())).await;
    eventually("merges", || bed.store.inner.view.files().len() == 2).await;
    compacted(&bed, &mut host).await;
    // The merged files are merged once more: what they were made of is two merges away.
    eventually("merges", || {
        let files = bed.store.inner.view.files();
        files.len() == 2 && files.iter().map(|file| file.rows).sum::<u64>() == 15 + 90
    })
    .await;
    bed.close().await;
    for (path, bytes) in &inputs {
        std::fs::write(path, bytes).unwrap();
    }
    lose(folder.path(), "gone");
    let bed = open_with(calm(folder.path())).await;
    assert_eq!((bed.number(EXECS).await, bed.number(SAMPLES).await), (15, 90));
    assert_eq!(bed.number(GAPS).await, 1);
    assert_eq!(aside(folder.path()), 4);
    bed.close().await;
}

/// Segments that wait to be compacted in one step, and their bytes.
async fn waiting_segments(folder: &Path, host: &mut Host) -> Vec<(PathBuf, Vec<u8>)> {
    for _ in 0..2 {
        let slow = StoreConfig {
            maintenance_interval_ms: 3_600_000,
            ..calm(folder)
        };
        let bed = open_with(slow).await;
        let frames = vec![host.execs(5), host.metrics(3)];
        bed.store.commit(host.id, frames).await.unwrap();
        bed.close().await;
    }
    let entries = std::fs::read_dir(folder.join("segments")).unwrap();
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

#[tokio::test]
async fn files_of_a_step_whose_segments_are_all_there_are_not_taken() {
    let folder = folder();
    let mut host = Host::new();
    let segments = waiting_segments(folder.path(), &mut host).await;
    assert_eq!(segments.len(), 2);
    let bed = open_with(calm(folder.path())).await;
    eventually("compaction", || bed.store.stats().segments == 0).await;
    bed.close().await;
    for (path, bytes) in &segments {
        std::fs::write(path, bytes).unwrap();
    }
    // Killed before the step wrote its last file.
    std::fs::remove_file(&files(folder.path(), "metrics")[0]).unwrap();
    lose(folder.path(), "gone");
    let bed = open_with(calm(folder.path())).await;
    assert_eq!((bed.number(EXECS).await, bed.number(SAMPLES).await), (10, 60));
    assert_eq!((bed.number(GAPS).await, aside(folder.path())), (1, 1));
    bed.close().await;
}

#[tokio::test]
async fn segment_that_a_finished_step_left_behind_is_not_read_twice() {
    let folder = folder();
    let mut host = Host::new();
    let segments = waiting_segments(folder.path(), &mut host).await;
    let bed = open_with(calm(folder.path())).await;
    eventually("compaction", || bed.store.stats().segments == 0).await;
    bed.close().await;
    // Killed after the step was registered, between the deletions of its segments.
    let (path, bytes) = &segments[1];
    std::fs::write(path, bytes).unwrap();
    lose(folder.path(), "gone");
    let bed = open_with(calm(folder.path())).await;
    assert_eq!((bed.number(EXECS).await, bed.number(SAMPLES).await), (10, 60));
    assert_eq!((bed.number(GAPS).await, aside(folder.path())), (1, 0));
    assert!(bed.store.marks(host.id).iter().all(|mark| mark.sequence.0 == 2));
    bed.close().await;
}

#[tokio::test]
async fn file_that_is_damaged_when_the_catalogue_is_lost_is_a_gap_of_all_its_rows() {
    let folder = folder();
    filled(folder.path()).await;
    let (damaged, lost) = {
        let bed = open_with(calm(folder.path())).await;
        let files = bed.store.inner.view.files();
        let of_execs = files
            .iter()
            .find(|file| file.path.to_string_lossy().contains("process_events"));
        let file = of_execs.unwrap();
        let found = (file.path.clone(), i64::try_from(file.rows).unwrap());
        bed.close().await;
        found
    };
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    lose(folder.path(), "cut");
    let bed = open_with(calm(folder.path())).await;
    assert_eq!(bed.number(EXECS).await, 20 - lost);
    let told =
        "SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE table = 'process_events' AND exactness = 'exact'";
    assert_eq!((bed.number(told).await, bed.number(GAPS).await), (lost, 2));
    assert_eq!(bed.number(SAMPLES).await, 120);
    bed.close().await;
}

#[tokio::test]
async fn file_of_before_is_set_aside_with_a_gap_of_at_least_its_rows() {
    let folder = folder();
    let mut host = filled(folder.path()).await;
    let old = folder
        .path()
        .join("parquet/process_events/2026-01-01-of-before.parquet");
    std::fs::copy(FIXTURE, &old).unwrap();
    lose(folder.path(), "gone");
    let bed = open_with(calm(folder.path())).await;
    let told = "SELECT count(*) FROM gaps WHERE table = 'process_events' AND count = 12 AND exactness = 'at_least' \
                AND CAST(from_time AS BIGINT) = 1767225600000000";
    assert_eq!((bed.number(told).await, bed.number(REBUILT).await), (1, 1));
    assert!(
        !old.exists()
            && folder
                .path()
                .join("aside")
                .join(old.file_name().unwrap())
                .exists()
    );
    assert_eq!(bed.number(EXECS).await, 20);
    bed.store.commit(host.id, vec![host.execs(5)]).await.unwrap();
    bed.close().await;
    let bed = open(folder.path()).await;
    assert_eq!((bed.number(EXECS).await, bed.number(GAPS).await), (25, 2));
    bed.close().await;
}

#[tokio::test]
async fn number_of_a_segment_is_never_used_again() {
    let folder = folder();
    let mut host = Host::new();
    let bed = open_with(calm(folder.path())).await;
    compacted(&bed, &mut host).await;
    compacted(&bed, &mut host).await;
    bed.close().await;
    let bed = open_with(calm(folder.path())).await;
    let frames = vec![host.execs(1)];
    bed.store.commit(host.id, frames).await.unwrap();
    bed.close().await;
    let entries = std::fs::read_dir(folder.path().join("segments")).unwrap();
    let numbers: Vec<u64> = entries
        .filter_map(|entry| crate::segment::number_of(entry.unwrap().file_name().to_str()?))
        .collect();
    assert_eq!(numbers, [3]);
}
