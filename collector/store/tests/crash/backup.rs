//! Backups, pruning and a restore to a moment, each cut short at any of its calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use collector_store::backup::{
    BackupError, BackupKey, Keep, Repository, RestoreTarget, Source, Unwatched, VerifyExtent, back_up, plan,
    prune, restore, verify,
};
use collector_store::{OpenError, Store};
use fleetmend_event::{HostId, Lane, TimeMicros};
use fleetmend_shutdown::Tasks;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::runtime::Handle;

use crate::check::{self, in_it, last_done};
use crate::workload::{
    LANES, SAID, SHARE, commit, compact, config, folder_of_child, hosts, open, until, wait_for_parent,
};
use crate::{each, kill, points, power_cut, trace};

/// Points of each kind in an ordinary run; each takes two or three stores.
const POINTS: usize = 60;
/// What the child says it has done, each with the number of records of each stream, or of nothing.
const BACKED_UP: &str = "backed-up";
const RESTORED: &str = "restored";
/// The moment of the restore is in this file.
const MOMENT: &str = "moment";

struct Place(PathBuf);

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn repository(&self) -> Result<Repository, BackupError> {
        let folder = self.at("repository");
        Repository::open_or_create(&folder, Some(BackupKey::new(&[3; 32])))
    }

    fn back_up(&self, runtime: &Handle) -> Result<u64, BackupError> {
        let source = Source {
            store: self.at("store"),
            databases: vec![("control".to_owned(), self.at("control.sqlite"))],
            files: vec![("authority/key".to_owned(), self.at("key"))],
        };
        let made = back_up(&self.repository()?, &source, false, runtime, &Unwatched)?;
        assert_eq!(made.manifest.missing, Vec::new());
        Ok(made.manifest.sequence)
    }

    fn restore(&self, to: Option<TimeMicros>, runtime: &Handle) -> Result<(), BackupError> {
        let target = RestoreTarget {
            store: self.at("target/store"),
            databases: vec![("control".to_owned(), self.at("target/control.sqlite"))],
            files: Some(self.at("target/files")),
            displace: false,
        };
        let repository = self.repository()?;
        let plan = plan(&repository, to)?;
        assert!(to.is_none_or(|to| plan.lands_at == to), "{plan:?}");
        restore(&repository, &plan, &target, runtime, &Unwatched).map(drop)
    }

    /// The folders and what is backed up beside the store.
    async fn make(&self) {
        std::fs::create_dir_all(self.at("repository")).unwrap();
        std::fs::write(self.at("key"), "secret").unwrap();
        let options = SqliteConnectOptions::new().filename(self.at("control.sqlite"));
        let options = options.create_if_missing(true);
        let mut control = SqliteConnection::connect_with(&options).await.unwrap();
        let made = "CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('ada')";
        sqlx::raw_sql(made).execute(&mut control).await.unwrap();
        control.close().await.unwrap();
    }

    /// What was restored beside the store.
    async fn has_the_rest(&self) -> Result<(), String> {
        let key = std::fs::read(self.at("target/files/authority/key")).map_err(|error| error.to_string())?;
        let options = SqliteConnectOptions::new().filename(self.at("target/control.sqlite"));
        let users = async {
            let mut control = SqliteConnection::connect_with(&options).await?;
            let users: Vec<String> = sqlx::query_scalar("SELECT name FROM users")
                .fetch_all(&mut control)
                .await?;
            control.close().await?;
            Ok::<_, sqlx::Error>(users)
        };
        let users = users.await.map_err(|error| error.to_string())?;
        match (key.as_slice(), users.as_slice()) {
            (b"secret", [name]) if name == "ada" => Ok(()),
            other => Err(format!("restored beside the store: {other:?}")),
        }
    }
}

async fn blocking<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce(&Place, &Handle) -> T + Send + 'static,
) -> T {
    let (place, runtime) = (Place(place.to_owned()), Handle::current());
    let done = tokio::task::spawn_blocking(move || work(&place, &runtime));
    done.await.unwrap()
}

/// Every stream up to `last`.
fn up_to(last: u64) -> HashMap<(HostId, Lane), u64> {
    let of_host = |host| LANES.map(|lane| ((host, lane), last));
    hosts().into_iter().flat_map(of_host).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_backs_up() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    Place(folder.clone()).make().await;
    wait_for_parent();
    let store = open(&folder.join("store")).await;
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    commit(&store, 0, &LANES).await;
    compact(&store).await;
    for number in 1..5 {
        // Of what is compacted and what is not; after the first of them only what is new.
        commit(&store, number, &LANES).await;
        blocking(&folder, |place, runtime| place.back_up(runtime).unwrap()).await;
        println!("{SAID} {BACKED_UP} {}", (number + 1) * SHARE);
        compact(&store).await;
        if number == 3 {
            let keep = Keep {
                all_hours: 0,
                hourly: 0,
                daily: 0,
            };
            let pruned = blocking(&folder, move |place, _| {
                prune(&place.repository().unwrap(), keep, TimeMicros::now())
            });
            assert!(pruned.await.unwrap().backups > 0);
        }
    }
    tasks.drain(std::time::Duration::from_secs(60)).await;
}

/// Every backup that is there is whole; the newest restores to a store that opens and holds what was acknowledged before it
/// began; the store itself lost nothing; and backups go on.
fn backups_hold(folder: &Path, said: &[String]) -> Result<(), String> {
    check::runtime().block_on(async {
        let records = last_done(said, BACKED_UP).unwrap_or(0);
        whole(folder).await?;
        let restored = blocking(folder, |place, runtime| place.restore(None, runtime)).await;
        match restored {
            Ok(()) => {
                let store = check::open(&folder.join("target/store")).await?;
                in_it(store, &up_to(records), 1)
                    .await
                    .map_err(|fault| format!("restored: {fault}"))?;
                Place(folder.to_owned()).has_the_rest().await?;
            }
            Err(BackupError::Empty { .. }) if records == 0 => {}
            Err(error) => return Err(format!("restore: {error:?}")),
        }
        Ok(())
    })?;
    check::holds(&folder.join("store"), said)?;
    check::runtime().block_on(async {
        let made = blocking(folder, |place, runtime| place.back_up(runtime)).await;
        made.map_err(|error| format!("next backup: {error:?}"))?;
        whole(folder).await
    })
}

/// Reads the whole repository back.
async fn whole(folder: &Path) -> Result<(), String> {
    let verified = blocking(folder, |place, _| {
        verify(&place.repository()?, VerifyExtent::Everything, &Unwatched)
    });
    let verified = verified.await.map_err(|error| format!("verify: {error:?}"))?;
    if verified.faults == 0 {
        Ok(())
    } else {
        Err(format!("verify: {:?}", verified.told))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_restores() {
    let Some(folder) = folder_of_child() else {
        return;
    };
    let place = Place(folder.clone());
    place.make().await;
    let store = open(&folder.join("store")).await;
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    commit(&store, 0, &LANES).await;
    compact(&store).await;
    blocking(&folder, |place, runtime| place.back_up(runtime).unwrap()).await;
    commit(&store, 1, &LANES).await;
    let moment = TimeMicros::now().plus_micros(500);
    until("a later millisecond", || {
        TimeMicros::now().micros_since(moment) > 500
    })
    .await;
    commit(&store, 2, &LANES).await;
    compact(&store).await;
    blocking(&folder, |place, runtime| place.back_up(runtime).unwrap()).await;
    tasks.drain(std::time::Duration::from_secs(60)).await;
    std::fs::write(place.at(MOMENT), moment.0.to_string()).unwrap();
    wait_for_parent();
    blocking(&folder, move |place, runtime| {
        place.restore(Some(moment), runtime).unwrap()
    })
    .await;
    println!("{SAID} {RESTORED} {}", 2 * SHARE);
    // The first start of what was restored.
    let store = open(&folder.join("target/store")).await;
    let tasks = Tasks::new();
    store.run(&tasks).unwrap();
    compact(&store).await;
    tasks.drain(std::time::Duration::from_secs(60)).await;
}

/// A restore that ended is there; half of one opens no store, and ends when it is repeated.
fn restore_holds(folder: &Path, said: &[String]) -> Result<(), String> {
    check::runtime().block_on(async {
        let store = folder.join("target/store");
        let is_filled = std::fs::read_dir(&store)
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name() != "LOCK"));
        // In an empty folder a new store would be made.
        if is_filled {
            match Store::open(config(&store)).await {
                Ok(store) => return restored(folder, store).await,
                Err(OpenError::Unfinished { .. }) => {}
                Err(error) => return Err(format!("cannot open: {error:?}")),
            }
        }
        if last_done(said, RESTORED).is_some() {
            return Err("the restore had ended, and is not there".to_owned());
        }
        let again = blocking(folder, |place, runtime| {
            let moment = std::fs::read_to_string(place.at(MOMENT)).unwrap();
            place.restore(Some(TimeMicros(moment.parse().unwrap())), runtime)
        });
        again.await.map_err(|error| format!("restore again: {error:?}"))?;
        restored(folder, check::open(&store).await?).await
    })
}

async fn restored(folder: &Path, store: Store) -> Result<(), String> {
    in_it(store, &up_to(2 * SHARE), 1).await?;
    Place(folder.to_owned()).has_the_rest().await
}

fn backups(left: fn(usize) -> Vec<crate::Left>) {
    let record = trace::record("backup::child_that_backs_up");
    let all = record.points_in(&["repository", "store/staging", "store/kept", "store/kept.new"]);
    each(&record, &points(&all, POINTS), left, backups_hold);
}

fn restores(left: fn(usize) -> Vec<crate::Left>) {
    let record = trace::record("backup::child_that_restores");
    let all = record.points_in(&["target"]);
    each(&record, &points(&all, POINTS), left, restore_holds);
}

#[test]
fn kill_after_any_call_of_a_backup_leaves_a_whole_repository() {
    backups(kill);
}

#[test]
fn power_cut_after_any_call_of_a_backup_leaves_a_whole_repository() {
    backups(power_cut);
}

#[test]
fn kill_after_any_call_of_a_restore_leaves_none_or_one_that_can_be_repeated() {
    restores(kill);
}

#[test]
fn power_cut_after_any_call_of_a_restore_leaves_none_or_one_that_can_be_repeated() {
    restores(power_cut);
}
