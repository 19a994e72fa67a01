use std::time::Duration;

use fleetmend_testkit::wait_for;
use serde_json::json;

use crate::receiver::Fault;
use crate::testbed::{DEADLINE, Testbed, lately};

/// A new target is given the past that the tests write.
fn with_past() -> serde_json::Value {
    json!({ "backfill": "1h" })
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_arrive_once_and_equal_over_an_end_and_a_start() {
    let testbed = Testbed::start().await;
    let config = testbed.remote_write(with_past());
    let begin = lately();
    let part = |from: i64| (from..from + 10).map(move |step| begin + step * 1_000);
    testbed.add(part(0)).await;
    let running = testbed.run(&config).await;
    testbed.arrived(part(0)).await;
    testbed.add(part(10)).await;
    testbed.arrived(part(0).chain(part(10))).await;
    running.end().await;
    testbed.add(part(20)).await;
    let running = testbed.run(&config).await;
    testbed.add(part(30)).await;
    let all = || (0..40).map(|step| begin + step * 1_000);
    let counts = testbed.arrived(all()).await;
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
    let first = testbed.receiver.taken().remove(0);
    assert_eq!(first.headers["content-encoding"], "snappy");
    assert_eq!(first.headers["x-prometheus-remote-write-version"], "0.1.0");
    assert_eq!(first.path, "/in");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing() {
    let testbed = Testbed::start().await;
    let config = testbed.remote_write(json!({ "backfill": "1h", "per_request_max": 7 }));
    let begin = lately();
    let times = |to: i64| (0..to).map(move |step| begin + step * 500);
    for round in 0..5 {
        let running = testbed.run(&config).await;
        let before = testbed.receiver.taken().len();
        testbed
            .add(times((round + 1) * 10).skip(usize::try_from(round * 10).unwrap()))
            .await;
        // In the middle of what it does.
        wait_for(
            DEADLINE,
            async || testbed.receiver.taken().len(),
            |count| *count > before,
        )
        .await
        .unwrap();
        running.kill();
    }
    let running = testbed.run(&config).await;
    testbed.arrived(times(50)).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_does_wrong_loses_nothing() {
    let testbed = Testbed::start().await;
    let config = testbed.remote_write(json!({ "backfill": "1h", "timeout": "300ms" }));
    let begin = lately();
    let times = |to: i64| (0..to).map(move |step| begin + step * 1_000);
    let running = testbed.run(&config).await;
    let faults = [
        Fault::Status(500),
        Fault::TooMany(1),
        Fault::Hang,
        Fault::Redirect,
        Fault::Status(401),
        Fault::Status(503),
        Fault::BreakOff,
    ];
    testbed.receiver.fail(faults);
    testbed.add(times(5)).await;
    wait_for(
        DEADLINE,
        async || testbed.receiver.faults_left(),
        |left| *left == 0,
    )
    .await
    .unwrap();
    testbed.add(times(9).skip(5)).await;
    let counts = testbed.arrived(times(9)).await;
    // What was taken and not answered for is sent again: at least once.
    assert!(counts.iter().all(|count| (1..=2).contains(count)), "{counts:?}");
    let signal = testbed.signal(&running).await;
    assert_eq!(signal.dropped, 0, "{signal:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_refuses_costs_only_itself() {
    let testbed = Testbed::start().await;
    testbed.receiver.refuse_series("bad_series");
    let config = testbed.remote_write(with_past());
    let begin = lately();
    testbed.add([begin, begin + 1_000]).await;
    let running = testbed.run(&config).await;
    let good = |samples: &std::collections::BTreeMap<(String, i64), Vec<f64>>| {
        samples
            .keys()
            .filter(|(labels, _)| !labels.contains("bad_series"))
            .count()
    };
    wait_for(
        DEADLINE,
        async || testbed.receiver.samples(),
        |samples| good(samples) == 8,
    )
    .await
    .unwrap();
    let refused = wait_for(
        DEADLINE,
        async || testbed.signal(&running).await,
        |signal| signal.dropped == 4,
    );
    let refused = refused.await.unwrap();
    let (_, reason) = refused.last_refusal.unwrap();
    assert!(reason.contains("400") && reason.contains("no sir"), "{reason}");
    // The series beside it goes on.
    testbed.add([begin + 2_000]).await;
    wait_for(
        DEADLINE,
        async || testbed.receiver.samples(),
        |samples| good(samples) == 12,
    )
    .await
    .unwrap();
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_away_is_caught_up() {
    let testbed = Testbed::start().await;
    let config = testbed.remote_write(with_past());
    let begin = lately();
    let times = |to: i64| (0..to).map(move |step| begin + step * 100);
    let running = testbed.run(&config).await;
    testbed.add(times(1)).await;
    testbed.arrived(times(1)).await;
    testbed.receiver.fail_always(Some(Fault::Status(503)));
    testbed.add(times(200).skip(1)).await;
    let waiting = wait_for(
        DEADLINE,
        async || testbed.signal(&running).await,
        |signal| signal.mode == "waiting" && signal.behind_seconds > 0.0,
    );
    let waiting = waiting.await.unwrap();
    assert!(waiting.last_error.unwrap().contains("503"));
    testbed.receiver.fail_always(None);
    let counts = testbed.arrived(times(200)).await;
    assert!(counts.iter().all(|count| *count == 1), "nothing came twice");
    let live = wait_for(
        DEADLINE,
        async || testbed.signal(&running).await,
        |signal| signal.mode == "live",
    );
    assert_eq!(live.await.unwrap().last_error, None);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_bound_is_left_out_and_said() {
    let testbed = Testbed::start().await;
    let config = testbed.remote_write(with_past());
    let now = lately();
    let running = testbed.run(&config).await;
    testbed.add([now - 1_800_000, now - 1_799_000]).await;
    testbed.arrived([now - 1_800_000, now - 1_799_000]).await;
    running.end().await;
    testbed.add([now - 1_200_000, now]).await;
    let config = testbed.remote_write(json!({ "backfill": "1h", "catch_up_max": "10m" }));
    let running = testbed.run(&config).await;
    testbed.arrived([now - 1_800_000, now - 1_799_000, now]).await;
    let status = running.export.status().await.unwrap();
    let subjects: Vec<&str> = status[0].skips.iter().map(|skip| skip.subject.as_str()).collect();
    let ids = testbed.hosts.map(|host| host.to_string());
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert!(ids.iter().all(|id| subjects.contains(&id.as_str())));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_metrics_are_sent_and_a_test_sends_none() {
    let testbed = Testbed::start().await;
    let password = testbed.folder().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let config = testbed.remote_write(json!({
        "backfill": "1h", "metrics": { "allow": ["system_.*"], "deny": [".*_time"] },
        "external_labels": { "dc": "a" }, "headers": { "X-Scope-OrgID": "ops" },
        "username": "u", "password_file": password,
    }));
    let running = testbed.run(&config).await;
    let outcome = running.export.test("there").await.unwrap();
    assert!(outcome.accepted, "{outcome:?}");
    assert!(running.export.test("elsewhere").await.is_none());
    assert_eq!(testbed.receiver.samples().len(), 0);
    let begin = lately();
    testbed.add([begin]).await;
    let samples = wait_for(
        DEADLINE,
        async || testbed.receiver.samples(),
        |samples| samples.len() == 2,
    )
    .await
    .unwrap();
    assert!(
        samples
            .keys()
            .all(|(labels, _)| labels.contains("system_load_1m") && labels.contains("dc=a"))
    );
    let taken = testbed.receiver.taken().pop().unwrap();
    assert_eq!(taken.headers["x-scope-orgid"], "ops");
    assert_eq!(taken.headers["authorization"], "Basic dTpzM2NyZXQ=");
    testbed.receiver.fail([Fault::Status(403)]);
    let outcome = running.export.test("there").await.unwrap();
    assert!(!outcome.accepted && outcome.reason.contains("403"), "{outcome:?}");
    assert_eq!(testbed.receiver.refused(), 1);
    tokio::time::timeout(Duration::from_secs(20), running.end())
        .await
        .unwrap();
}
