//! Restoring to a moment.

use fleetmend_event::TimeMicros;

use super::super::testbed::chunk;
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

/// Backs up, restores a moment before the second backup, and looks at it; also when what came until then was compacted.
async fn met_between_two_backups(place: &Place, bed: Bed, is_compacted: bool) -> (Bed, Host) {
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 2).await;
    place.back_up().await.unwrap();
    commit_execs(&bed, &mut host, 3).await;
    let wanted = moment().await;
    commit_execs(&bed, &mut host, 4).await;
    if is_compacted {
        compacted(&bed, 1).await;
    }
    place.back_up().await.unwrap();
    bed.close().await;
    let plan = place.plan(Some(wanted)).await.unwrap();
    assert_eq!(
        (plan.manifest.sequence, plan.until, plan.lands_at),
        (1, Some(wanted), wanted)
    );
    place.restore_plan(plan, "target").await.unwrap();
    let bed = open(&place.target("target")).await;
    assert_eq!(counts(&bed).await, (50, 10, 1, 0));
    assert_eq!(bed.store.marks(host.id)[0].sequence.0, 5);
    (bed, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn moment_between_two_backups_is_met_within_the_entries() {
    let place = Place::new();
    let bed = open_lazy(&place.store()).await;
    let (bed, host) = met_between_two_backups(&place, bed, false).await;
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
async fn moment_that_was_compacted_over_is_met_within_the_entries() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let (bed, _) = met_between_two_backups(&place, bed, true).await;
    bed.close().await;
}

fn busy(folder: &Path) -> StoreConfig {
    StoreConfig {
        maintenance_interval_ms: 10,
        merge_files_min: 2,
        tier_interval_s: 0,
        ..config(folder)
    }
}

/// Events, and samples of an hour that was over yesterday, compacted; `sent` says how many records of samples were
/// before.
async fn work(bed: &Bed, host: &mut Host, sent: i64, rounds: i64) {
    const HOUR: i64 = 3_600_000_000;
    let hour = TimeMicros::now().0.div_euclid(24 * HOUR) * 24 * HOUR - 12 * HOUR;
    for number in sent..sent + rounds {
        commit_execs(bed, host, 2).await;
        let start = hour + number * 10_000_000;
        let samples = host.frame(&[chunk(start, 0), chunk(start, 1)], start, start + 9_000_000);
        let timed = vec![(samples, crate::ClockAhead::NONE)];
        bed.store.commit_timed(host.id, timed, Vec::new()).await.unwrap();
        compacted(bed, 1).await;
    }
}

/// Backups, and moments between them, while everything is compacted, merged and summed up, also over a restart: each
/// moment is met, and nothing is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_met_across_compaction_merges_tiers_and_restarts() {
    let place = Place::new();
    let mut bed = open_with(busy(&place.store())).await;
    let mut host = Host::new();
    // Records of events and of samples.
    let (mut sent, mut wanted) = ((0, 0), Vec::new());
    let mut send = async |bed: &Bed, rounds: i64| {
        work(bed, &mut host, sent.1, rounds).await;
        sent = (sent.0 + 2 * rounds, sent.1 + rounds);
        sent
    };
    send(&bed, 3).await;
    place.back_up().await.unwrap();
    for round in 0..3 {
        send(&bed, 2).await;
        if round == 1 {
            bed.close().await;
            bed = open_with(busy(&place.store())).await;
        }
        let sent = send(&bed, 1).await;
        wanted.push((moment().await, sent));
        send(&bed, 3).await;
        bed.wait_for("SELECT count(DISTINCT name) FROM metrics_1h", 2)
            .await;
        place.back_up().await.unwrap();
    }
    bed.close().await;
    assert_eq!(place.verify().await.told, Vec::<String>::new());
    for (at, (events, samples)) in wanted {
        let plan = place.plan(Some(at)).await.unwrap();
        assert_eq!((plan.until, plan.lands_at), (Some(at), at));
        let name = format!("target-{events}");
        place.restore_plan(plan, &name).await.unwrap();
        let bed = open_with(busy(&place.target(&name))).await;
        assert_eq!(counts(&bed).await, (events * 10, 10, 1, 0), "{at}");
        assert_eq!(
            bed.number("SELECT count(*) FROM metrics").await,
            samples * 20,
            "{at}"
        );
        bed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moment_whose_segments_the_store_could_not_keep_is_met_by_the_backup_before() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 2).await;
    let first = place.back_up().await.unwrap();
    commit_execs(&bed, &mut host, 3).await;
    let wanted = moment().await;
    // As when too much would be kept.
    std::fs::remove_dir_all(place.store().join("kept")).unwrap();
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

/// Two repositories: the store keeps segments for the one that asked first, and the other one says what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn second_repository_takes_nothing_from_the_first() {
    let place = Place::new();
    let bed = open(&place.store()).await;
    let mut host = Host::new();
    commit_execs(&bed, &mut host, 2).await;
    place.back_up().await.unwrap();
    let other = place.target("other");
    std::fs::create_dir(&other).unwrap();
    commit_execs(&bed, &mut host, 3).await;
    let wanted = moment().await;
    compacted(&bed, 1).await;
    let by_hand = back_up_of(&place.store(), &other, None).await.unwrap();
    commit_execs(&bed, &mut host, 1).await;
    compacted(&bed, 1).await;
    back_up_of(&place.store(), &other, None).await.unwrap();
    place.back_up().await.unwrap();
    bed.close().await;
    assert_eq!(place.plan(Some(wanted)).await.unwrap().lands_at, wanted);
    let between = by_hand.manifest.time.plus_micros(1);
    let lands_at = blocking(move |_| {
        Ok::<_, BackupError>(plan(&Repository::open(&other, None)?, Some(between))?.lands_at)
    });
    assert_eq!(lands_at.await.unwrap(), by_hand.manifest.time);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_that_cannot_be_read_does_not_stand_in_the_way_of_later_moments() {
    let place = Place::new();
    let bed = open_lazy(&place.store()).await;
    let mut host = Host::new();
    let mut between = None;
    for _ in 0..4 {
        commit_execs(&bed, &mut host, 1).await;
        place.back_up().await.unwrap();
        between = Some(moment().await).filter(|_| between.is_none()).or(between);
    }
    let late = moment().await;
    bed.close().await;
    std::fs::write(place.manifest(1), "nothing").unwrap();
    let plan = place.plan(Some(late)).await.unwrap();
    assert_eq!(plan.manifest.sequence, 4);
    drop(plan);
    // What only that one could tell is refused for the reason.
    let error = place.plan(between).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
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
