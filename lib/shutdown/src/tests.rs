use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::{TaskKind, Tasks, listen_for_signals};

/// Long enough for any machine; reached only when the behaviour is broken.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until_cancelled(tasks: &Tasks) -> Result<(), Infallible> {
    tasks.token().cancelled().await;
    Ok(())
}

fn wait_in(tasks: &Tasks, name: &'static str, log: &Arc<Mutex<Vec<&'static str>>>) {
    let (own, log) = (tasks.clone(), log.clone());
    tasks.spawn(name, TaskKind::Critical, async move {
        until_cancelled(&own).await?;
        // A turn of the scheduler, in which a wrong order would show.
        tokio::task::yield_now().await;
        log.lock().push(name);
        Ok::<(), Infallible>(())
    });
}

#[tokio::test]
async fn cancelled_tasks_end_and_the_report_is_clean() {
    let tasks = Tasks::new();
    let own = tasks.clone();
    tasks.spawn(
        "waits",
        TaskKind::Critical,
        async move { until_cancelled(&own).await },
    );
    assert_eq!(tasks.running(), ["waits"]);
    tasks.begin("the test is over");
    let report = tasks.drain(PATIENCE).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.end.reason, "the test is over");
    assert!(tasks.running().is_empty());
}

#[tokio::test]
async fn children_end_before_their_parents() {
    let tasks = Tasks::new();
    let sink = tasks.child("sink");
    let source = sink.child("source");
    let log = Arc::new(Mutex::new(Vec::new()));
    wait_in(&tasks, "root", &log);
    wait_in(&sink, "sink", &log);
    wait_in(&source, "source", &log);
    let report = tasks.drain(PATIENCE).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(*log.lock(), ["source", "sink", "root"]);
}

#[tokio::test]
async fn begin_alone_ends_the_levels_in_order() {
    let tasks = Tasks::new();
    let child = tasks.child("child");
    let log = Arc::new(Mutex::new(Vec::new()));
    wait_in(&child, "below", &log);
    child.begin("from below");
    timeout(PATIENCE, tasks.token().cancelled())
        .await
        .expect("root is told once its child has ended");
    assert_eq!(*log.lock(), ["below"]);
}

#[tokio::test]
async fn error_of_a_critical_task_begins_the_drain_with_its_name() {
    let tasks = Tasks::new();
    let room = tasks.child("store");
    room.spawn("compact", TaskKind::Critical, async {
        Err(io::Error::other("disk is gone"))
    });
    let end = timeout(PATIENCE, tasks.wait_for_end())
        .await
        .expect("drain begins");
    assert!(end.failed);
    assert_eq!(end.reason, "critical task store/compact failed: disk is gone");
    assert!(!tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn early_end_of_a_critical_task_begins_the_drain() {
    let tasks = Tasks::new();
    tasks.spawn("short", TaskKind::Critical, async { Ok::<(), Infallible>(()) });
    let end = timeout(PATIENCE, tasks.wait_for_end())
        .await
        .expect("drain begins");
    assert_eq!(end.reason, "critical task short ended early");
}

#[tokio::test]
async fn panic_in_a_critical_task_begins_the_drain() {
    let tasks = Tasks::new();
    tasks.spawn("fragile", TaskKind::Critical, async {
        if tokio::task::id().to_string().is_empty() {
            return Ok::<(), Infallible>(());
        }
        panic!("number {}", 7)
    });
    let end = timeout(PATIENCE, tasks.wait_for_end())
        .await
        .expect("drain begins");
    assert_eq!(end.reason, "critical task fragile failed: panicked: number 7");
}

#[tokio::test]
async fn failing_best_effort_stops_nothing() {
    let tasks = Tasks::new();
    tasks.spawn("luxury", TaskKind::BestEffort, async {
        Err(io::Error::other("no luck"))
    });
    let (told, heard) = oneshot::channel();
    tasks.spawn("after", TaskKind::BestEffort, async move {
        told.send(()).map_err(|()| io::Error::other("nobody listens"))
    });
    timeout(PATIENCE, heard).await.expect("still runs").expect("sent");
    assert_eq!(tasks.reason(), None);
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn straggler_is_named_and_its_parent_still_ends() {
    let tasks = Tasks::new();
    let child = tasks.child("child");
    let log = Arc::new(Mutex::new(Vec::new()));
    wait_in(&tasks, "parent", &log);
    child.spawn(
        "deaf",
        TaskKind::BestEffort,
        std::future::pending::<Result<(), Infallible>>(),
    );
    let report = tasks.drain(Duration::from_secs(10)).await;
    assert_eq!(report.stragglers, ["child/deaf"]);
    assert_eq!(*log.lock(), ["parent"]);
    assert!(
        report.took <= Duration::from_secs(6),
        "the child had half of the deadline: {report}"
    );
}

#[tokio::test]
async fn straggling_thread_is_left_behind() {
    let tasks = Tasks::new();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let body = move |_| held.recv().map_err(Into::into);
    tasks
        .spawn_thread("stuck", TaskKind::BestEffort, body)
        .expect("thread");
    let report = tasks.drain(Duration::from_millis(50)).await;
    assert_eq!(report.stragglers, ["stuck"]);
    release.send(()).expect("thread still waits");
}

#[tokio::test]
async fn thread_gets_the_token_and_ends_with_it() {
    let tasks = Tasks::new();
    let body = |token: crate::CancellationToken| {
        while !token.is_cancelled() {
            std::thread::yield_now();
        }
        Ok(())
    };
    tasks
        .spawn_thread("polls", TaskKind::Critical, body)
        .expect("thread");
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn panic_in_a_critical_thread_begins_the_drain() {
    let tasks = Tasks::new();
    tasks
        .spawn_thread("thread", TaskKind::Critical, |_| panic!("overheated"))
        .expect("thread");
    let end = timeout(PATIENCE, tasks.wait_for_end())
        .await
        .expect("drain begins");
    assert_eq!(end.reason, "critical task thread failed: panicked: overheated");
}

#[tokio::test(start_paused = true)]
async fn restartable_runs_again_after_errors_and_panics() {
    let tasks = Tasks::new();
    let runs = Arc::new(AtomicU32::new(0));
    let (done, finished) = oneshot::channel();
    let mut done = Some(done);
    let counter = runs.clone();
    tasks.spawn_restartable("again", move || {
        let run = counter.fetch_add(1, Ordering::SeqCst);
        let done = if run == 2 { done.take() } else { None };
        async move {
            match (run, done) {
                (0, _) => Err(io::Error::other("first")),
                (1, _) => panic!("second"),
                (_, Some(done)) => done.send(()).map_err(|()| io::Error::other("nobody listens")),
                _ => Ok(()),
            }
        }
    });
    timeout(Duration::from_secs(120), finished)
        .await
        .expect("third run")
        .expect("sent");
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn restartable_in_its_wait_ends_at_once() {
    let tasks = Tasks::new();
    tasks.spawn_restartable("fails", || async { Err::<(), _>(io::Error::other("always")) });
    tokio::time::sleep(Duration::from_secs(300)).await;
    let report = tasks.drain(PATIENCE).await;
    assert!(
        report.is_clean() && report.took < Duration::from_secs(1),
        "{report}"
    );
}

#[tokio::test]
async fn node_without_tasks_or_handles_is_forgotten() {
    let tasks = Tasks::new();
    for _ in 0..1000 {
        let room = tasks.child("passing");
        drop(room.child("below"));
    }
    assert!(tasks.drain(PATIENCE).await.is_clean());
}

#[tokio::test]
async fn signals_reload_and_begin_the_drain() {
    let tasks = Tasks::new();
    let mut reload = listen_for_signals(&tasks).expect("handlers");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).expect("raise");
    timeout(PATIENCE, reload.wait_for(|count| *count == 1))
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(tasks.reason(), None);
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).expect("raise");
    let end = timeout(PATIENCE, tasks.wait_for_end())
        .await
        .expect("drain begins");
    assert_eq!(end.reason, "received SIGTERM");
    assert!(tasks.drain(PATIENCE).await.is_clean());
}
