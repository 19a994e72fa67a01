//! A user who may see one host tries to see another.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use fleetmend_event::frame::Stamp;
use fleetmend_event::table::{Gap, MetricChunk, TableInfo};
use fleetmend_event::{Frame, HostId, HostScope, RecordId, Sequence, SpoolEpoch, Table, TimeMicros, tables};

use super::testbed::{Bed, START, folder, open};
use crate::{Answer, QueryError, QueryLimits, to_json_rows};

/// Stands in every row of the host that must not be seen, and nowhere else.
const SECRET: &str = "kingfisher";
/// The same of the host that may be seen.
const OPEN: &str = "sparrow";

/// One row of any table, with `text` wherever text can be.
fn row_of(table: &TableInfo, text: &str) -> RecordBatch {
    let column = |field: &Arc<Field>| -> ArrayRef {
        let labels = format!(r#"{{"word":"{text}"}}"#);
        let text = if field.name() == "labels" {
            labels.as_str()
        } else {
            text
        };
        let is_list_of_text =
            matches!(field.data_type(), DataType::List(item) if item.data_type().is_string());
        if field.data_type().is_string() || is_list_of_text {
            cast(&StringArray::from(vec![text]), field.data_type()).unwrap()
        } else if field.data_type() == &DataType::Boolean {
            Arc::new(BooleanArray::from(vec![true]))
        } else if matches!(field.data_type(), DataType::Timestamp(..)) {
            cast(&Int64Array::from(vec![START]), field.data_type()).unwrap()
        } else {
            cast(&Int64Array::from(vec![7]), field.data_type()).unwrap()
        }
    };
    let columns = table.schema.fields().iter().map(column).collect();
    RecordBatch::try_new(table.schema.clone(), columns).unwrap()
}

/// A frame of every table.
fn frames(text: &str) -> Vec<Frame> {
    let epoch = SpoolEpoch::random();
    let mut next = [1_u64; 3];
    let stamp = Stamp {
        wall: TimeMicros(START),
        boot_us: 1,
    };
    tables()
        .iter()
        .map(|table| {
            let place = usize::from(table.lane.code());
            let id = RecordId {
                epoch,
                lane: table.lane,
                sequence: Sequence(next[place]),
            };
            next[place] += 1;
            let span = (TimeMicros(START), TimeMicros(START + 7_000_000));
            Frame::of_batch(id, table, &row_of(table, text), stamp, span).unwrap()
        })
        .collect()
}

struct Two {
    bed: Bed,
    seen: HostId,
    foreign: HostId,
}

impl Two {
    async fn ask(&self, query: &str) -> Result<Answer, QueryError> {
        let limits = QueryLimits {
            hosts: HostScope::only([self.seen]),
            ..QueryLimits::default()
        };
        self.bed.store.sql(query, limits).await
    }

    /// Asks, and finds nothing of the foreign host in rows, columns, gaps and error.
    async fn spy(&self, query: &str) -> String {
        let told = match self.ask(query).await {
            Ok(answer) => {
                let gaps = serde_json::to_string(&answer.gaps).unwrap();
                let rows = serde_json::to_string(&to_json_rows(&answer.batches).unwrap()).unwrap();
                format!("{rows} {gaps} {}", answer.schema)
            }
            Err(error) => format!("{error} {error:?}"),
        };
        // A query may name what it looks for; only the store's words count.
        let told = told.replace(query, "");
        assert!(!told.contains(SECRET), "{query}: {told}");
        assert!(!told.contains(&self.foreign.to_string()), "{query}: {told}");
        told
    }
}

/// Rows of both hosts in every table, compacted or not.
async fn two(folder: &std::path::Path, compacted: bool) -> Two {
    let bed = open(folder).await;
    let (seen, foreign) = (HostId::random(), HostId::random());
    bed.store.commit(seen, frames(OPEN)).await.unwrap();
    bed.store.commit(foreign, frames(SECRET)).await.unwrap();
    if compacted {
        bed.store.seal().await.unwrap();
        super::testbed::eventually("compaction", || {
            let stats = bed.store.stats();
            let is_tier = |name: &str| crate::tier::tier_by_name(name).is_some();
            let tables = stats.tables.iter();
            stats.hot_frames == 0
                && tables
                    .filter(|table| !is_tier(table.table))
                    .all(|table| table.files > 0)
        })
        .await;
    }
    Two { bed, seen, foreign }
}

const ATTEMPTS: &[&str] = &[
    "SELECT * FROM {t}",
    "SELECT * FROM {t} WHERE host_id = '{f}'",
    "SELECT * FROM {t} WHERE host_id = '{f}' OR true",
    "SELECT * FROM {t} WHERE host_id IN ('{f}')",
    "SELECT * FROM {t} WHERE host_id NOT IN (SELECT host_id FROM {t})",
    "SELECT DISTINCT host_id FROM {t}",
    "SELECT min(host_id), max(host_id), array_agg(host_id), string_agg(host_id, ',') FROM {t}",
    "SELECT a.host_id FROM {t} a CROSS JOIN {t} b",
    "SELECT a.* FROM {t} a JOIN gaps g ON a.host_id <> g.host_id",
    "SELECT g.host_id, (SELECT max(host_id) FROM {t}) FROM gaps g",
    "SELECT g.host_id FROM gaps g WHERE EXISTS (SELECT 1 FROM {t} t WHERE t.host_id <> g.host_id)",
    "WITH RECURSIVE r AS (SELECT host_id, 1 AS n FROM {t} UNION ALL SELECT host_id, n + 1 FROM r WHERE n < 3) SELECT * FROM r",
    "SELECT first_value(host_id) OVER (ORDER BY host_id) AS a, lag(host_id) OVER (ORDER BY host_id) AS b FROM {t}",
    "SELECT host_id FROM {t} UNION ALL SELECT host_id FROM {t} ORDER BY 1 LIMIT 10",
    "SELECT host_id FROM {t} EXCEPT SELECT host_id FROM gaps",
    "SELECT * FROM fleetmend.facts.{t} ORDER BY ingested_at DESC LIMIT 1",
    "SELECT CAST(host_id AS BIGINT) FROM {t}",
    "SELECT 1 FROM {t} WHERE CAST(host_id AS BIGINT) = 1",
    "SELECT arrow_cast(host_id, 'Date32') FROM {t}",
    "EXPLAIN SELECT * FROM {t}",
    "EXPLAIN ANALYZE SELECT * FROM {t}",
    "EXPLAIN FORMAT TREE SELECT * FROM {t}",
    "DESCRIBE {t}",
];

#[tokio::test]
async fn foreign_host_is_seen_through_no_table() {
    for compacted in [false, true] {
        let folder = folder();
        let two = two(folder.path(), compacted).await;
        for table in tables() {
            let table = format!("\"{}\"", table.name);
            for attempt in ATTEMPTS {
                let query = attempt
                    .replace("{t}", &table)
                    .replace("{f}", &two.foreign.to_string());
                two.spy(&query).await;
            }
            // What may be seen is there, so that what was not seen above was hidden and not missing.
            let all = two
                .bed
                .number(&format!("SELECT count(DISTINCT host_id) FROM {table}"))
                .await;
            assert_eq!(all, 2, "{table}");
            for query in [
                format!("SELECT count(*) FROM {table}"),
                format!("SELECT count(*) FROM {table} WHERE host_id = '{}'", two.seen),
            ] {
                let told = two.spy(&query).await;
                assert!(told.contains(r#""count(*)":1"#), "{query}: {told}");
            }
        }
        two.bed.close().await;
    }
}

#[tokio::test]
async fn texts_of_a_foreign_host_are_told_by_no_error() {
    for compacted in [false, true] {
        let folder = folder();
        let two = two(folder.path(), compacted).await;
        for query in [
            "SELECT 1 FROM process_events WHERE CAST(comm AS BIGINT) = 1",
            "SELECT CAST(comm AS BIGINT) FROM process_events",
            "SELECT 1 FROM process_events WHERE CAST(comm AS BIGINT) = 1 AND host_id = 'x'",
            "SELECT 1 FROM findings WHERE CAST(title AS TIMESTAMP) > now()",
            "SELECT 1 FROM findings ORDER BY CAST(title AS DATE)",
            "SELECT 1 FROM findings f JOIN gaps g ON CAST(f.title AS INT) = CAST(g.reason AS INT)",
            "SELECT 1 / (CASE WHEN max(comm) LIKE 'k%' THEN 0 ELSE 1 END) FROM process_events",
            "SELECT arrow_cast(label(labels, 'word'), 'Int64') FROM metrics",
            "SELECT regexp_match(comm, comm || '(') FROM process_events",
        ] {
            two.spy(query).await;
        }
        two.bed.close().await;
    }
}

#[tokio::test]
async fn counts_behind_the_guard_are_of_the_seen_host_only() {
    for compacted in [false, true] {
        let folder = folder();
        let two = two(folder.path(), compacted).await;
        for query in [
            "SELECT count(*) AS n FROM process_events",
            "SELECT count(1) AS n FROM process_events",
            "SELECT count(comm) AS n FROM process_events",
            "SELECT sum(1) AS n FROM process_events",
            "SELECT count(*) AS n FROM (SELECT 1 FROM process_events LIMIT 5)",
            "SELECT count(*) AS n FROM (SELECT DISTINCT comm FROM process_events)",
        ] {
            let told = two.spy(query).await;
            assert!(told.contains(r#""n":1"#), "{query}: {told}");
        }
        let told = two
            .spy("SELECT count(DISTINCT name) AS n FROM metrics WHERE name = 'kingfisher'")
            .await;
        assert!(told.contains(r#""n":0"#), "{told}");
        two.bed.close().await;
    }
}

#[tokio::test]
async fn schema_of_the_store_names_no_host() {
    let folder = folder();
    let two = two(folder.path(), true).await;
    for query in [
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.views",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM information_schema.schemata",
        "SELECT * FROM information_schema.df_settings",
        "SELECT * FROM information_schema.routines",
        "SHOW TABLES",
        "SHOW ALL",
    ] {
        let told = two.spy(query).await;
        let path = folder.path().to_string_lossy();
        let shown: String = told.chars().take(2_000).collect();
        assert!(!told.contains(path.as_ref()), "{query}: {shown}");
    }
    two.bed.close().await;
}

#[tokio::test]
async fn answer_names_gaps_of_the_seen_host_and_of_the_store_only() {
    let folder = folder();
    let two = two(folder.path(), false).await;
    let made = |reason: &str| Gap {
        time: TimeMicros(START),
        table: "*".to_owned(),
        lane: fleetmend_event::Lane::Events,
        from_time: TimeMicros(START),
        to_time: TimeMicros(START + 60_000_000),
        count: 1,
        exactness: fleetmend_event::table::Exactness::Exact,
        stage: fleetmend_event::table::GapStage::Store,
        reason: reason.to_owned(),
    };
    let store = &two.bed.store;
    store
        .append_for(two.seen, vec![made("mine").into()])
        .await
        .unwrap();
    store
        .append_for(two.foreign, vec![made(SECRET).into()])
        .await
        .unwrap();
    store.append_own(made("of the store").into()).await.unwrap();
    for query in ["SELECT pid FROM process_events", "SELECT reason FROM gaps"] {
        let told = two.spy(query).await;
        assert!(told.contains("mine") && told.contains("of the store"), "{told}");
    }
    let nobody = QueryLimits {
        hosts: HostScope::only([]),
        ..QueryLimits::default()
    };
    let answer = store.sql("SELECT * FROM process_events", nobody).await.unwrap();
    assert_eq!(answer.rows(), 0);
    two.bed.close().await;
}

#[test]
fn rows_made_for_the_test_hold_samples() {
    let chunk = MetricChunk::from_batch(&row_of(&TableInfo::of::<MetricChunk>(), OPEN)).unwrap();
    assert_eq!(chunk.len(), 1);
    assert_eq!(chunk[0].value.len(), 1);
}
