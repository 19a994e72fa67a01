//! Engines that fail: nothing is lost, nothing doubled, and the store says which and why.

use std::os::unix::fs::PermissionsExt as _;

use collector_store::{CommitError, Health, OpenError};
use fleetmend_event::{Frame, HostId};
use fleetmend_testkit::postgres::Ending;
use fleetmend_testkit::proxy::Fault;
use fleetmend_testkit::wait_for;

use crate::hosts::{Host, timed};
use crate::scene::{Engines, PATIENCE, Scene, config};
use crate::server::Server;

const EXECS: &str = "SELECT count(*) FROM process_events";
const SAMPLES: &str = "SELECT count(*) FROM metrics";

/// Sends until it is taken, as a host does; gives the errors before.
async fn send(scene: &Scene, host: HostId, frames: &[Frame]) -> Vec<CommitError> {
    let mut errors = Vec::new();
    let sent = wait_for(
        PATIENCE,
        async || {
            // A host says hello after each failure.
            if let Err(error) = scene.store.marks(host).await {
                errors.push(error.clone());
                return Some(error);
            }
            let sent = scene
                .store
                .commit_timed(host, timed(frames.to_vec()), Vec::new())
                .await;
            errors.extend(sent.as_ref().err().cloned());
            sent.err()
        },
        Option::is_none,
    );
    sent.await.unwrap();
    errors
}

/// Waits for a readiness reason that holds `part`.
async fn not_ready(scene: &Scene, part: &str) {
    let health = scene.store.health();
    let seen = async || health.borrow().clone();
    let says = |health: &Health| matches!(health, Health::NotReady(reason) if reason.contains(part));
    wait_for(PATIENCE, seen, says).await.unwrap();
}

async fn ready(scene: &Scene) {
    let health = scene.store.health();
    let seen = async || health.borrow().clone();
    wait_for(PATIENCE, seen, |health| *health == Health::Ready)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_between_insert_and_mark_doubles_nothing() {
    let engines = Engines::start().await;
    // Nothing that a server remembers is relied on.
    let no_tokens = |config: &mut collector_store::StoreConfig| config.clickhouse.insert_tokens = false;
    let one = engines.collector_with(no_tokens).await;
    let mut host = Host::new();
    let frames = [host.execs(3), host.metrics(2), host.execs(4)];
    one.store.marks(host.id).await.unwrap();
    let stop = "SYSTEM STOP MERGES fleet.process_events_rows";
    engines.clickhouse.lock().await.ask(stop).await;
    engines.clickhouse.lock().await.fault("insert_then_fail").await;
    let failed = one
        .store
        .commit_timed(host.id, timed(frames.to_vec()), Vec::new())
        .await;
    assert!(
        matches!(failed, Err(CommitError::Unavailable { .. })),
        "{failed:?}"
    );
    assert!(
        one.store.marks(host.id).await.unwrap().is_empty(),
        "nothing is acknowledged"
    );
    engines.clickhouse.lock().await.fault("none").await;
    // The collector is gone; the host sends to another one.
    one.close().await;
    let other = engines.collector_with(no_tokens).await;
    assert_eq!(send(&other, host.id, &frames).await, []);
    assert_eq!((other.number(EXECS).await, other.number(SAMPLES).await), (7, 20));
    let server = engines.clickhouse.lock().await;
    let raw = server
        .ask("SELECT count() FROM fleet.process_events_rows FORMAT TSV")
        .await;
    assert_eq!(raw, "14", "the rows are there twice, before any merge");
    server.ask("SYSTEM START MERGES fleet.process_events_rows").await;
    server.ask("OPTIMIZE TABLE fleet.process_events_rows FINAL").await;
    let raw = server
        .ask("SELECT count() FROM fleet.process_events_rows FORMAT TSV")
        .await;
    assert_eq!(raw, "7", "and once after it");
    drop(server);
    assert_eq!((other.number(EXECS).await, other.number(SAMPLES).await), (7, 20));
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repetition_with_other_series_refused_doubles_no_sample() {
    let engines = Engines::start().await;
    let few = |config: &mut collector_store::StoreConfig| config.series_per_host_max = 3;
    let one = engines.collector_with(few).await;
    let mut host = Host::new();
    let first = host.metrics(5);
    engines.clickhouse.lock().await.fault("insert_then_fail").await;
    let failed = one
        .store
        .commit_timed(host.id, timed(vec![first.clone()]), Vec::new())
        .await;
    assert!(failed.is_err());
    engines.clickhouse.lock().await.fault("none").await;
    one.close().await;
    let other = engines.collector().await;
    send(&other, host.id, &[first]).await;
    assert_eq!(other.number(SAMPLES).await, 50);
    assert_eq!(other.number("SELECT count(DISTINCT name) FROM metrics").await, 5);
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gap_told_again_after_a_crash_is_stored_once() {
    let engines = Engines::start().await;
    let one = engines.collector().await;
    let mut host = Host::new();
    let shed = host.execs(2).shed();
    let gaps = vec![(shed.id, crate::hosts::gap(2, "given up"))];
    engines.clickhouse.lock().await.fault("insert_then_fail").await;
    let failed = one
        .store
        .commit_timed(host.id, timed(vec![shed.clone()]), gaps.clone())
        .await;
    assert!(failed.is_err());
    engines.clickhouse.lock().await.fault("none").await;
    let other = engines.collector().await;
    other.store.marks(host.id).await.unwrap();
    other
        .store
        .commit_timed(host.id, timed(vec![shed]), gaps)
        .await
        .unwrap();
    assert_eq!(other.number("SELECT count(*) FROM gaps").await, 1);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_collectors_never_store_different_contents_under_one_identity() {
    let engines = Engines::start().await;
    let (one, other) = (engines.collector().await, engines.collector().await);
    let mut host = Host::new();
    let mut clone = Host::number(0);
    (clone.id, clone.epoch) = (host.id, host.epoch);
    let (told, forged) = (host.execs(3), clone.execs(5));
    // The rows of the first are in, and nobody was told.
    engines.clickhouse.lock().await.fault("insert_then_fail").await;
    one.store
        .commit_timed(host.id, timed(vec![told.clone()]), Vec::new())
        .await
        .unwrap_err();
    engines.clickhouse.lock().await.fault("none").await;
    other.store.marks(host.id).await.unwrap();
    let refused = other
        .store
        .commit_timed(host.id, timed(vec![forged.clone()]), Vec::new())
        .await;
    assert_eq!(refused.unwrap_err(), CommitError::Conflict { id: forged.id });
    send(&other, host.id, &[told]).await;
    assert_eq!(other.number(EXECS).await, 3);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_that_answers_500_for_a_while_is_backpressure() {
    for fault in ["refuse", "refuse_inserts"] {
        let engines = Engines::start().await;
        let scene = engines.collector().await;
        let mut host = Host::new();
        send(&scene, host.id, &[host.execs(2)]).await;
        engines.clickhouse.lock().await.fault(fault).await;
        let frames = [host.execs(3), host.metrics(1)];
        let failed = scene
            .store
            .commit_timed(host.id, timed(frames.to_vec()), Vec::new())
            .await
            .unwrap_err();
        let text = failed.to_string();
        assert!(
            failed.is_transient() && text.contains("ClickHouse answered 500"),
            "{text}"
        );
        not_ready(&scene, "ClickHouse answered 500").await;
        engines.clickhouse.lock().await.fault("none").await;
        send(&scene, host.id, &frames).await;
        ready(&scene).await;
        assert_eq!((scene.number(EXECS).await, scene.number(SAMPLES).await), (5, 10));
        scene.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_that_hangs_is_given_up_and_used_again() {
    let engines = Engines::start().await;
    let scene = engines
        .collector_with(|config| config.clickhouse.statement_timeout_ms = 300)
        .await;
    let mut host = Host::new();
    send(&scene, host.id, &[host.execs(2)]).await;
    engines.clickhouse.lock().await.fault("hang").await;
    let frames = [host.execs(3)];
    let failed = scene
        .store
        .commit_timed(host.id, timed(frames.to_vec()), Vec::new())
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("did not answer within"), "{failed}");
    not_ready(&scene, "did not answer within").await;
    engines.clickhouse.lock().await.fault("none").await;
    // What hung is carried out after all, late.
    send(&scene, host.id, &frames).await;
    ready(&scene).await;
    assert_eq!(scene.number(EXECS).await, 5);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_clickhouse_loses_and_doubles_nothing() {
    let engines = Engines::start().await;
    let scene = engines.collector().await;
    let mut host = Host::new();
    let mut execs = 0;
    for turn in 0..3_u32 {
        let frames = [host.execs(2 + turn), host.metrics(1)];
        execs += i64::from(2 + turn);
        let killing = async {
            let mut server = engines.clickhouse.lock().await;
            server.kill();
            server.restart().await;
        };
        let (errors, ()) = tokio::join!(send(&scene, host.id, &frames), killing);
        assert!(errors.iter().all(CommitError::is_transient), "{errors:?}");
        let wanted = (execs, i64::from(turn + 1) * 10);
        assert_eq!(
            (scene.number(EXECS).await, scene.number(SAMPLES).await),
            wanted,
            "turn {turn}"
        );
    }
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_gone_is_backpressure_and_comes_back() {
    let engines = Engines::start_alone().await;
    let scene = engines.collector().await;
    let mut host = Host::new();
    send(&scene, host.id, &[host.execs(2)]).await;
    let server = engines.database.server().clone();
    let stopped = server.clone();
    tokio::task::spawn_blocking(move || stopped.stop(Ending::Immediate))
        .await
        .unwrap()
        .unwrap();
    let frames = [host.execs(3)];
    let failed = scene
        .store
        .commit_timed(host.id, timed(frames.to_vec()), Vec::new())
        .await
        .unwrap_err();
    assert!(
        failed.is_transient() && failed.to_string().contains("control database"),
        "{failed}"
    );
    not_ready(&scene, "control database").await;
    assert!(
        scene.store.marks(Host::new().id).await.is_err(),
        "nobody can say what is durable of a host"
    );
    tokio::task::spawn_blocking(move || server.restart())
        .await
        .unwrap()
        .unwrap();
    send(&scene, host.id, &frames).await;
    ready(&scene).await;
    assert_eq!(scene.number(EXECS).await, 5);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_answers_nobody_leaves_no_record_in_doubt() {
    let engines = Engines::start().await;
    let scene = engines
        .collector_with(|config| config.commit_timeout_ms = 1_500)
        .await;
    let mut host = Host::new();
    send(&scene, host.id, &[host.execs(2)]).await;
    for fault in [Fault::HoldAnswers, Fault::Stall, Fault::Cut] {
        engines.postgres.set(fault);
        let frames = [host.execs(3)];
        let failed = scene
            .store
            .commit_timed(host.id, timed(frames.to_vec()), Vec::new())
            .await
            .unwrap_err();
        assert!(failed.is_transient(), "{fault:?}: {failed}");
        engines.postgres.set(Fault::None);
        send(&scene, host.id, &frames).await;
    }
    assert_eq!(scene.number(EXECS).await, 2 + 3 * 3);
    let marks = scene.store.marks(host.id).await.unwrap();
    assert_eq!(marks[0].sequence.0, 4);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_that_is_not_there_at_the_start_is_named() {
    let engines = Engines::start().await;
    engines.clickhouse.lock().await.kill();
    let folder = tempfile::tempdir().unwrap();
    let error = engines.open(config(&folder)).await.unwrap_err();
    let port = engines.clickhouse_port.to_string();
    assert!(
        matches!(&error, OpenError::Engine(text) if text.contains("ClickHouse at") && text.contains(&port)),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_password_is_refused_and_no_password_is_shown() {
    let engines = Engines::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    std::fs::write(&right, "s3cret\n").unwrap();
    std::fs::write(&wrong, "gu3ss\n").unwrap();
    for file in [&right, &wrong] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    let file = right.display().to_string();
    let guarded = Server::start_with(&["--user", "fleet", "--password-file", &file]).await;
    let of = |password: &std::path::Path| {
        let mut config = config(&folder);
        config.url = format!("clickhouse+http://127.0.0.1:{}/fleet", guarded.port());
        config.clickhouse.user = "fleet".to_owned();
        config.clickhouse.password_file = Some(password.to_owned());
        config
    };
    let error = engines.open(of(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains("code 516") && !error.contains("gu3ss"), "{error}");
    let store = engines.open(of(&right)).await.unwrap();
    assert!(!format!("{store:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_newer_collector_are_left_alone() {
    let engines = Engines::start().await;
    engines.collector().await.close().await;
    let newer = "INSERT INTO fleet.fleetmend_schema (version, digest) VALUES (99, 'later')";
    engines.clickhouse.lock().await.ask(newer).await;
    let folder = tempfile::tempdir().unwrap();
    let error = engines.open(config(&folder)).await.unwrap_err().to_string();
    assert!(
        error.contains("version 99") && error.contains("upgrade"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_wait_for_no_other_hosts_quarrel() {
    let engines = Engines::start().await;
    let scene = engines
        .collector_with(|config| config.clickhouse.gather_ms = 200)
        .await;
    let (mut honest, mut forger) = (Host::new(), Host::new());
    let mut clone = Host::number(0);
    (clone.id, clone.epoch) = (forger.id, forger.epoch);
    // Claimed before, with another content.
    engines.clickhouse.lock().await.fault("refuse_inserts").await;
    scene
        .store
        .commit_timed(forger.id, timed(vec![forger.execs(1)]), Vec::new())
        .await
        .unwrap_err();
    engines.clickhouse.lock().await.fault("none").await;
    let (frame, forged) = (honest.execs(4), clone.execs(9));
    let (stored, refused) = tokio::join!(
        scene
            .store
            .commit_timed(honest.id, timed(vec![frame]), Vec::new()),
        scene
            .store
            .commit_timed(forger.id, timed(vec![forged]), Vec::new()),
    );
    stored.unwrap();
    assert!(
        matches!(refused, Err(CommitError::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(scene.number(EXECS).await, 4);
    scene.close().await;
}
