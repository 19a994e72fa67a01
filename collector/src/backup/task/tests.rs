use collector_store::StoreConfig;
use fleetmend_identity::files;

use super::*;

async fn eventually(what: &str, store: &collector_store::Store, query: &str, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = collector_store::Store::sql(store, query, QueryLimits::default())
            .await
            .unwrap();
        let rows = serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap();
        if rows.contains(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: last seen {rows}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const STATE: &str = "SELECT state FROM findings WHERE rule = 'backup-overdue' ORDER BY time DESC LIMIT 1";

/// A collector's store below `folder`, and the task that makes its backups every second.
async fn begin(folder: &Path) -> (collector_store::Store, Tasks) {
    let at = |name: &str| folder.join(name);
    files::private_folder(&at("state")).unwrap();
    let mut config = CollectorConfig {
        state_dir: at("state"),
        store: StoreConfig {
            folder: at("state/store"),
            free_bytes_min: 0,
            ..StoreConfig::default()
        },
        ..CollectorConfig::default()
    };
    config.backup.folder = Some(at("repository"));
    config.backup.interval_s = 1;
    config.backup.age_max_s = 1;
    let tasks = Tasks::new();
    let store = collector_store::Store::open(config.store.clone()).await.unwrap();
    store.run(&tasks).unwrap();
    let rooms = tasks.child("rooms");
    spawn(&config, &at("collector.toml"), Arc::new(store.clone()), &rooms);
    (store, tasks)
}

async fn end(tasks: Tasks) {
    tasks.begin("the test is over");
    assert!(tasks.drain(Duration::from_secs(20)).await.is_clean());
}

/// The repository's folder is missing, as when nothing is mounted: a finding is opened, and resolved once it is there.
#[tokio::test(flavor = "multi_thread")]
async fn overdue_backup_is_a_finding_until_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tasks) = begin(folder.path()).await;
    eventually("the finding", &store, STATE, "open").await;
    let repository = folder.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    eventually("its end", &store, STATE, "resolved").await;
    let backups = Repository::open(&repository, None)
        .unwrap()
        .list()
        .unwrap()
        .count();
    assert!(backups > 0);
    end(tasks).await;
}

/// A file that nobody ever answers for, as on a share whose server is gone: the work hangs, and is told of all the same.
#[tokio::test(flavor = "multi_thread")]
async fn backup_that_hangs_is_a_finding_too() {
    let folder = tempfile::tempdir().unwrap();
    let (repository, release) = (folder.path().join("repository"), folder.path().join("release"));
    std::fs::create_dir(&repository).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&release).status();
    assert!(made.unwrap().success());
    std::fs::hard_link(&release, repository.join("repository.json")).unwrap();
    let (store, tasks) = begin(folder.path()).await;
    eventually("the finding", &store, STATE, "open").await;
    std::fs::remove_file(repository.join("repository.json")).unwrap();
    // Whoever waits for it goes on.
    let released = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(release));
    released.await.unwrap().unwrap();
    eventually("its end", &store, STATE, "resolved").await;
    end(tasks).await;
}

#[test]
fn finding_keeps_its_id_over_restarts() {
    assert_eq!(finding_id([5; 16]), finding_id([5; 16]));
    assert_ne!(finding_id([5; 16]), finding_id([6; 16]));
}
