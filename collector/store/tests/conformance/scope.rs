//! A user who may see one host: another host's rows, series, losses and texts are told by no answer and no error,
//! and nothing that the user says changes, reads or reaches anything else.

use std::collections::BTreeSet;

use collector_store::{QueryError, QueryLimits, SeriesSelect, to_json_rows};
use fleetmend_event::{HostId, HostScope, TimeMicros};

use crate::hosts::{Host, START, chunk, exec, gap, timed};
use crate::scene::Scene;

/// Stands in every row of the host that must not be seen, and nowhere else.
const SECRET: &str = "kingfisher";
/// The same of the host that may be seen.
const OPEN: &str = "sparrow";

/// Rows of a host, with `word` in each.
async fn fill(scene: &Scene, host: &mut Host, word: &str) {
    let (mut started, mut series) = (exec(START, 7), chunk(START, 1));
    started.comm = word.to_owned();
    started.args = vec![word.to_owned()];
    series.name = format!("system.{word}");
    series.labels = format!(r#"{{"word":"{word}"}}"#);
    let mut frames = vec![
        host.frame(&[started], START, START),
        host.frame(&[series], START, START + 9_000_000),
    ];
    let shed = host.execs(2).shed();
    let lost = vec![(shed.id, gap(2, word))];
    frames.push(shed);
    scene
        .store
        .commit_timed(host.id, timed(frames), lost)
        .await
        .unwrap();
}

/// The host that may be seen, and the other one.
async fn two(scene: &Scene) -> (HostId, HostId) {
    let (mut seen, mut foreign) = (Host::number(1), Host::number(2));
    fill(scene, &mut seen, OPEN).await;
    fill(scene, &mut foreign, SECRET).await;
    (seen.id, foreign.id)
}

fn only(host: HostId) -> QueryLimits {
    QueryLimits {
        hosts: HostScope::only([host]),
        ..QueryLimits::default()
    }
}

/// Asks for one host, and finds nothing of the other one in rows, columns, gaps and error; gives what was told.
async fn spy(scene: &Scene, (seen, foreign): (HostId, HostId), query: &str) -> Result<String, QueryError> {
    let answer = scene.store.sql(query, only(seen)).await;
    let told = match &answer {
        Ok(answer) => {
            let gaps = serde_json::to_string(&answer.gaps).unwrap();
            let rows = serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap();
            format!("{rows} {gaps} {}", answer.schema)
        }
        Err(error) => format!("{error} {error:?}"),
    };
    // A query may name what it looks for; only the store's words count.
    let words = told.replace(query, "");
    assert!(!words.contains(SECRET), "{query}: {words}");
    assert!(!words.contains(&foreign.to_string()), "{query}: {words}");
    answer.map(|_| words)
}

const ATTEMPTS: &[&str] = &[
    "SELECT * FROM {t}",
    "TABLE {t}",
    "SELECT * FROM {t} WHERE host_id = '{f}' OR true",
    "SELECT * FROM {t} WHERE host_id IN ('{f}')",
    "SELECT * FROM {t} WHERE host_id >= '{f}'",
    "SELECT * FROM {t} WHERE NOT (host_id = '{s}')",
    "SELECT min(host_id), max(host_id), array_agg(host_id), string_agg(host_id, ',') FROM {t}",
    "SELECT a.* FROM {t} a JOIN gaps g ON a.host_id <> g.host_id",
    "SELECT g.host_id, (SELECT max(host_id) FROM {t}) FROM gaps g",
    "WITH RECURSIVE r AS (SELECT host_id, 1 AS n FROM {t} UNION ALL SELECT host_id, n + 1 FROM r WHERE n < 3) SELECT * FROM r",
    "SELECT first_value(host_id) OVER (ORDER BY host_id) AS a, lag(host_id) OVER (ORDER BY host_id) AS b FROM {t}",
    "SELECT host_id FROM {t} UNION ALL SELECT host_id FROM {t} ORDER BY 1 LIMIT 10",
    "SELECT * FROM fleetmend.facts.{t} ORDER BY ingested_at DESC LIMIT 1",
    "SELECT 1 FROM {t} WHERE CAST(host_id AS BIGINT) = 1",
    "SELECT arrow_cast(host_id, 'Date32') FROM {t}",
    "EXPLAIN SELECT * FROM {t}",
    "EXPLAIN ANALYZE SELECT * FROM {t}",
    "EXPLAIN ANALYZE VERBOSE SELECT * FROM {t}",
    "EXPLAIN FORMAT TREE SELECT * FROM {t}",
    "DESCRIBE SELECT * FROM {t}",
    "DESCRIBE {t}",
];

pub(crate) async fn foreign_host_is_seen_through_no_table(scene: &Scene) {
    let two = two(scene).await;
    let tables = [
        "process_events",
        "metrics",
        "gaps",
        "execs",
        "losses",
        "information_schema.tables",
        "information_schema.columns",
    ];
    for table in tables {
        for attempt in ATTEMPTS {
            let query = attempt
                .replace("{t}", table)
                .replace("{s}", &two.0.to_string())
                .replace("{f}", &two.1.to_string());
            spy(scene, two, &query).await.ok();
        }
    }
    for query in [
        "SELECT 1 FROM process_events WHERE CAST(comm AS BIGINT) = 1 AND host_id = 'x'",
        "SELECT CAST(comm AS BIGINT) FROM process_events",
        "SELECT arrow_cast(label(labels, 'word'), 'Int64') FROM metrics",
        "SELECT 1 / (CASE WHEN max(comm) LIKE 'k%' THEN 0 ELSE 1 END) FROM process_events",
        "SELECT args[1] FROM process_events WHERE args[1] = 'kingfisher' AND pid = 7",
    ] {
        spy(scene, two, query).await.ok();
    }
    // What was not seen above was hidden, and not missing.
    for (table, rows) in [("process_events", 1), ("metrics", 10), ("gaps", 1)] {
        let all = format!("SELECT count(DISTINCT host_id) FROM {table}");
        assert_eq!(scene.number(&all).await, 2, "{table}");
        for count in ["count(*)", "count(1)", "sum(1)", "count(host_id)"] {
            let query = format!("SELECT {count} AS n FROM {table}");
            let told = spy(scene, two, &query).await.unwrap();
            assert!(told.contains(&format!(r#""n":{rows}"#)), "{query}: {told}");
        }
    }
}

pub(crate) async fn losses_of_a_foreign_host_are_not_named(scene: &Scene) {
    let two = two(scene).await;
    let told = spy(scene, two, "SELECT pid FROM process_events").await.unwrap();
    assert!(told.contains(OPEN), "{told}");
    let nobody = QueryLimits {
        hosts: HostScope::only([]),
        ..QueryLimits::default()
    };
    for table in ["process_events", "metrics", "gaps"] {
        let query = format!("SELECT * FROM {table}");
        let answer = scene.store.sql(&query, nobody.clone()).await.unwrap();
        assert_eq!((answer.rows(), answer.gaps.len()), (0, 0), "{table}");
    }
}

pub(crate) async fn series_of_a_foreign_host_are_not_selected(scene: &Scene) {
    let (seen, foreign) = two(scene).await;
    let mut all = SeriesSelect::between(TimeMicros(START - 1), TimeMicros(START + 60_000_000));
    let names = |keys: Vec<collector_store::SeriesKey>| -> Vec<String> {
        keys.into_iter().map(|key| key.name).collect()
    };
    let both = [format!("system.{SECRET}"), format!("system.{OPEN}")];
    assert_eq!(names(scene.store.series_keys(all.clone()).await.unwrap()), both);
    // A name that is foreign, and a scope that is not, meet in nothing.
    for (wanted, found) in [
        (None, vec![both[1].clone()]),
        (Some(BTreeSet::from(both.clone())), vec![both[1].clone()]),
        (Some(BTreeSet::from([both[0].clone()])), Vec::new()),
    ] {
        let mut select = all.clone();
        (select.names, select.hosts) = (wanted, Some(BTreeSet::from([seen])));
        assert_eq!(
            names(scene.store.series_keys(select.clone()).await.unwrap()),
            found
        );
        let answer = scene.store.select(select).await.unwrap();
        let told: Vec<String> = answer
            .series
            .iter()
            .map(|series| series.key.name.clone())
            .collect();
        assert_eq!(told, found);
        assert!(answer.series.iter().all(|series| series.key.host == seen));
        assert!(answer.gaps.iter().all(|gap| gap.host_id != foreign));
    }
    all.hosts = Some(BTreeSet::new());
    assert!(scene.store.series_keys(all.clone()).await.unwrap().is_empty());
    let answer = scene.store.select(all).await.unwrap();
    assert!(answer.series.is_empty(), "{answer:?}");
}

/// What would change, read, reach or tell something beyond the tables.
const STATEMENTS: &[&str] = &[
    "INSERT INTO gaps SELECT * FROM gaps",
    "INSERT OVERWRITE gaps SELECT * FROM gaps",
    "UPDATE gaps SET count = 0",
    "DELETE FROM gaps",
    "TRUNCATE TABLE gaps",
    "MERGE INTO gaps g USING gaps h ON g.count = h.count WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM gaps RETURNING *) SELECT * FROM gone",
    "CREATE TABLE mine AS SELECT * FROM gaps",
    "CREATE OR REPLACE TABLE gaps AS SELECT 1",
    "CREATE TEMPORARY TABLE mine (a INT)",
    "CREATE VIEW mine AS SELECT * FROM gaps",
    "CREATE OR REPLACE VIEW execs AS SELECT 1",
    "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '{dir}/'",
    "CREATE UNBOUNDED EXTERNAL TABLE mine (a INT) STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE SCHEMA mine",
    "CREATE DATABASE mine",
    "CREATE INDEX mine ON gaps (count)",
    "CREATE FUNCTION mine(a INT) RETURNS INT RETURN a",
    "CREATE ROLE mine",
    "DROP TABLE gaps",
    "DROP VIEW execs",
    "DROP SCHEMA facts CASCADE",
    "DROP FUNCTION label",
    "ALTER TABLE gaps ADD COLUMN a INT",
    "GRANT ALL ON gaps TO public",
    "COPY gaps TO '{dir}/out.parquet'",
    "COPY (SELECT 1) TO '{dir}/out.csv' STORED AS CSV",
    "COPY gaps FROM '/etc/passwd'",
    "EXPLAIN COPY (SELECT 1) TO '{dir}/out.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{dir}/out.csv' STORED AS CSV",
    "EXPLAIN ANALYZE INSERT INTO gaps SELECT * FROM gaps",
    "EXPLAIN ANALYZE CREATE TABLE mine AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT * INTO mine FROM gaps",
    "SELECT * FROM (COPY gaps TO '{dir}/out.csv') AS a",
    "SET datafusion.execution.batch_size = 1",
    "SET ROLE administrator",
    "SET TIME ZONE 'Europe/Vienna'",
    "RESET datafusion.execution.batch_size",
    "SHOW datafusion.execution.batch_size",
    "SHOW ALL",
    "SELECT * FROM information_schema.df_settings",
    "SELECT value FROM fleetmend.information_schema.df_settings",
    "WITH s AS (SELECT * FROM information_schema.df_settings) SELECT count(*) FROM s",
    "SELECT (SELECT max(value) FROM information_schema.df_settings)",
    "USE mine",
    "BEGIN",
    "COMMIT",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "LOAD 'mine.so'",
    "ATTACH DATABASE '/etc/passwd' AS mine",
    "PRAGMA table_info(gaps)",
    "VACUUM",
    "CALL mine()",
    "KILL 1",
    "SELECT 1; DROP TABLE gaps",
    "SELECT 1; SELECT 2",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '{dir}'",
    "SELECT * FROM \"file:///etc/passwd\"",
    "SELECT * FROM \"http://127.0.0.1:1/x.parquet\"",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM metadata_cache()",
    "SELECT * FROM glob('/*')",
    // ClickHouse's own words, which never come to it.
    "SELECT * FROM file('/etc/passwd', 'CSV')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'CSV')",
    "SELECT * FROM remote('127.0.0.1', 'fleet.process_events_rows')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM system.tables",
    "SELECT * FROM fleet.process_events_rows",
    "SELECT * FROM process_events_rows",
    "SELECT * FROM metrics_chunks",
    "SELECT * FROM process_events INTO OUTFILE '{dir}/out.csv'",
    // PostgreSQL's and SQLite's.
    "SELECT * FROM ledger_claims",
    "SELECT * FROM pg_catalog.pg_user",
    "SELECT * FROM sqlite_master",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT current_setting('data_directory')",
    "SELECT getenv('HOME')",
    "SELECT load_extension('mine.so')",
];

pub(crate) async fn nothing_but_questions_over_the_tables_is_answered(scene: &Scene) {
    let two = two(scene).await;
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().display().to_string();
    let counts = "SELECT (SELECT count(*) FROM gaps) + (SELECT count(*) FROM process_events)";
    let before = scene.number(counts).await;
    for statement in STATEMENTS {
        let statement = statement.replace("{dir}", &path);
        match spy(scene, two, &statement).await {
            Err(QueryError::Refused { .. } | QueryError::Invalid { .. }) => {}
            other => panic!("{statement}: {other:?}"),
        }
    }
    assert_eq!(
        std::fs::read_dir(outside.path()).unwrap().count(),
        0,
        "something was written"
    );
    assert_eq!(scene.number(counts).await, before);
    for query in ["SELECT * FROM information_schema.tables", "SHOW TABLES"] {
        let told = spy(scene, two, query).await.unwrap();
        assert!(!told.contains("mine"), "{told}");
    }
}

/// Texts and lists that grow with what is read.
const HUNGRY: &[&str] = &[
    "SELECT string_agg(a.comm || b.comm || CAST(n.value AS TEXT), ',') FROM {three}",
    "SELECT array_agg(a.comm || b.comm || CAST(n.value AS TEXT)) FROM {three}",
    "SELECT n.value % 3, string_agg(CAST(n.value AS TEXT), ',') FROM {three} GROUP BY 1",
    "SELECT n.value % 3, array_agg(CAST(n.value AS TEXT)) FROM {three} GROUP BY 1",
    "SELECT string_agg(DISTINCT CAST(n.value AS TEXT), ',') FROM {three}",
    "SELECT array_agg(CAST(n.value AS TEXT) ORDER BY n.value DESC) FROM {three}",
    "SELECT length(string_agg(CAST(n.value AS TEXT), ',')) FROM {three}",
    "SELECT count(*) FROM process_events e, (SELECT string_agg(CAST(n.value AS TEXT), '') AS t FROM {some}) WHERE t <> comm",
    "SELECT count(t) FROM (SELECT unnest(array_agg(n.value)) AS v, string_agg(CAST(n.value AS TEXT), '') AS t FROM {some})",
    "SELECT count(*) FROM (SELECT count(*) OVER () AS c, CAST(n.value AS TEXT) AS t FROM {three}) WHERE t <> 'x' AND c > 1",
];

/// A question about what is made of itself again and again.
fn nested(times: usize, doubled: &str, asked: &str) -> String {
    let steps: String = (1..=times)
        .map(|step| format!(", s{step} AS (SELECT {doubled} AS t FROM s{})", step - 1))
        .collect();
    format!("WITH s0 AS (SELECT comm AS t FROM process_events){steps} SELECT {asked} FROM s{times}")
}

/// Texts and lists that double again and again, or are replaced by longer ones.
fn growing() -> Vec<String> {
    let long = "x".repeat(2_000);
    let replaced = (0..5).fold("comm".to_owned(), |inner, _| {
        format!("regexp_replace({inner}, '.', '{long}', 'g')")
    });
    vec![
        nested(32, "t || t", "max(length(t))"),
        nested(32, "concat(t, t)", "max(length(t))"),
        nested(32, "concat_ws('', t, t)", "max(length(t))"),
        nested(32, "[t, t]", "array_agg(t)"),
        nested(32, "array_append([t], t)", "array_agg(t)"),
        "SELECT max(length(replace(replace(replace(replace(replace(comm, 'r', 'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'), \
         'r', 'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'), 'r', 'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'), 'r', \
         'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'), 'r', 'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr'))) FROM process_events"
            .to_owned(),
        format!("SELECT max(length({replaced})) FROM process_events"),
        "WITH RECURSIVE r AS (SELECT 'abcdefgh' AS s, 1 AS n UNION ALL SELECT s || s, n + 1 FROM r WHERE n < 60) \
         SELECT max(length(s)) FROM r"
            .to_owned(),
    ]
}

pub(crate) async fn question_for_more_memory_than_there_is_is_refused(scene: &Scene) {
    let two = two(scene).await;
    let three =
        "process_events a CROSS JOIN process_events b CROSS JOIN generate_series(1, 400000) AS n(value)";
    // They fit, but not once for each row.
    let some = "generate_series(1, 60000) AS n(value)";
    for query in HUNGRY {
        let query = query.replace("{three}", three).replace("{some}", some);
        let limits = QueryLimits {
            memory_bytes_max: 1 << 20,
            timeout: std::time::Duration::from_secs(60),
            ..only(two.0)
        };
        let refused = scene.store.sql(&query, limits).await.map(|answer| answer.rows());
        assert!(
            matches!(refused, Err(QueryError::Memory { bytes_max }) if bytes_max == 1 << 20),
            "{query}: {refused:?}"
        );
    }
    for query in growing() {
        let limits = QueryLimits {
            timeout: std::time::Duration::from_secs(60),
            ..only(two.0)
        };
        let refused = scene.store.sql(&query, limits).await.map(|answer| answer.rows());
        assert!(
            matches!(refused, Err(QueryError::Memory { .. })),
            "{query}: {refused:?}"
        );
    }
    for doubled in [
        "named_struct('a', t, 'b', t)",
        "struct(t, t)",
        "{'a': t, 'b': t}",
        "map([t], [t])",
    ] {
        let query = nested(40, doubled, "count(*)");
        let refused = spy(scene, two, &query).await.unwrap_err();
        assert!(
            matches!(&refused, QueryError::Invalid { reason } if reason.contains("allowed")),
            "{query}: {refused:?}"
        );
    }
    for window in ["OVER ()", "OVER (PARTITION BY pid)", "OVER (ORDER BY time)"] {
        for aggregate in ["string_agg(comm, ',')", "array_agg(comm)"] {
            let query = format!("SELECT {aggregate} {window} FROM process_events");
            let refused = spy(scene, two, &query).await.unwrap_err();
            assert!(
                matches!(&refused, QueryError::Invalid { reason } if reason.contains("window")),
                "{query}: {refused:?}"
            );
        }
    }
    for small in [
        "SELECT a.comm, count(*) OVER () AS n FROM process_events a JOIN process_events b ON a.host_id = b.host_id",
        "SELECT unnest(args) AS word FROM process_events",
        "SELECT comm || '-' || pid AS a, replace(comm, 's', 'ss') || comm AS b FROM process_events WHERE comm || 'x' <> 'x'",
        "SELECT concat(comm, pid), comm || comm, count(*) FROM process_events GROUP BY concat(comm, pid), comm || comm ORDER BY comm || comm",
        "SELECT string_agg(comm, ',') AS a, array_agg(comm) AS b FROM process_events",
    ] {
        let told = spy(scene, two, small).await.unwrap();
        assert!(told.contains(OPEN), "{small}: {told}");
    }
    assert_eq!(scene.number("SELECT count(*) FROM process_events").await, 2);
}
