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

/// The repository's folder is missing, as when nothing is mounted: a finding is opened, and resolved once it is there.
#[tokio::test(flavor = "multi_thread")]
async fn overdue_backup_is_a_finding_until_one_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
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
    let query = "SELECT state FROM findings WHERE rule = 'backup-overdue' ORDER BY time DESC LIMIT 1";
    eventually("the finding", &store, query, "open").await;
    std::fs::create_dir(at("repository")).unwrap();
    eventually("its end", &store, query, "resolved").await;
    let backups = Repository::open(&at("repository"), None)
        .unwrap()
        .list()
        .unwrap()
        .count();
    assert!(backups > 0);
    tasks.begin("the test is over");
    assert!(tasks.drain(Duration::from_secs(20)).await.is_clean());
}

#[test]
fn finding_keeps_its_id_over_restarts() {
    assert_eq!(finding_id([5; 16]), finding_id([5; 16]));
    assert_ne!(finding_id([5; 16]), finding_id([6; 16]));
}
