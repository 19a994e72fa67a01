//! The real programs over ClickHouse and PostgreSQL: engines that go away and come back, and a collector that is
//! killed when nobody knows what was stored, lose nothing and double nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetmend_testkit::PostgresServer;
use fleetmend_testkit::postgres::Ending;

use crate::clickhouse::Server;
use crate::instance::{Instance, Way};
use crate::{ARRIVE, run_marked, wait_until_each_once};

const EACH: usize = 10;
/// What the collector counts of commits that an engine did not take.
const REFUSED: &str = "fleetmend_collector_store_refused_commits_total{reason=\"unavailable\"}";

/// How many commits were refused so far.
async fn refused(instance: &Instance) -> u64 {
    let metrics = instance.metrics().await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(REFUSED));
    line.map_or(0, |number| number.trim().parse().unwrap())
}

/// Waits until commits were refused, which agents meet by keeping what they have.
async fn wait_until_refused(instance: &Instance, before: u64) {
    let begun = Instant::now();
    while refused(instance).await <= before {
        assert!(begun.elapsed() < ARRIVE, "no commit was refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn series(instance: &Instance) -> f64 {
    let answer = instance.promql("count({__name__=~\"system_.+\"})").await;
    let value = answer
        .first()
        .map(|series| series["value"][1].as_str().unwrap().to_owned());
    value.map_or(0.0, |value| value.parse().unwrap())
}

async fn blocking(server: &Arc<PostgresServer>, work: fn(&PostgresServer) -> anyhow::Result<()>) {
    let server = server.clone();
    let done = tokio::task::spawn_blocking(move || work(&server)).await;
    done.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_go_away_and_a_collector_that_is_killed_lose_and_double_nothing() {
    let mut clickhouse = Server::start().await;
    let started = tokio::task::spawn_blocking(|| {
        let postgres = Arc::new(PostgresServer::start()?);
        let database = postgres.database()?;
        anyhow::Ok((postgres, database))
    });
    let (postgres, database) = started.await.unwrap().unwrap();
    let mut instance = Instance::start_by(Way {
        store: format!(
            "url = \"clickhouse+http://127.0.0.1:{}/fleet\"\n\
             [store.clickhouse]\ngather_ms = 20\nlook_ms = 200\nstatement_timeout_ms = 5000\n",
            clickhouse.port()
        ),
        more: format!(
            "[control]\nurl = \"{}\"\npassword_file = \"{}\"\nstatement_timeout = \"2s\"\n",
            database.url(),
            postgres.password_file().display()
        ),
        ..Way::default()
    })
    .await;
    instance.start_agent().await;
    run_marked("scale-first", EACH);
    wait_until_each_once(&instance, "scale-first", EACH).await;
    let begun = Instant::now();
    while series(&instance).await < 50.0 {
        assert!(begun.elapsed() < ARRIVE, "PromQL finds no series");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let before = refused(&instance).await;
    clickhouse.kill();
    run_marked("scale-without-facts", EACH);
    wait_until_refused(&instance, before).await;
    instance
        .wait_until_ready(false, "ClickHouse at http://127.0.0.1")
        .await;
    clickhouse.restart().await;
    instance.wait_until_ready(true, "").await;
    wait_until_each_once(&instance, "scale-without-facts", EACH).await;

    blocking(&postgres, |server| server.stop(Ending::Immediate)).await;
    run_marked("scale-without-control", EACH);
    instance.wait_until_ready(false, "logins and alerts wait").await;
    blocking(&postgres, PostgresServer::restart).await;
    instance.wait_until_ready(true, "").await;
    wait_until_each_once(&instance, "scale-without-control", EACH).await;

    // The rows are in and the collector is told that they are not; then it is gone.
    let before = refused(&instance).await;
    clickhouse.fault("insert_then_fail").await;
    run_marked("scale-in-doubt", EACH);
    wait_until_refused(&instance, before).await;
    instance.kill_collector();
    clickhouse.fault("none").await;
    instance.start_collector().await;
    run_marked("scale-last", EACH);
    for marker in [
        "scale-first",
        "scale-without-facts",
        "scale-without-control",
        "scale-in-doubt",
        "scale-last",
    ] {
        wait_until_each_once(&instance, marker, EACH).await;
    }
    let doubled = "select name, labels, time from metrics group by 1, 2, 3 having count(*) > 1";
    assert_eq!(instance.sql(doubled).await, Vec::<serde_json::Value>::new());
    let lost = "select reason from gaps where stage in ('ingest', 'store')";
    assert_eq!(instance.sql(lost).await, Vec::<serde_json::Value>::new());
    assert!(series(&instance).await >= 50.0, "PromQL goes on where it was");
}
