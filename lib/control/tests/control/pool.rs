//! Statements and transactions mean the same on both engines.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use fleetmend_control::{ControlError, Engine, Migrations, Value, composed, query};

use super::testbed::{ENGINES, Testbed};

const TABLES: Migrations = Migrations {
    room: "probe",
    steps: &["CREATE TABLE probe_kinds (
            id INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER, fraction REAL, words TEXT, bytes BLOB,
            flag INTEGER NOT NULL DEFAULT 0
        ) STRICT;
        CREATE TABLE probe_counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;"],
};

#[tokio::test]
async fn values_come_back_as_they_were_bound() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        control.migrate(&TABLES).await.unwrap();
        let insert =
            "INSERT INTO probe_kinds (number, fraction, words, bytes, flag) VALUES ($1, $2, $3, $4, $5)
            RETURNING id";
        let ids = [
            query(insert)
                .bind(i64::MIN)
                .bind(0.1_f64)
                .bind("a 'word' ü")
                .bind(vec![0_u8, 255])
                .bind(true),
            query(insert)
                .bind(None::<i64>)
                .bind(f64::NAN)
                .bind(None::<String>)
                .bind(None::<Vec<u8>>)
                .bind(false),
        ];
        for (expected, statement) in (1_i64..).zip(ids) {
            assert_eq!(
                statement.fetch_value::<i64>(&control).await.unwrap(),
                Some(expected),
                "{engine:?}"
            );
        }
        let rows = query("SELECT number, fraction, words, bytes, flag FROM probe_kinds ORDER BY id")
            .fetch_all(&control)
            .await
            .unwrap();
        let first = &rows[0];
        assert_eq!(first.try_get::<i64>("number").unwrap(), i64::MIN);
        assert_eq!(first.try_get::<Option<f64>>(1).unwrap(), Some(0.1));
        assert_eq!(first.try_get::<&str>("words").unwrap(), "a 'word' ü");
        assert_eq!(first.try_get::<Vec<u8>>(3).unwrap(), [0, 255]);
        assert!(first.try_get::<bool>("flag").unwrap());
        let second = &rows[1];
        assert_eq!(second.try_get::<Option<i64>>(0).unwrap(), None);
        assert_eq!(second.try_get::<Option<f64>>(1).unwrap(), None);
        assert_eq!(second.try_get::<Option<String>>(2).unwrap(), None);
        assert_eq!(second.try_get::<Option<Vec<u8>>>(3).unwrap(), None);
        let wrong = second.try_get::<i64>("number").unwrap_err();
        assert!(
            matches!(&wrong, ControlError::Value { column, .. } if column == "number"),
            "{wrong}"
        );
        second.try_get::<i64>("nowhere").unwrap_err();
    }
}

#[tokio::test]
async fn counts_sums_and_larger_ones_are_integers() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        control.migrate(&TABLES).await.unwrap();
        let put = "INSERT INTO probe_counts (name, count) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET count = CASE WHEN probe_counts.count > excluded.count
                THEN probe_counts.count ELSE excluded.count END";
        for (name, count) in [("a", 5_i64), ("b", 2), ("a", 3), ("b", 7)] {
            assert_eq!(
                query(put).bind(name).bind(count).execute(&control).await.unwrap(),
                1
            );
        }
        let row = query(
            "SELECT count(*), CAST(sum(count) AS BIGINT), max(count),
                 sum(CASE WHEN count > CAST($1 AS BIGINT) THEN 1 ELSE 0 END)
             FROM probe_counts WHERE CAST($2 AS TEXT) IS NULL OR name = $2",
        )
        .bind(6_i64)
        .bind(None::<&str>)
        .fetch_one(&control)
        .await
        .unwrap();
        let numbers: Vec<i64> = (0..4_usize).map(|place| row.try_get(place).unwrap()).collect();
        assert_eq!(numbers, [2, 12, 7, 1], "{engine:?}");
        // What PostgreSQL would give as another type is refused with a word about what to do.
        if engine == fleetmend_control::Engine::Postgres {
            let error = query("SELECT sum(count) FROM probe_counts")
                .fetch_one(&control)
                .await
                .unwrap_err();
            assert!(error.chain().contains("cast it"), "{}", error.chain());
        }
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_or_failed_leaves_nothing() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        control.migrate(&TABLES).await.unwrap();
        let put = "INSERT INTO probe_counts (name, count) VALUES ($1, 1)";
        let mut dropped = control.begin("probe").await.unwrap();
        query(put).bind("dropped").execute(&mut dropped).await.unwrap();
        drop(dropped);
        let mut failed = control.begin("probe").await.unwrap();
        query(put).bind("failed").execute(&mut failed).await.unwrap();
        let twice = query(put).bind("failed").execute(&mut failed).await.unwrap_err();
        assert!(twice.is_unique_violation(), "{twice:?}");
        failed.commit().await.unwrap_err();
        let mut kept = control.begin("probe").await.unwrap();
        query(put).bind("kept").execute(&mut kept).await.unwrap();
        kept.commit().await.unwrap();
        let names = query("SELECT name FROM probe_counts")
            .fetch_all(&control)
            .await
            .unwrap();
        let names: Vec<&str> = names.iter().map(|row| row.try_get(0).unwrap()).collect();
        assert_eq!(names, ["kept"], "{engine:?}");
    }
}

#[tokio::test]
async fn what_many_add_at_once_in_transactions_is_all_there() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        // Two collectors.
        let controls = [testbed.open().await, testbed.open().await];
        controls[0].migrate(&TABLES).await.unwrap();
        query("INSERT INTO probe_counts (name, count) VALUES ('all', 0)")
            .execute(&controls[0])
            .await
            .unwrap();
        let add = async |control: &fleetmend_control::Control| {
            for _ in 0..20 {
                let mut transaction = control.begin("probe").await?;
                let read = query("SELECT count FROM probe_counts WHERE name = 'all'");
                let count: i64 = read.fetch_value(&mut transaction).await?.unwrap_or(0);
                query("UPDATE probe_counts SET count = $1 WHERE name = 'all'")
                    .bind(count + 1)
                    .execute(&mut transaction)
                    .await?;
                transaction.commit().await?;
            }
            Ok::<(), ControlError>(())
        };
        let turns = (0..8).map(|turn| add(&controls[turn % 2]));
        for done in futures::future::join_all(turns).await {
            done.unwrap();
        }
        let count: Option<i64> = query("SELECT count FROM probe_counts")
            .fetch_value(&controls[1])
            .await
            .unwrap();
        assert_eq!(count, Some(160), "{engine:?}");
    }
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_shown_replaced() {
    let testbed = Testbed::new(fleetmend_control::Engine::Postgres);
    let control = testbed.open().await;
    let text: Option<String> = query("SELECT $1")
        .bind("a\0b")
        .fetch_value(&control)
        .await
        .unwrap();
    assert_eq!(text.as_deref(), Some("a\u{FFFD}b"));
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_file_say_what_to_look_at() {
    let mut testbed = Testbed::new(fleetmend_control::Engine::Postgres);
    let wrong = testbed.path.with_extension("password");
    testbed.config.password_file = Some(wrong.clone());
    let missing = fleetmend_control::Control::open(&testbed.config, &testbed.path)
        .await
        .unwrap_err();
    assert!(
        missing.to_string().contains(&wrong.display().to_string()),
        "{missing}"
    );
    std::fs::write(&wrong, "not this one\n").unwrap();
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = fleetmend_control::Control::open(&testbed.config, &testbed.path)
        .await
        .unwrap_err();
    assert!(open.chain().contains("chmod"), "{}", open.chain());
    std::fs::set_permissions(&wrong, std::fs::Permissions::from_mode(0o600)).unwrap();
    let refused = fleetmend_control::Control::open(&testbed.config, &testbed.path)
        .await
        .unwrap_err();
    assert!(
        refused.chain().contains("password authentication failed"),
        "{}",
        refused.chain()
    );
    assert!(!refused.chain().contains("not this one"));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_ends_at_its_deadline() {
    let mut testbed = Testbed::new(fleetmend_control::Engine::Postgres);
    testbed.config.statement_timeout = Duration::from_secs(1).into();
    let control = testbed.open().await;
    let asleep = composed("SELECT pg_sleep(60)".to_owned())
        .execute(&control)
        .await
        .unwrap_err();
    assert!(asleep.chain().contains("statement timeout"), "{}", asleep.chain());
    query("SELECT 1").fetch_one(&control).await.unwrap();
    assert_eq!(Value::from(3_u32), Value::Integer(Some(3)));
}

#[tokio::test]
async fn marks_of_one_engine_are_refused_by_both() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        let marked = query("SELECT ?1")
            .bind(1_i64)
            .fetch_one(&control)
            .await
            .unwrap_err();
        assert!(marked.chain().contains("question marks"), "{}", marked.chain());
    }
}

#[tokio::test]
async fn a_transaction_that_a_full_disk_ends_leaves_no_connection_in_it() {
    let mut testbed = Testbed::new(Engine::Sqlite);
    testbed.config.connections_max = 1;
    let control = testbed.open().await;
    control.migrate(&TABLES).await.unwrap();
    let insert = || query("INSERT INTO probe_kinds (bytes) VALUES ($1)").bind(vec![1_u8; 1 << 20]);
    // A database that may not grow is what a full disk is to SQLite: it rolls back by itself.
    query("PRAGMA max_page_count = 1")
        .fetch_all(&control)
        .await
        .unwrap();
    let mut transaction = control.begin("probe").await.unwrap();
    let refused = insert().execute(&mut transaction).await;
    assert!(matches!(refused, Err(ControlError::Refused(_))), "{refused:?}");
    drop(transaction);
    // The one connection is another one now, which may.
    let mut transaction = control.begin("probe").await.unwrap();
    insert().execute(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
}
