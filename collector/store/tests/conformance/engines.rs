//! The same questions to all stores, and what only stores over other engines can meet.

use std::time::Duration;

use collector_store::{CommitError, QueryLimits};
use fleetmend_event::{Lane, Sequence};
use fleetmend_testkit::wait_for;

use crate::hosts::{Host, gap, timed};
use crate::scene::{Engines, PATIENCE, Scene};

const EXECS: &str = "SELECT count(*) FROM process_events";

/// Each has one order of rows.
const QUESTIONS: &[&str] = &[
    "SELECT count(*) FROM process_events",
    "SELECT * EXCLUDE (ingested_at) FROM process_events ORDER BY host_id, time, pid",
    "SELECT host_id, comm, count(*) AS n FROM process_events GROUP BY host_id, comm ORDER BY host_id, comm",
    "SELECT pid, args, args[1] AS first FROM process_events WHERE comm = 'it''s \\ ü' ORDER BY host_id, pid",
    "SELECT pid FROM process_events WHERE time >= TIMESTAMP '2026-01-01 00:00:02Z' AND pid < 3 ORDER BY host_id, time, pid",
    "SELECT pid FROM process_events WHERE unit IS NULL AND (pid = 1 OR pid = 5) ORDER BY host_id, time, pid",
    "SELECT pid FROM process_events WHERE unit IS NOT NULL AND NOT (pid > 3) ORDER BY host_id, time, pid",
    "SELECT pid FROM process_events WHERE comm LIKE 'it%' AND host_id IN ('01010101-0101-0101-0101-010101010101', 'nobody') ORDER BY time, pid",
    "SELECT * EXCLUDE (ingested_at) FROM metrics ORDER BY name, host_id, time",
    "SELECT name, count(*) AS n, count(value) AS taken, sum(value) AS s FROM metrics GROUP BY name ORDER BY name",
    "SELECT time, value FROM metrics WHERE name = 'system.metric.002' AND time BETWEEN TIMESTAMP '2026-01-01 00:00:15Z' AND TIMESTAMP '2026-01-01 00:00:25Z' ORDER BY host_id, time",
    "SELECT label(labels, 'cpu.mode') AS mode, max(value) AS m FROM metrics WHERE name IN ('system.metric.000', 'system.metric.001') GROUP BY 1",
    "SELECT m.name, p.pid FROM metrics m JOIN process_events p ON m.host_id = p.host_id WHERE m.value = 2.5 AND p.pid = 2 AND m.name = 'system.metric.001' ORDER BY m.host_id, m.time, p.time",
    "SELECT host_id, \"table\", lane, from_time, to_time, count, exactness, stage, reason FROM gaps ORDER BY host_id, reason",
    "SELECT name FROM metrics WHERE value > 8 AND labels = '{\"cpu.mode\":\"user\"}' ORDER BY name, host_id, time LIMIT 4",
    "SELECT date_trunc('second', time) AS s, count(*) AS n FROM process_events GROUP BY 1 ORDER BY 1",
    "SELECT DISTINCT clock_ahead_us FROM process_events ORDER BY 1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_gives_the_same_answers() {
    let scenes = [
        Scene::memory().await,
        Scene::embedded().await,
        Scene::clickhouse().await,
    ];
    for scene in &scenes {
        for number in 1..=3 {
            let mut host = Host::number(number);
            let mut frames = timed(vec![
                host.execs(6),
                host.execs(4),
                host.metrics(3),
                host.metrics(3),
            ]);
            frames[1].1 = collector_store::ClockAhead::from_micros(Some(i64::from(number)));
            let shed = host.execs(2).shed();
            let gaps = vec![(shed.id, gap(u64::from(number), "given up"))];
            frames.extend(timed(vec![shed]));
            scene.store.commit_timed(host.id, frames, gaps).await.unwrap();
        }
    }
    for question in QUESTIONS {
        let memory = scenes[0].rows(question).await;
        assert!(!memory.is_empty(), "{question}: no rows");
        assert_eq!(scenes[1].rows(question).await, memory, "embedded: {question}");
        assert_eq!(scenes[2].rows(question).await, memory, "clickhouse: {question}");
    }
    for scene in scenes {
        scene.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_of_clickhouse_show_what_the_store_shows() {
    let engines = Engines::start().await;
    let scene = engines.collector().await;
    let mut host = Host::number(1);
    scene.commit(host.id, vec![host.metrics(2), host.execs(3)]).await;
    let server = engines.clickhouse.lock().await;
    let rows = server.ask("SELECT count(), sum(value), min(time), max(time), countIf(value IS NULL) FROM fleet.metrics FORMAT TSV").await;
    assert_eq!(
        rows, "20\t85\t2026-01-01 00:00:10.000000\t2026-01-01 00:00:19.000000\t2",
        "an analyst's own client sees samples"
    );
    assert_eq!(
        server
            .ask("SELECT count(), uniq(pid) FROM fleet.process_events FORMAT TSV")
            .await,
        "3\t3"
    );
    drop(server);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_collector_goes_on_where_the_first_ended() {
    let engines = Engines::start().await;
    let (one, other) = (engines.collector().await, engines.collector().await);
    assert_eq!(one.store.epoch(), other.store.epoch(), "they are one store");
    let mut host = Host::new();
    let first = host.execs(2);
    one.commit(host.id, vec![first.clone()]).await;
    one.close().await;
    let marks = other.store.marks(host.id).await.unwrap();
    assert_eq!(marks[0].sequence, Sequence(1));
    other.commit(host.id, vec![first.clone(), host.execs(3)]).await;
    assert_eq!(other.number(EXECS).await, 5);
    let mut forged = first;
    forged.rows += 1;
    let refused = other
        .store
        .commit_timed(host.id, timed(vec![forged]), Vec::new())
        .await;
    assert!(
        matches!(refused, Err(CommitError::Conflict { .. })),
        "digests go with the host: {refused:?}"
    );
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_that_lost_its_host_commits_nothing_for_it() {
    let engines = Engines::start().await;
    let (one, other) = (engines.collector().await, engines.collector().await);
    let (mut host, mut stays) = (Host::new(), Host::new());
    one.store.marks(host.id).await.unwrap();
    one.commit(host.id, vec![host.execs(1)]).await;
    one.commit(stays.id, vec![stays.execs(1)]).await;
    other.store.marks(host.id).await.unwrap();
    let next = host.execs(2);
    let refused = one
        .store
        .commit_timed(host.id, timed(vec![next.clone()]), Vec::new())
        .await;
    assert!(
        matches!(&refused, Err(CommitError::Unavailable { reason }) if reason.contains("another collector")),
        "{refused:?}"
    );
    // Not by trying again either, until the host says hello there.
    let refused = one
        .store
        .commit_timed(host.id, timed(vec![next.clone()]), Vec::new())
        .await;
    assert!(refused.is_err());
    assert_eq!(one.number(EXECS).await, 2);
    other.commit(host.id, vec![next.clone()]).await;
    one.commit(stays.id, vec![stays.execs(3)]).await;
    assert_eq!(one.store.marks(host.id).await.unwrap()[0].sequence, Sequence(2));
    one.commit(host.id, vec![next, host.execs(4)]).await;
    assert_eq!(other.number(EXECS).await, 1 + 1 + 2 + 3 + 4);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_that_another_collector_stored_are_named() {
    let engines = Engines::start().await;
    let (one, other) = (engines.collector().await, engines.collector().await);
    let mut host = Host::new();
    let shed = host.execs(2).shed();
    let gaps = vec![(shed.id, gap(2, "elsewhere"))];
    one.store
        .commit_timed(host.id, timed(vec![shed]), gaps)
        .await
        .unwrap();
    let named = wait_for(
        PATIENCE,
        async || {
            let answer = other
                .store
                .sql("SELECT pid FROM process_events", QueryLimits::default())
                .await;
            answer.unwrap().gaps.len()
        },
        |named| *named > 0,
    );
    assert_eq!(named.await.unwrap(), 1);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_that_nobody_waits_for_is_ended_there() {
    let engines = Engines::start().await;
    let scene = engines.collector().await;
    let mut host = Host::new();
    scene.commit(host.id, vec![host.execs(2)]).await;
    engines.clickhouse.lock().await.fault("hang").await;
    let limits = QueryLimits {
        timeout: Duration::from_millis(200),
        ..QueryLimits::default()
    };
    scene
        .store
        .sql("SELECT pid FROM process_events", limits)
        .await
        .unwrap_err();
    engines.clickhouse.lock().await.fault("none").await;
    let seen = async || {
        let seen = engines.clickhouse.lock().await.seen().await;
        let asked = seen
            .iter()
            .rfind(|asked| asked["statement"].as_str().unwrap().contains("SELECT `pid`"));
        let id = asked.unwrap()["id"].as_str().unwrap().to_owned();
        seen.iter().any(|asked| {
            let statement = asked["statement"].as_str().unwrap();
            statement.starts_with("KILL QUERY") && statement.contains(&id)
        })
    };
    wait_for(PATIENCE, seen, |killed| *killed).await.unwrap();
    assert_eq!(scene.number(EXECS).await, 2);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_applied_where_the_rows_are() {
    let engines = Engines::start().await;
    let scene = engines.collector().await;
    let mut host = Host::number(7);
    scene.commit(host.id, vec![host.execs(5), host.metrics(2)]).await;
    let asked = async |query: &str| {
        scene.rows(query).await;
        let seen = engines.clickhouse.lock().await.seen().await;
        let asked = seen.iter().rfind(|asked| {
            let statement = asked["statement"].as_str().unwrap();
            statement.starts_with("SELECT")
                && statement.contains("ArrowStream")
                && !statement.contains("fleet.gaps")
        });
        asked.unwrap()["statement"].as_str().unwrap().to_owned()
    };
    let statement =
        asked("SELECT comm FROM process_events WHERE pid = 3 AND time > TIMESTAMP '2026-01-01 00:00:00Z'")
            .await;
    assert!(
        statement.contains("`pid` = 3") && statement.contains("time >= fromUnixTimestamp64Micro"),
        "{statement}"
    );
    assert!(
        !statement.contains("args"),
        "only the columns that are asked for: {statement}"
    );
    let statement = asked("SELECT avg(value) FROM metrics WHERE name = 'system.metric.001'").await;
    assert!(
        statement.contains("`name` IN ('system.metric.001')") && statement.contains("metrics_chunks"),
        "{statement}"
    );
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_is_the_servers_and_follows_the_configuration() {
    let engines = Engines::start().await;
    let days = async |scene: Scene| {
        scene.close().await;
        let server = engines.clickhouse.lock().await;
        let of = |table: &str| {
            format!(
                "SELECT extract(engine_full, 'toIntervalDay\\\\(([0-9]+)\\\\)') FROM system.tables WHERE database = 'fleet' AND name = '{table}_rows' FORMAT TSV"
            )
        };
        (
            server.ask(&of("metrics")).await,
            server.ask(&of("findings")).await,
        )
    };
    let scene = engines.collector().await;
    assert_eq!(days(scene).await, ("3650".to_owned(), "3650".to_owned()));
    let scene = engines
        .collector_with(|config| {
            config.retention.age_days = 90;
            let metrics = collector_store::config::TableRetention {
                age_days: Some(400),
                ..Default::default()
            };
            config.retention.tables.insert("metrics".to_owned(), metrics);
        })
        .await;
    assert_eq!(days(scene).await, ("400".to_owned(), "90".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_and_claims_of_a_host_stay_bounded() {
    let engines = Engines::start().await;
    let scene = engines.collector().await;
    let mut host = Host::new();
    for _ in 0..4 {
        let frames: Vec<_> = (0..100).map(|_| host.execs(1)).collect();
        scene.commit(host.id, frames).await;
    }
    let claims = async || {
        let claims = engines
            .database
            .psql("SELECT count(*) FROM ledger_claims")
            .unwrap();
        claims.trim().parse::<u64>().unwrap()
    };
    let kept = wait_for(PATIENCE, claims, |claims| *claims <= 260).await.unwrap();
    assert!(kept >= 256, "{kept} claims tell repetitions from forgeries");
    assert_eq!(scene.number(EXECS).await, 400);
    assert_eq!(host.next_id(Lane::Events).sequence, Sequence(401));
    scene.close().await;
}
