//! Restoring to a moment.

use fleetmend_event::TimeMicros;

use super::*;
use crate::StoreConfig;

/// A moment after everything that was taken, and before everything that will be.
async fn moment() -> TimeMicros {
    let now = TimeMicros::now();
    super::super::testbed::eventually("a later millisecond", || {
        TimeMicros::now().micros_since(now) > 1_000
    })
    .await;
    now.plus_micros(500)
}

/// A store that compacts only when it is told to.
async fn open_lazy(folder: &Path) -> Bed {
    open_with(StoreConfig {
        maintenance_interval_ms: 3_600_000,
        ..config(folder)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn moment_between_two_backups_is_met_within_the_entries() {
    let place = Place::new();
    let bed = open_lazy(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 2).await;
    place.back_up().await.unwrap();
    commit_execs(&bed, &mut host, 3).await;
    let wanted = moment().await;
    commit_execs(&bed, &mut host, 4).await;
    place.back_up().await.unwrap();
    bed.close().await;
    let plan = place.plan(Some(wanted)).await.unwrap();
    assert_eq!(
        (plan.manifest.sequence, plan.until, plan.lands_at),
        (2, Some(wanted), wanted)
    );
    place.restore_plan(plan, "target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (50, 10, 1, 0));
    assert_eq!(bed.store.marks(host.id)[0].sequence.0, 5);
    // The agent sends the rest again.
    commit_execs(&bed, &mut again(&host, 6), 4).await;
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 90);
    bed.close().await;
}

/// The host before it sent record `next`.
fn again(host: &Host, next: u64) -> Host {
    let mut earlier = Host::new();
    earlier.id = host.id;
    earlier.epoch = host.epoch;
    for _ in 1..next {
        earlier.execs(1);
    }
    earlier
}

#[tokio::test(flavor = "multi_thread")]
async fn moment_that_was_compacted_over_is_met_by_the_backup_before() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 2).await;
    let first = place.back_up().await.unwrap();
    commit_execs(&bed, &mut host, 3).await;
    let wanted = moment().await;
    commit_execs(&bed, &mut host, 4).await;
    compacted(&bed, 1).await;
    place.back_up().await.unwrap();
    bed.close().await;
    let plan = place.plan(Some(wanted)).await.unwrap();
    assert_eq!(
        (plan.manifest.sequence, plan.until, plan.lands_at),
        (1, None, first.manifest.time)
    );
    place.restore_plan(plan, "target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (20, 10, 1, 0));
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moment_after_the_last_backup_is_met_by_it_and_one_before_the_first_by_none() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let early = moment().await;
    commit_execs(&bed, &mut Host::new(), 2).await;
    let made = place.back_up().await.unwrap();
    bed.close().await;
    let plan = place.plan(Some(TimeMicros::now())).await.unwrap();
    assert_eq!((plan.manifest.sequence, plan.lands_at), (1, made.manifest.time));
    let error = place.plan(Some(early)).await.unwrap_err();
    assert!(matches!(error, BackupError::TooEarly { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_row_tells_from_when_on_something_may_be_missing() {
    let place = Place::new();
    let bed = open_lazy(&place.store()).await;
    commit_execs(&bed, &mut Host::new(), 2).await;
    let made = place.back_up().await.unwrap();
    bed.close().await;
    place.restore("target").await.unwrap();
    let bed = open(&place.target("target")).await;
    let answer = bed
        .store
        .sql(
            "SELECT count(*) FROM process_events",
            crate::QueryLimits::default(),
        )
        .await
        .unwrap();
    let stage = fleetmend_event::table::GapStage::Restore;
    let told = answer
        .gaps
        .iter()
        .find(|gap| gap.gap.stage == stage)
        .expect("the gap is told");
    assert_eq!(told.gap.from_time, made.manifest.time);
    assert!(
        told.gap.to_time > told.gap.from_time && told.gap.count == 0,
        "{told:?}"
    );
    bed.close().await;
}
