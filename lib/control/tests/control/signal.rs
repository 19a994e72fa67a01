//! Signals reach followers in the same process, in others, and over a connection that was lost.

use std::sync::Arc;
use std::time::Duration;

use fleetmend_control::{Control, Engine};
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{FaultProxy, PostgresServer, proxy::Fault};

use super::testbed::{ENGINES, Testbed};

const PATIENCE: Duration = Duration::from_secs(60);

async fn tell(control: &Control) {
    let mut transaction = control.begin("probe").await.unwrap();
    transaction.signal("hosts").await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_signal_arrives_here_and_elsewhere_after_its_commit() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let tasks = Tasks::new();
        let (here, elsewhere) = (testbed.open().await, testbed.open().await);
        elsewhere.serve_signals(&tasks);
        let (mut near, mut far) = (here.follow("hosts"), elsewhere.follow("hosts"));
        near.mark_unchanged();
        let mut dropped = here.begin("probe").await.unwrap();
        dropped.signal("hosts").await.unwrap();
        drop(dropped);
        assert!(!near.has_changed().unwrap(), "{engine:?}: rolled back");
        tell(&here).await;
        assert!(near.has_changed().unwrap());
        tokio::time::timeout(PATIENCE, far.changed())
            .await
            .unwrap()
            .unwrap();
        tasks.drain(PATIENCE).await;
    }
}

#[tokio::test]
async fn what_was_signalled_while_the_connection_was_away_is_told_after_it() {
    let server = PostgresServer::shared().unwrap();
    let database = server.database().unwrap();
    let proxy = FaultProxy::start(server.address()).await.unwrap();
    let mut config = Testbed::new(Engine::Postgres).config;
    let direct = {
        config.url = Some(database.url());
        Control::open(&config, "/".as_ref()).await.unwrap()
    };
    config.url = Some(format!(
        "postgres://fleetmend@{}/{}",
        proxy.address(),
        database.name()
    ));
    let control = Control::open(&config, "/".as_ref()).await.unwrap();
    let tasks = Tasks::new();
    control.serve_signals(&tasks);
    let mut far = control.follow("hosts");
    tell(&direct).await;
    tokio::time::timeout(PATIENCE, far.changed())
        .await
        .unwrap()
        .unwrap();
    proxy.set(Fault::Cut);
    // The listener may still be telling of the first one.
    while tokio::time::timeout(Duration::from_millis(300), far.changed())
        .await
        .is_ok()
    {}
    tell(&direct).await;
    assert!(!far.has_changed().unwrap());
    proxy.set(Fault::None);
    tokio::time::timeout(PATIENCE, far.changed())
        .await
        .unwrap()
        .unwrap();
    tasks.drain(PATIENCE).await;
    drop(Arc::clone(&server));
}
