//! A catalogue that is damaged, gone or newer; columns that are newer; a disk that cannot be written.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use fleetmend_event::table::ProcessEvent;
use fleetmend_event::{HostId, Table};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use super::damage::Unmount;
use super::testbed::{Host, START, config, eventually, exec, folder, open};
use crate::{QueryLimits, Store, to_json_rows};

const EXECS: &str = "SELECT count(*) FROM process_events";

/// Five rows that are compacted, merged once, and five that are hot.
async fn filled(folder: &Path) -> HostId {
    let bed = open(folder).await;
    let mut host = Host::new();
    for _ in 0..2 {
        bed.store.commit(host.id, vec![host.execs(5)]).await.unwrap();
        bed.store.seal().await.unwrap();
        eventually("compaction", || bed.store.stats().hot_frames == 0).await;
    }
    bed.store.commit(host.id, vec![host.execs(5)]).await.unwrap();
    bed.close().await;
    host.id
}

/// How much of the catalogue a damage leaves.
pub(super) fn damage(path: &Path, kind: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    match kind {
        "gone" => return std::fs::remove_file(path).unwrap(),
        "empty" => bytes.clear(),
        "cut" => bytes.truncate(bytes.len() / 2),
        "flipped" => bytes
            .iter_mut()
            .skip(4_096)
            .step_by(64)
            .for_each(|byte| *byte ^= 0xff),
        _ => bytes.iter_mut().take(64).for_each(|byte| *byte ^= 0xff),
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn damaged_catalogue_is_replaced_by_its_copy_and_loses_nothing() {
    for kind in ["gone", "empty", "cut", "flipped", "headless"] {
        let folder = folder();
        let host = filled(folder.path()).await;
        let marks = {
            let bed = open(folder.path()).await;
            let marks = bed.store.marks(host);
            bed.close().await;
            marks
        };
        damage(&folder.path().join("catalogue.sqlite"), kind);
        let bed = open(folder.path()).await;
        assert_eq!(bed.number(EXECS).await, 15, "{kind}");
        assert_eq!(bed.store.marks(host), marks, "{kind}");
        assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0, "{kind}");
        bed.close().await;
        let kept = std::fs::read_dir(folder.path()).unwrap().flatten();
        let damaged = kept.filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("catalogue.damaged-")
        });
        assert_eq!(damaged.count() > 0, kind != "gone", "{kind}");
    }
}

#[tokio::test]
async fn catalogue_without_a_whole_copy_is_refused_with_what_to_do() {
    let folder = folder();
    filled(folder.path()).await;
    // A file of before, which does not say what the catalogue said of it.
    let old = folder
        .path()
        .join("parquet/process_events/2026-01-01-of-before.parquet");
    std::fs::copy(super::events::FIXTURE, &old).unwrap();
    for name in ["catalogue.sqlite", "catalogue.copy.sqlite"] {
        damage(&folder.path().join(name), "headless");
    }
    let error = Store::open(config(folder.path())).await.err().unwrap();
    let text = format!("{:#}", Chain(&error));
    assert!(
        text.contains("is damaged") && text.contains("fleetmend-collector restore"),
        "{text}"
    );
    assert!(text.contains("of-before") && old.exists(), "{text}");
}

#[tokio::test]
async fn copy_is_as_new_as_the_catalogue_before_a_start_deletes_anything() {
    let folder = folder();
    let host = filled(folder.path()).await;
    let (catalogue, copy) = (
        folder.path().join("catalogue.sqlite"),
        folder.path().join("catalogue.copy.sqlite"),
    );
    let before = std::fs::read(&copy).unwrap();
    let bed = open(folder.path()).await;
    bed.store.seal().await.unwrap();
    eventually("compaction", || bed.store.stats().hot_frames == 0).await;
    bed.close().await;
    // As if it had been killed between the change and its copy; the start deletes what the change made needless.
    std::fs::write(&copy, before).unwrap();
    let bed = open(folder.path()).await;
    let marks = bed.store.marks(host);
    bed.close().await;
    damage(&catalogue, "headless");
    let bed = open(folder.path()).await;
    assert_eq!(bed.number(EXECS).await, 15);
    assert_eq!(bed.store.marks(host), marks);
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.close().await;
}

#[tokio::test]
async fn catalogue_of_a_newer_program_is_refused_with_what_to_do() {
    let folder = folder();
    filled(folder.path()).await;
    let options = SqliteConnectOptions::new().filename(folder.path().join("catalogue.sqlite"));
    let mut connection = options.connect().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', 1, x'00', 0)";
    sqlx::raw_sql(newer).execute(&mut connection).await.unwrap();
    drop(connection);
    let error = Store::open(config(folder.path())).await.err().unwrap();
    let text = format!("{:#}", Chain(&error));
    assert!(
        text.contains("newer collector") && text.contains("9999"),
        "{text}"
    );
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(formatter, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[tokio::test]
async fn column_of_a_newer_agent_is_told_of_once_and_its_rows_are_there() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    for round in 0..3 {
        let mut frame = host.frame(
            &[exec(START + round, 1), exec(START + round, 2)],
            START,
            START + 9,
        );
        let rows = frame.batch().unwrap().unwrap();
        let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("mood", DataType::Utf8, true)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(StringArray::from(vec!["calm", "tense"])));
        let newer = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        frame.body = fleetmend_event::batch::encode(&newer).unwrap().into();
        bed.store.commit(host.id, vec![frame]).await.unwrap();
    }
    assert_eq!(bed.number(EXECS).await, 6);
    let query = "SELECT \"table\", count, exactness, reason FROM gaps";
    let answer = bed.store.sql(query, QueryLimits::default()).await.unwrap();
    let rows = serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap();
    assert_eq!(answer.rows(), 1, "{rows}");
    assert!(
        rows.contains("process_events.mood") && rows.contains("unknown column"),
        "{rows}"
    );
    let answer = bed.store.sql(EXECS, QueryLimits::default()).await.unwrap();
    assert!(
        answer.gaps.is_empty(),
        "the rows themselves are not lost: {:?}",
        answer.gaps
    );
    bed.close().await;
}

#[tokio::test]
async fn column_of_another_type_is_a_gap_with_the_reason() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut frame = host.frame(&[exec(START, 1)], START, START);
    let rows = frame.batch().unwrap().unwrap();
    let comm = ProcessEvent::schema().index_of("comm").unwrap();
    let mut fields: Vec<Arc<Field>> = rows.schema().fields().iter().cloned().collect();
    fields[comm] = Arc::new(Field::new("comm", DataType::Int64, false));
    let mut columns = rows.columns().to_vec();
    columns[comm] = Arc::new(Int64Array::from(vec![7]));
    let other = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    frame.body = fleetmend_event::batch::encode(&other).unwrap().into();
    bed.store.commit(host.id, vec![frame]).await.unwrap();
    assert_eq!(bed.number(EXECS).await, 0);
    let told = bed
        .number("SELECT count(*) FROM gaps WHERE reason LIKE '%column comm has type Int64 instead of Utf8%'");
    assert_eq!(told.await, 1);
    bed.close().await;
}

#[tokio::test]
async fn older_batch_without_a_nullable_column_is_read_with_nulls() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let mut frame = host.frame(&[exec(START, 1)], START, START);
    let rows = frame.batch().unwrap().unwrap();
    let kept: Vec<usize> = (0..rows.num_columns())
        .filter(|n| rows.schema().field(*n).name() != "unit")
        .collect();
    frame.body = fleetmend_event::batch::encode(&rows.project(&kept).unwrap())
        .unwrap()
        .into();
    bed.store.commit(host.id, vec![frame]).await.unwrap();
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE unit IS NULL")
            .await,
        1
    );
    assert_eq!(bed.number("SELECT count(*) FROM gaps").await, 0);
    bed.close().await;
}

#[tokio::test]
async fn read_only_disk_is_refused_by_name_and_nothing_is_lost() {
    let folder = folder();
    let mount = folder.path().join("disk");
    std::fs::create_dir(&mount).unwrap();
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new("mount")
            .args(arguments)
            .arg(&mount)
            .output();
        done.is_ok_and(|output| output.status.success())
    };
    if !run(&["-t", "tmpfs", "-o", "size=16m", "none"]) {
        eprintln!("NOT RUN: read_only_disk_is_refused_by_name_and_nothing_is_lost needs the right to mount");
        return;
    }
    let _unmount = Unmount(mount.clone());
    filled(&mount).await;
    assert!(run(&["-o", "remount,ro"]));
    let error = Store::open(config(&mount)).await.err().unwrap();
    let text = Chain(&error).to_string();
    assert!(
        text.contains("Read-only file system") && text.contains("disk"),
        "{text}"
    );
    assert!(run(&["-o", "remount,rw"]));
    let bed = open(&mount).await;
    assert_eq!(bed.number(EXECS).await, 15);
    bed.close().await;
}
