//! A catalogue and a control database of an older program, brought up to date by today's, cut short at any call.

use std::path::Path;

use fleetmend_control::{Control, ControlError, Migrations, query};
use fleetmend_event::Lane;
use fleetmend_shutdown::Tasks;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use crate::check::{self, last_done};
use crate::workload::{SAID, commit, compact, folder_of_child, open, wait_for_parent};
use crate::{each, kill, points, power_cut, trace};

const POINTS: usize = 100;
/// Without metrics: of these an older program wrote other files.
const LANES: [Lane; 2] = [Lane::Critical, Lane::Events];
/// What the later steps of the catalogue's tables made goes again.
const OLDER: &str = "ALTER TABLE parquet_files DROP COLUMN true_from;
    ALTER TABLE parquet_files DROP COLUMN true_to;
    ALTER TABLE parquet_files DROP COLUMN chunk_count;
    DROP TABLE dirty_days;
    ALTER TABLE store_identity DROP COLUMN store_id;
    DELETE FROM _sqlx_migrations WHERE version > 1;
    PRAGMA wal_checkpoint(TRUNCATE);";
/// Steps of a room: the last one makes its table anew.
const STEPS: [&str; 3] = [
    "CREATE TABLE crash_users (name TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;",
    "ALTER TABLE crash_users ADD COLUMN more INTEGER NOT NULL DEFAULT 0;
     UPDATE crash_users SET more = size + 1;",
    "CREATE TABLE crash_people (name TEXT PRIMARY KEY, more INTEGER NOT NULL) STRICT;
     INSERT INTO crash_people (name, more) SELECT name, more FROM crash_users;
     DROP TABLE crash_users;",
];
const INSERTED: &str = "inserted";
const USERS: i64 = 40;

async fn older(folder: &Path) {
    let options = SqliteConnectOptions::new().filename(folder.join("catalogue.sqlite"));
    let mut catalogue = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(OLDER).execute(&mut catalogue).await.unwrap();
    catalogue.close().await.unwrap();
    std::fs::remove_file(folder.join("catalogue.copy.sqlite")).unwrap();
}

#[tokio::test]
async fn child_with_an_older_catalogue() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    let run = async || {
        let store = open(&folder).await;
        let tasks = Tasks::new();
        store.run(&tasks).unwrap();
        (store, tasks)
    };
    let (store, tasks) = run().await;
    commit(&store, 0, &LANES).await;
    compact(&store).await;
    commit(&store, 1, &LANES).await;
    tasks.drain(std::time::Duration::from_secs(60)).await;
    drop(store);
    older(&folder).await;
    wait_for_parent();
    // What was acknowledged before the parent watched; sent again it is there already.
    for number in 0..3 {
        let (store, tasks) = run().await;
        commit(&store, number, &LANES).await;
        tasks.drain(std::time::Duration::from_secs(60)).await;
    }
}

fn catalogues(left: fn(usize) -> Vec<crate::Left>) {
    let record = trace::record("migration::child_with_an_older_catalogue");
    // Until the first start has ended.
    let all = record.points_in(&[
        "catalogue.sqlite",
        "catalogue.sqlite-wal",
        "catalogue.copy.sqlite",
        "catalogue.copy.tmp",
    ]);
    each(&record, &points(&all, POINTS), left, check::holds);
}

#[test]
fn kill_after_any_call_of_a_catalogue_s_migration_loses_nothing() {
    catalogues(kill);
}

#[test]
fn power_cut_after_any_call_of_a_catalogue_s_migration_loses_nothing() {
    catalogues(power_cut);
}

async fn control(folder: &Path, steps: &'static [&'static str]) -> Result<Control, ControlError> {
    let control = Control::sqlite(&folder.join("control.sqlite")).await?;
    let room = "crash";
    control.migrate(&Migrations { room, steps }).await?;
    Ok(control)
}

#[tokio::test]
async fn child_with_an_older_control_database() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    std::fs::create_dir_all(&folder).unwrap();
    let old = control(&folder, &STEPS[..1]).await.unwrap();
    for number in 0..USERS {
        let insert = query("INSERT INTO crash_users (name, size) VALUES ($1, $2)");
        let insert = insert.bind(format!("user {number}")).bind(number);
        insert.execute(&old).await.unwrap();
    }
    old.close().await;
    wait_for_parent();
    println!("{SAID} {INSERTED} {USERS}");
    let new = control(&folder, &STEPS).await.unwrap();
    let insert = query("INSERT INTO crash_people (name, more) VALUES ($1, $2)");
    let insert = insert.bind(format!("user {USERS}")).bind(USERS + 1);
    insert.execute(&new).await.unwrap();
    println!("{SAID} {INSERTED} {}", USERS + 1);
    new.close().await;
}

/// Every user that was inserted is there, brought up to date.
fn users_hold(folder: &Path, said: &[String]) -> Result<(), String> {
    let least = last_done(said, INSERTED).unwrap_or(0);
    check::runtime().block_on(async {
        let control = control(folder, &STEPS)
            .await
            .map_err(|error| format!("{error:?}"))?;
        let rows = query("SELECT more FROM crash_people ORDER BY more")
            .fetch_all(&control)
            .await;
        let rows = rows.map_err(|error| format!("{error:?}"))?;
        let found: Vec<i64> = rows.iter().map(|row| row.try_get(0).unwrap()).collect();
        control.close().await;
        let is_whole = found.iter().copied().eq(1..=found.len() as i64);
        if is_whole && found.len() as u64 >= least.max(USERS as u64) {
            Ok(())
        } else {
            Err(format!("of {least} users these are there: {found:?}"))
        }
    })
}

fn controls(left: fn(usize) -> Vec<crate::Left>) {
    let record = trace::record("migration::child_with_an_older_control_database");
    let all = record.points_in(&["control.sqlite", "control.sqlite-wal"]);
    each(&record, &points(&all, POINTS), left, users_hold);
}

#[test]
fn kill_after_any_call_of_a_control_database_s_migration_loses_nothing() {
    controls(kill);
}

#[test]
fn power_cut_after_any_call_of_a_control_database_s_migration_loses_nothing() {
    controls(power_cut);
}
