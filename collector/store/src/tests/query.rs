use std::time::Duration;

use super::testbed::{Bed, Host, START, folder, open};
use crate::{QueryClass, QueryError, QueryLimits, to_json_rows};

async fn filled(folder: &std::path::Path) -> (Bed, Host) {
    let bed = open(folder).await;
    let mut host = Host::new();
    let frames = vec![host.execs(10), host.metrics(3), host.metrics(3)];
    bed.store.commit(host.id, frames).await.unwrap();
    (bed, host)
}

#[tokio::test]
async fn metrics_are_one_row_per_sample() {
    let folder = folder();
    let (bed, host) = filled(folder.path()).await;
    let query = "SELECT time, host_id, name, unit, labels, value, label(labels, 'cpu.mode') AS mode FROM metrics \
                 WHERE name = 'system.metric.001' AND value = 3 ORDER BY time";
    let answer = bed.store.sql(query, QueryLimits::default()).await.unwrap();
    let rows = to_json_rows(&answer.batches).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["time"], "2026-01-01T00:00:13Z");
    assert_eq!(rows[0]["host_id"], host.id.to_string());
    assert_eq!(
        (rows[0]["value"].as_f64(), rows[0]["mode"].as_str()),
        (Some(3.0), Some("user"))
    );
    assert_eq!(bed.number("SELECT count(*) FROM metrics").await, 60);
    bed.close().await;
}

#[tokio::test]
async fn value_that_could_not_be_taken_is_null() {
    let folder = folder();
    let (bed, mut host) = filled(folder.path()).await;
    let mut chunk = super::testbed::chunk(START, 7);
    chunk.value = vec![1.0, f64::NAN, 3.0];
    chunk.step_ms = 0;
    chunk.offset_ms = vec![0, 1_100, 2_500];
    let frame = host.frame(&[chunk], START, START + 2_500_000);
    bed.store.commit(host.id, vec![frame]).await.unwrap();
    let of = "FROM metrics WHERE name = 'system.metric.007'";
    assert_eq!(bed.number(&format!("SELECT count(value) {of}")).await, 2);
    assert_eq!(
        bed.number(&format!("SELECT CAST(avg(value) AS BIGINT) {of}"))
            .await,
        2
    );
    assert_eq!(
        bed.number(&format!("SELECT count(*) {of} AND time > '2026-01-01T00:00:01Z'"))
            .await,
        2
    );
    bed.close().await;
}

#[tokio::test]
async fn tables_join_group_and_compare_times() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let query = "SELECT comm, count(*) AS n FROM process_events GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5";
    let answer = bed.store.sql(query, QueryLimits::default()).await.unwrap();
    let rows = to_json_rows(&answer.batches).unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| row["n"].as_i64().unwrap())
            .collect::<Vec<_>>(),
        [5, 5]
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE time > now() - interval '1 hour'")
            .await,
        0
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE ingested_at > now() - interval '1 hour'")
            .await,
        10
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events a JOIN process_events b ON a.pid = b.ppid")
            .await,
        10
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'facts' AND table_type = 'BASE TABLE'")
            .await,
        25
    );
    assert_eq!(
        bed.number("SELECT count(*) FROM process_events WHERE host_id = 'nobody'")
            .await,
        0
    );
    bed.close().await;
}

#[tokio::test]
async fn statement_that_is_no_query_is_refused() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    for statement in [
        "DROP TABLE process_events",
        "CREATE TABLE mine (a INT)",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
        "INSERT INTO gaps SELECT * FROM gaps",
        "DELETE FROM gaps",
        "UPDATE gaps SET count = 0",
        "COPY gaps TO '/tmp/gaps.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "CREATE VIEW v AS SELECT 1",
        "EXPLAIN ANALYZE INSERT INTO gaps SELECT * FROM gaps",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "COPY (SELECT 1) TO '/tmp/one.csv'",
        "EXPLAIN COPY (SELECT 1) TO '/tmp/one.csv'",
        "EXPLAIN ANALYZE DELETE FROM gaps",
        "TRUNCATE TABLE gaps",
        "SELECT 1; SELECT 2",
        "SELECT * INTO mine FROM gaps",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM \"http://localhost/x.parquet\"",
        "SHOW ALL",
        "SELECT repeat('x', 2000000000)",
        "SELECT length(lpad('x', 2000000000))",
        "SELECT array_repeat(1, 2000000000)",
        "SELECT range(1, 2000000000)",
        "SELECT generate_series(1, 2000000000)",
    ] {
        let error = bed
            .store
            .sql(statement, QueryLimits::default())
            .await
            .unwrap_err();
        assert!(
            matches!(error, QueryError::Refused { .. } | QueryError::Invalid { .. }),
            "{statement}: {error:?}"
        );
    }
    for query in [
        "SHOW TABLES",
        "DESCRIBE metrics",
        "EXPLAIN SELECT 1",
        "WITH a AS (SELECT 1) SELECT * FROM a UNION ALL VALUES (2)",
    ] {
        assert!(
            bed.store
                .sql(query, QueryLimits::default())
                .await
                .expect(query)
                .rows()
                > 0,
            "{query}"
        );
    }
    let error = bed
        .store
        .sql("SELECT * FROM '/etc/passwd.parquet'", QueryLimits::default())
        .await
        .unwrap_err();
    assert!(matches!(error, QueryError::Invalid { .. }), "{error:?}");
    let error = bed
        .store
        .sql("SELEC nothing", QueryLimits::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, QueryError::Invalid { reason } if reason.contains("SELEC")),
        "{error:?}"
    );
    let error = bed
        .store
        .sql("SELECT nothing FROM gaps", QueryLimits::default())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, QueryError::Invalid { reason } if reason.contains("nothing")),
        "{error:?}"
    );
    bed.close().await;
}

#[tokio::test]
async fn limits_of_rows_time_and_memory_hold() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let few = QueryLimits {
        rows_max: 4,
        ..QueryLimits::default()
    };
    let answer = bed
        .store
        .sql("SELECT * FROM process_events ORDER BY pid", few.clone())
        .await
        .unwrap();
    assert!(answer.truncated);
    assert_eq!(answer.rows(), 4);
    let answer = bed
        .store
        .sql("SELECT * FROM process_events LIMIT 4", few)
        .await
        .unwrap();
    assert!(!answer.truncated);

    let short = QueryLimits {
        timeout: Duration::from_millis(200),
        ..QueryLimits::default()
    };
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 9";
    let error = bed.store.sql(endless, short).await.unwrap_err();
    assert_eq!(
        error,
        QueryError::Timeout {
            timeout: Duration::from_millis(200)
        }
    );

    let small = QueryLimits {
        memory_bytes_max: 1 << 20,
        timeout: Duration::from_secs(60),
        ..QueryLimits::default()
    };
    let hungry = "SELECT a.value, count(DISTINCT b.value) FROM generate_series(1, 300000) a JOIN generate_series(1, 300000) b ON a.value = b.value GROUP BY 1 ORDER BY 2";
    let error = bed.store.sql(hungry, small).await.unwrap_err();
    assert!(matches!(error, QueryError::Memory { .. }), "{error:?}");
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 10);
    bed.close().await;
}

#[tokio::test]
async fn bomb_ends_within_its_limits_and_leaves_the_store_answering() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let numbers: Vec<String> = (0..900).map(|number| number.to_string()).collect();
    let many = format!(
        "SELECT count(*) FROM process_events WHERE pid IN ({})",
        numbers.join(",")
    );
    let nested = (0..60).fold("SELECT 1 AS n".to_owned(), |inner, _| {
        format!("SELECT n FROM ({inner})")
    });
    let chained: String = (1..100)
        .map(|n| format!(", c{n} AS (SELECT * FROM c{})", n - 1))
        .collect();
    let chained = format!("WITH c0 AS (SELECT 1 AS n){chained} SELECT * FROM c99");
    let queries = [
        many.as_str(),
        nested.as_str(),
        chained.as_str(),
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT count(*) FROM process_events a, process_events b, process_events c, process_events d, process_events e, \
         process_events f, process_events g, process_events h, process_events i, process_events j",
        "SELECT regexp_like(comm, '(((a+)+)+)+$') FROM process_events",
        "SELECT regexp_like(comm, '((a{1000}){1000}){1000}') FROM process_events",
        "SELECT count(*) FROM generate_series(1, 100000000000)",
    ];
    for query in queries {
        let limits = QueryLimits {
            timeout: Duration::from_secs(2),
            memory_bytes_max: 32 << 20,
            ..QueryLimits::default()
        };
        // Any word of the engine will do; what counts is that there is one.
        let outcome = tokio::time::timeout(Duration::from_secs(30), bed.store.sql(query, limits)).await;
        assert!(outcome.is_ok(), "{query} did not end");
    }
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 10);
    bed.close().await;
}

#[tokio::test]
async fn running_query_is_listed_and_ends_when_it_is_cancelled() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 9";
    let limits = QueryLimits {
        asker: std::sync::Arc::from("somebody"),
        ..QueryLimits::default()
    };
    let cancel = async {
        let listed = || bed.store.queries().into_iter().find(|query| query.has_turn);
        super::testbed::eventually("the query's turn", || listed().is_some()).await;
        let query = listed().unwrap();
        assert_eq!((query.asker.as_ref(), query.text.as_str()), ("somebody", endless));
        assert!(bed.store.cancel(query.id));
        assert!(!bed.store.cancel(query.id + 1), "there is no other");
    };
    let (outcome, ()) = tokio::join!(bed.store.sql(endless, limits), cancel);
    assert_eq!(outcome.unwrap_err(), QueryError::Cancelled);
    assert!(bed.store.queries().is_empty());
    bed.close().await;
}

#[tokio::test]
async fn deep_or_long_query_does_not_stop_the_process() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let deep = format!("SELECT 1{}", "+1".repeat(900));
    let parentheses = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let either = format!(
        "SELECT * FROM process_events WHERE pid = 1{}",
        " OR pid=2".repeat(490)
    );
    for query in [deep, parentheses, either] {
        match bed.store.sql(&query, QueryLimits::default()).await {
            Ok(_) | Err(QueryError::Invalid { .. } | QueryError::Timeout { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let long = format!("SELECT '{}'", "x".repeat(40_000));
    let wide = format!("SELECT 1{}", "+1".repeat(3_000));
    for query in [long, wide] {
        let error = bed.store.sql(&query, QueryLimits::default()).await.unwrap_err();
        assert!(
            matches!(&error, QueryError::Invalid { reason } if reason.contains("allowed")),
            "{error:?}"
        );
    }
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 10);
    bed.close().await;
}

#[tokio::test]
async fn query_whose_caller_has_gone_gives_its_turn_back() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 9";
    for _ in 0..8 {
        let gone = tokio::time::timeout(
            Duration::from_millis(30),
            bed.store.sql(endless, QueryLimits::default()),
        );
        assert!(gone.await.is_err());
    }
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 10);
    bed.close().await;
}

#[tokio::test]
async fn join_that_makes_rows_without_end_is_stopped() {
    let folder = folder();
    let (bed, _) = filled(folder.path()).await;
    // Once its inputs are read, it never comes back for more.
    let endless = "SELECT count(*) FROM generate_series(1, 30000) a, generate_series(1, 30000) b, generate_series(1, 30000) c";
    let limits = QueryLimits {
        timeout: Duration::from_secs(2),
        ..QueryLimits::default()
    };
    // As many as there are threads.
    let ended = tokio::join!(
        bed.store.sql(endless, limits.clone()),
        bed.store.sql(endless, limits.clone())
    );
    for outcome in [ended.0, ended.1] {
        let timeout = limits.timeout;
        assert_eq!(outcome.unwrap_err(), QueryError::Timeout { timeout });
    }
    assert_eq!(bed.number("SELECT count(*) FROM process_events").await, 10);
    bed.close().await;
}

#[tokio::test]
async fn gap_with_an_unknown_word_hides_no_other_gap() {
    use fleetmend_event::table::{Exactness, Gap, GapStage};
    let folder = folder();
    let bed = open(folder.path()).await;
    let mut host = Host::new();
    let gap = |reason: &str| Gap {
        time: fleetmend_event::TimeMicros(START),
        table: "process_events".to_owned(),
        lane: fleetmend_event::Lane::Events,
        from_time: fleetmend_event::TimeMicros(START),
        to_time: fleetmend_event::TimeMicros(START + 60_000_000),
        count: 1,
        exactness: Exactness::Exact,
        stage: GapStage::Spool,
        reason: reason.to_owned(),
    };
    let mut frame = host.frame(&[gap("first"), gap("newer"), gap("last")], START, START);
    let rows = frame.batch().unwrap().unwrap();
    let mut columns = rows.columns().to_vec();
    let stage = rows.schema().index_of("stage").unwrap();
    columns[stage] = std::sync::Arc::new(arrow::array::StringArray::from(vec!["spool", "warp", "spool"]));
    let newer = arrow::array::RecordBatch::try_new(rows.schema(), columns).unwrap();
    frame.body = fleetmend_event::batch::encode(&newer).unwrap().into();
    bed.store
        .commit(host.id, vec![frame, host.execs(1)])
        .await
        .unwrap();
    let query = "SELECT pid FROM process_events";
    let answer = bed.store.sql(query, QueryLimits::default()).await.unwrap();
    assert_eq!(answer.gaps.len(), 2);
    bed.close().await;
    let bed = open(folder.path()).await;
    let answer = bed.store.sql(query, QueryLimits::default()).await.unwrap();
    let reasons: Vec<&str> = answer.gaps.iter().map(|gap| gap.gap.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.contains(&"first") && reasons.contains(&"last"));
    bed.close().await;
}

#[tokio::test]
async fn users_who_take_every_turn_leave_the_collector_its_own() {
    let folder = folder();
    let bed = open(folder.path()).await;
    let turns = bed.store.engine.user_turns.clone();
    let held = turns.acquire_many_owned(4).await.unwrap();
    let limits = |class| QueryLimits {
        class,
        timeout: Duration::from_secs(5),
        ..QueryLimits::default()
    };
    let query = "SELECT count(*) FROM process_events";
    bed.store.sql(query, limits(QueryClass::System)).await.unwrap();
    let short = QueryLimits {
        timeout: Duration::from_millis(50),
        ..limits(QueryClass::User)
    };
    assert_eq!(bed.store.sql(query, short).await.unwrap_err(), QueryError::Busy);
    drop(held);
    bed.store.sql(query, limits(QueryClass::User)).await.unwrap();
    bed.close().await;
}
