//! What every store does.

use std::collections::BTreeSet;

use collector_store::{ClockAhead, CommitError, OWN_HOST, QueryError, QueryLimits, Resolution, SeriesSelect};
use fleetmend_event::{Fact, Lane, RecordId, Sequence, SpoolEpoch, TimeMicros};
use serde_json::json;

use crate::hosts::{Host, START, exec, gap, timed};
use crate::scene::{PATIENCE, Scene};
pub(crate) use crate::scope::{
    foreign_host_is_seen_through_no_table, losses_of_a_foreign_host_are_not_named,
    nothing_but_questions_over_the_tables_is_answered, question_for_more_memory_than_there_is_is_refused,
    series_of_a_foreign_host_are_not_selected,
};

const EXECS: &str = "SELECT count(*) FROM process_events";

pub(crate) async fn acknowledged_rows_are_shown_with_what_is_known_of_them(scene: &Scene) {
    let mut host = Host::new();
    let frame = host.execs(2);
    let ahead = ClockAhead::from_micros(Some(-1_500));
    let before = TimeMicros::now().0;
    let marks = scene
        .store
        .commit_timed(host.id, vec![(frame, ahead)], Vec::new())
        .await
        .unwrap();
    let after = TimeMicros::now().0;
    assert_eq!(marks.len(), 1);
    assert_eq!(
        (marks[0].lane, marks[0].sequence, marks[0].epoch),
        (Lane::Events, Sequence(1), host.epoch)
    );
    assert_eq!(scene.store.marks(host.id).await.unwrap(), marks);
    let last = scene.store.last_durable(host.id).unwrap().0;
    assert!((before..=after).contains(&last), "{before} {last} {after}");
    let taken = "SELECT host_id, comm, args[2] AS word, unit, clock_ahead_us, args_truncated, \
                 CAST(ingested_at AS BIGINT) AS taken FROM process_events ORDER BY time";
    let rows = scene.rows(taken).await;
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["host_id"], json!(host.id.to_string()));
    assert_eq!(
        (&rows[0]["comm"], &rows[1]["comm"]),
        (&json!("true"), &json!("it's \\ ü"))
    );
    assert_eq!(
        (&rows[0]["unit"], &rows[1]["unit"]),
        (&json!("cron.service"), &json!(null))
    );
    assert_eq!(rows[1]["word"], json!("now"));
    assert_eq!(rows[1]["args_truncated"], json!(false));
    assert_eq!(rows[1]["clock_ahead_us"], json!(-1_500));
    let taken = rows[0]["taken"].as_i64().unwrap();
    assert!((before..=after).contains(&taken), "{before} {taken} {after}");
}

pub(crate) async fn record_sent_twice_is_stored_once(scene: &Scene) {
    let mut host = Host::new();
    let frames = vec![host.execs(5), host.metrics(2), host.execs(7)];
    scene.commit(host.id, frames.clone()).await;
    let marks = scene.commit(host.id, frames.clone()).await;
    assert_eq!(marks.len(), 2);
    assert_eq!(scene.number(EXECS).await, 12);
    assert_eq!(scene.number("SELECT count(*) FROM metrics").await, 20);
    let mut more = frames;
    more.push(host.execs(1));
    scene.commit(host.id, more).await;
    assert_eq!(scene.number(EXECS).await, 13);
    assert_eq!(scene.number("SELECT count(*) FROM gaps").await, 0);
}

pub(crate) async fn other_record_under_a_stored_number_is_refused(scene: &Scene) {
    let mut host = Host::new();
    let mut clone = Host::new();
    clone.id = host.id;
    clone.epoch = host.epoch;
    scene.commit(host.id, vec![host.execs(3)]).await;
    let other = clone.execs(4);
    let id = other.id;
    let refused = scene
        .store
        .commit_timed(host.id, timed(vec![other]), Vec::new())
        .await;
    assert_eq!(refused.unwrap_err(), CommitError::Conflict { id });
    assert_eq!(scene.number(EXECS).await, 3);
    scene.commit(host.id, vec![host.execs(2)]).await;
    assert_eq!(scene.number(EXECS).await, 5);
}

pub(crate) async fn skipped_number_is_refused_until_it_is_declared_lost(scene: &Scene) {
    let mut host = Host::new();
    scene.commit(host.id, vec![host.execs(1)]).await;
    host.skip(Lane::Events, 3);
    let late = host.execs(2);
    let refused = scene
        .store
        .commit_timed(host.id, timed(vec![late.clone()]), Vec::new())
        .await;
    assert_eq!(
        refused.unwrap_err(),
        CommitError::OutOfOrder {
            id: late.id,
            expected: 2,
            found: 5
        }
    );
    scene.store.declare_lost(host.id, late.id);
    let marks = scene.commit(host.id, vec![late]).await;
    assert_eq!(marks[0].sequence, Sequence(5));
    let gaps = scene.rows("SELECT host_id, count, reason, stage FROM gaps").await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0]["count"], json!(3));
    assert_eq!(gaps[0]["reason"], json!("records 2 to 4 never received"));
    assert_eq!(gaps[0]["host_id"], json!(host.id.to_string()));
}

pub(crate) async fn tombstone_takes_its_number_and_shows_no_rows(scene: &Scene) {
    let mut host = Host::new();
    let frames = vec![host.execs(1), host.execs(2).shed(), host.execs(4)];
    let marks = scene.commit(host.id, frames.clone()).await;
    assert_eq!(marks[0].sequence, Sequence(3));
    assert_eq!(scene.number(EXECS).await, 5);
    // What was shed after it was sent is the record that is stored.
    scene
        .commit(host.id, frames.iter().map(|frame| frame.shed()).collect())
        .await;
    assert_eq!(scene.number(EXECS).await, 5);
}

pub(crate) async fn unreadable_rows_become_a_gap_and_stop_nobody(scene: &Scene) {
    let mut host = Host::new();
    let mut garbage = host.execs(5);
    garbage.body = bytes::Bytes::from_static(b"not arrow");
    let mut unknown = host.execs(3);
    unknown.table = 999;
    let frames = vec![garbage, unknown, host.execs(2)];
    let marks = scene.commit(host.id, frames.clone()).await;
    assert_eq!(marks[0].sequence, Sequence(3));
    scene.commit(host.id, frames).await;
    assert_eq!(scene.number(EXECS).await, 2);
    let lost = "SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE stage = 'ingest'";
    assert_eq!(scene.number(lost).await, 8);
}

pub(crate) async fn gap_of_a_record_is_stored_once_with_it(scene: &Scene) {
    let mut host = Host::new();
    let frames = timed(vec![host.execs(2), host.execs(3).shed()]);
    let gaps = vec![(frames[1].0.id, gap(3, "given up"))];
    for _ in 0..3 {
        scene
            .store
            .commit_timed(host.id, frames.clone(), gaps.clone())
            .await
            .unwrap();
    }
    assert_eq!(scene.number("SELECT count(*) FROM gaps").await, 1);
    assert_eq!(
        scene.number("SELECT CAST(sum(count) AS BIGINT) FROM gaps").await,
        3
    );
}

pub(crate) async fn gap_before_an_epoch_makes_the_epoch_known(scene: &Scene) {
    let mut host = Host::new();
    let id = RecordId {
        epoch: host.epoch,
        lane: Lane::Events,
        sequence: Sequence(0),
    };
    scene
        .store
        .commit_timed(host.id, Vec::new(), vec![(id, gap(9, "lost spool"))])
        .await
        .unwrap();
    let marks = scene.store.marks(host.id).await.unwrap();
    assert_eq!(marks.len(), 1);
    assert_eq!((marks[0].epoch, marks[0].sequence), (host.epoch, Sequence(0)));
    assert_eq!(
        scene
            .number("SELECT count(*) FROM gaps WHERE reason = 'lost spool'")
            .await,
        1
    );
    let marks = scene.commit(host.id, vec![host.execs(1)]).await;
    assert_eq!(marks[0].sequence, Sequence(1));
}

pub(crate) async fn own_facts_are_stored_and_told(scene: &Scene) {
    let mut told = scene.store.subscribe();
    scene
        .store
        .append_own(Fact::from(gap(1, "of the store")))
        .await
        .unwrap();
    let host = Host::new();
    scene
        .store
        .append_for(host.id, vec![Fact::from(gap(2, "of a host"))])
        .await
        .unwrap();
    for (of, reason) in [(OWN_HOST, "of the store"), (host.id, "of a host")] {
        let query = format!("SELECT count(*) FROM gaps WHERE host_id = '{of}' AND reason = '{reason}'");
        assert_eq!(scene.number(&query).await, 1);
        let facts = tokio::time::timeout(PATIENCE, told.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((facts.host, facts.table.name), (of, "gaps"));
    }
    assert!(
        scene.store.marks(host.id).await.unwrap().is_empty(),
        "the store's own epochs are nobody's marks"
    );
}

pub(crate) async fn reserved_identity_is_refused(scene: &Scene) {
    let mut host = Host::new();
    let refused = scene
        .store
        .commit_timed(OWN_HOST, timed(vec![host.execs(1)]), Vec::new())
        .await;
    assert_eq!(refused.unwrap_err(), CommitError::Reserved);
    let mut forged = Host::new();
    forged.epoch = SpoolEpoch::from_bytes(*b"FMSTORE\0........");
    let refused = scene
        .store
        .commit_timed(forged.id, timed(vec![forged.execs(1)]), Vec::new())
        .await;
    assert_eq!(refused.unwrap_err(), CommitError::Reserved);
}

pub(crate) async fn samples_of_series_beyond_the_limit_are_a_gap(scene: &Scene) {
    let mut host = Host::new();
    let frames = vec![host.metrics(60)];
    scene.commit(host.id, frames.clone()).await;
    scene.commit(host.id, frames).await;
    assert_eq!(scene.number("SELECT count(*) FROM metrics").await, 500);
    assert_eq!(
        scene
            .number("SELECT CAST(sum(count) AS BIGINT) FROM gaps WHERE reason = 'series_limit'")
            .await,
        100
    );
}

pub(crate) async fn series_are_selected_by_name_host_and_time(scene: &Scene) {
    let (mut one, mut other) = (Host::number(1), Host::number(2));
    scene.commit(one.id, vec![one.metrics(3), one.metrics(3)]).await;
    scene.commit(other.id, vec![other.metrics(2)]).await;
    // The second batch begins at START + 20 s.
    let second = 1_000_000;
    let mut select = SeriesSelect::between(TimeMicros(START + 15 * second), TimeMicros(START + 21 * second));
    select.names = Some(BTreeSet::from(["system.metric.001".to_owned()]));
    let answer = scene.store.select(select.clone()).await.unwrap();
    let told: Vec<_> = answer
        .series
        .iter()
        .map(|series| (series.key.host, series.key.name.as_str()))
        .collect();
    assert_eq!(
        told,
        [(one.id, "system.metric.001"), (other.id, "system.metric.001")]
    );
    let times: Vec<i64> = answer.series[0]
        .times
        .iter()
        .map(|time| (time.0 - START) / second)
        .collect();
    assert_eq!(times, [16, 17, 18, 19, 20, 21]);
    let values = &answer.series[0].values;
    assert!(
        values[1].is_nan(),
        "the sample that could not be taken: {values:?}"
    );
    assert_eq!((values[0], values[2], values[4]), (6.5, 8.5, 0.5));
    assert_eq!(answer.series[0].key.labels, r#"{"cpu.mode":"user"}"#);
    select.names = None;
    select.hosts = Some(BTreeSet::from([other.id]));
    let keys = scene.store.series_keys(select.clone()).await.unwrap();
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["system.metric.000", "system.metric.001"]);
    select.samples_max = 3;
    let refused = scene.store.select(select).await.unwrap_err();
    assert!(
        matches!(refused, QueryError::TooMuch { most: 3, .. }),
        "{refused}"
    );
}

/// None of them has made windows of these samples: those of another engine never do, and an embedded one not so soon.
pub(crate) async fn samples_that_are_kept_answer_whatever_resolution_is_asked_for(scene: &Scene) {
    let (mut one, mut other) = (Host::number(1), Host::number(2));
    scene.commit(one.id, vec![one.metrics(3), one.metrics(3)]).await;
    scene.commit(other.id, vec![other.metrics(2)]).await;
    let mut told = Vec::new();
    for resolution in [
        Resolution::Samples,
        Resolution::Finest,
        Resolution::windows(3_600_000_000).unwrap(),
    ] {
        let mut select =
            SeriesSelect::between(TimeMicros(START + 12_000_000), TimeMicros(START + 25_000_000));
        select.resolution = resolution;
        let answer = scene.store.select(select).await.unwrap();
        assert!(answer.tiers.is_empty());
        let mut series = Vec::new();
        for one in answer.series {
            assert!(one.windows.is_empty());
            let bits: Vec<u64> = one.values.iter().map(|value| value.to_bits()).collect();
            series.push((one.key, one.times, bits));
        }
        told.push(series);
    }
    assert_eq!(told[0].len(), 5);
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

pub(crate) async fn answers_name_the_gaps_that_touch_what_they_read(scene: &Scene) {
    let mut host = Host::new();
    let frame = host.execs(1).shed();
    let gaps = vec![(frame.id, gap(1, "told"))];
    scene
        .store
        .commit_timed(host.id, timed(vec![frame]), gaps)
        .await
        .unwrap();
    let asked = async |query: &str| {
        let answer = scene.store.sql(query, QueryLimits::default()).await.unwrap();
        answer
            .gaps
            .iter()
            .map(|held| (held.host_id, held.gap.reason.clone()))
            .collect::<Vec<_>>()
    };
    let touched = asked("SELECT pid FROM process_events WHERE time < TIMESTAMP '2026-01-01 00:00:30Z'").await;
    assert_eq!(touched, [(host.id, "told".to_owned())]);
    let later = asked("SELECT pid FROM process_events WHERE time > TIMESTAMP '2026-01-01 00:05:00Z'").await;
    assert_eq!(later, []);
    assert_eq!(asked("SELECT value FROM metrics").await, []);
}

pub(crate) async fn questions_are_answered_and_changes_refused(scene: &Scene) {
    let mut host = Host::new();
    scene.commit(host.id, vec![host.execs(4)]).await;
    for change in [
        "DROP TABLE process_events",
        "INSERT INTO process_events SELECT * FROM process_events",
        "CREATE TABLE a AS SELECT 1",
        "COPY process_events TO '/tmp/a'",
    ] {
        let refused = scene.store.sql(change, QueryLimits::default()).await.unwrap_err();
        assert!(
            matches!(refused, QueryError::Refused { .. } | QueryError::Invalid { .. }),
            "{change}: {refused:?}"
        );
    }
    let wrong = scene
        .store
        .sql("SELECT nope FROM process_events", QueryLimits::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&wrong, QueryError::Invalid { reason } if reason.contains("nope")),
        "{wrong:?}"
    );
    let limits = QueryLimits {
        rows_max: 3,
        ..QueryLimits::default()
    };
    let answer = scene
        .store
        .sql("SELECT pid FROM process_events ORDER BY pid", limits)
        .await
        .unwrap();
    assert!(answer.truncated && answer.rows() == 3);
    let none = scene.store.sql(
        "SELECT pid, time FROM process_events WHERE pid = 77",
        QueryLimits::default(),
    );
    let none = none.await.unwrap();
    assert_eq!((none.rows(), none.schema.fields().len()), (0, 2));
}

pub(crate) async fn commit_is_all_or_nothing(scene: &Scene) {
    let mut host = Host::new();
    let first = host.execs(2);
    host.skip(Lane::Events, 1);
    let refused = scene
        .store
        .commit_timed(host.id, timed(vec![first.clone(), host.execs(3)]), Vec::new())
        .await;
    assert!(
        matches!(refused, Err(CommitError::OutOfOrder { expected: 2, .. })),
        "{refused:?}"
    );
    assert_eq!(scene.number(EXECS).await, 0);
    assert!(scene.store.marks(host.id).await.unwrap().is_empty());
    scene.commit(host.id, vec![first]).await;
    assert_eq!(scene.number(EXECS).await, 2);
}

pub(crate) async fn hosts_commit_at_once_and_lose_nothing(scene: &Scene) {
    let sending = (1..=8).map(async |number| {
        let mut host = Host::number(number);
        for _ in 0..5 {
            let frames = vec![host.execs(3), host.metrics(2)];
            scene.commit(host.id, frames).await;
        }
        let rows = [exec(START, 1)];
        let frame = host.frame(&rows, START, START);
        scene.commit(host.id, vec![frame]).await;
    });
    futures::future::join_all(sending).await;
    assert_eq!(scene.number(EXECS).await, 8 * 16);
    assert_eq!(scene.number("SELECT count(*) FROM metrics").await, 8 * 100);
    assert_eq!(
        scene
            .number("SELECT count(DISTINCT host_id) FROM process_events")
            .await,
        8
    );
    let stats = scene.store.stats().await.unwrap();
    assert!(stats.tables.iter().any(|table| table.table == "process_events"));
}
