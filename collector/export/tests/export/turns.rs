//! Two collectors over one store and one control database.

use std::collections::BTreeMap;

use fleetmend_control::Engine;
use fleetmend_shutdown::Tasks;
use fleetmend_testkit::{TestControl, wait_for};
use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::rows::add;
use crate::testbed::{DEADLINE, Running, Testbed, lately};

async fn reaches(running: &Running, mode: &str) {
    let modes = async || {
        let status = running.export.status().await.unwrap();
        let signals = status.into_iter().flat_map(|target| target.signals);
        signals.map(|signal| signal.mode).collect::<Vec<_>>()
    };
    let all = wait_for(DEADLINE, modes, |modes| modes.iter().all(|found| *found == mode));
    all.await.unwrap();
}

/// How often each finding came.
fn titles(lines: &Receiver) -> BTreeMap<String, usize> {
    let mut titles = BTreeMap::new();
    for taken in lines.taken() {
        for line in std::str::from_utf8(&taken.body).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let title = line["fleetmend"]["row"]["title"].as_str().unwrap();
            *titles.entry(title.to_owned()).or_default() += 1;
        }
    }
    titles
}

#[tokio::test(flavor = "multi_thread")]
async fn one_collector_feeds_and_hands_over_where_it_is() {
    tokio::join!(hand_over(Engine::Sqlite), hand_over(Engine::Postgres));
}

async fn hand_over(engine: Engine) {
    let testbed = Testbed::start_on(TestControl::of(engine).unwrap(), true).await;
    let tasks = Tasks::new();
    let lines = Receiver::start(&tasks).await;
    let mut config = testbed.remote_write(json!({ "backfill": "1h" }));
    let stream = json!({
        "name": "siem", "url": lines.url, "flush_every": "50ms", "backfill": "1h", "format": "ecs",
        "tables": ["findings"],
    });
    config.webhook_stream = serde_json::from_value(json!([stream])).unwrap();
    let begin = lately();
    let times = |to: i64| (0..to).map(move |step| begin + step * 100);
    let findings = |to: usize| wait_for(DEADLINE, async || titles(&lines), move |all| all.len() == to);

    let one = testbed.run(&config).await;
    testbed.add(times(10)).await;
    add(&testbed, 0..5).await;
    testbed.arrived(times(10)).await;
    reaches(&one, "live").await;
    let two = testbed.run(&config).await;
    reaches(&two, "standby").await;
    testbed.add(times(20).skip(10)).await;
    add(&testbed, 5..10).await;
    testbed.arrived(times(20)).await;
    findings(10).await.unwrap();
    reaches(&two, "standby").await;

    // The other goes on where this one ended.
    one.end().await;
    testbed.add(times(30).skip(20)).await;
    add(&testbed, 10..15).await;
    let counts = testbed.arrived(times(30)).await;
    assert!(counts.iter().all(|count| *count == 1), "{engine:?}: {counts:?}");
    let found = findings(15).await.unwrap();
    assert!(found.values().all(|count| *count == 1), "{engine:?}: {found:?}");

    // And one that dies is followed when its lease has lapsed.
    let three = testbed.run(&config).await;
    reaches(&three, "standby").await;
    two.kill();
    testbed.add(times(40).skip(30)).await;
    add(&testbed, 15..20).await;
    testbed.arrived(times(40)).await;
    findings(20).await.unwrap();
    reaches(&three, "live").await;
    three.end().await;
    tasks.drain(DEADLINE).await;
}
