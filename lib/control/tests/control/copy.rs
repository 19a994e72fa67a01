//! Control state from one engine into the other: all of it, once, or nothing.

use fleetmend_control::{Control, CopyError, Engine, Migrations, composed, copy, query};
use fleetmend_testkit::Turns;

use super::testbed::{ENGINES, Testbed};

/// More than a few statements hold, in every kind of value, with a table that counts and one that refers to another.
const ROWS: i64 = 1_207;

const PARTS: Migrations = Migrations {
    room: "parts",
    steps: &[
        "CREATE TABLE parts_zoo (name TEXT PRIMARY KEY, \"user\" TEXT, size REAL, raw BLOB NOT NULL) STRICT;
        CREATE TABLE parts_animals (
            zoo TEXT NOT NULL REFERENCES parts_zoo(name), place INTEGER NOT NULL, kind BLOB NOT NULL,
            PRIMARY KEY (zoo, kind, place)
        ) STRICT;
        CREATE TABLE parts_audit (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL) STRICT;",
        "ALTER TABLE parts_zoo ADD COLUMN opened INTEGER;",
    ],
};
/// The source has none of it.
const OTHER: Migrations = Migrations {
    room: "other",
    steps: &["CREATE TABLE other_things (name TEXT PRIMARY KEY) STRICT;"],
};
const ROOMS: [Migrations; 2] = [PARTS, OTHER];

async fn fill(control: &Control) {
    control.migrate(&PARTS).await.unwrap();
    let mut transaction = control.begin("parts").await.unwrap();
    for number in 0..ROWS {
        // Two engines sort these differently.
        let name = format!("{}é_{number}", if number % 2 == 0 { "Zoo" } else { "zoo" });
        query("INSERT INTO parts_zoo (name, \"user\", size, raw, opened) VALUES ($1, $2, $3, $4, $5)")
            .bind(&name)
            .bind((number % 3 == 0).then_some("somebody"))
            .bind((number % 5 != 0).then_some(0.1 * f64::from(i32::try_from(number).unwrap())))
            .bind(number.to_be_bytes().to_vec())
            .bind((number % 7 == 0).then_some(number - 630))
            .execute(&mut transaction)
            .await
            .unwrap();
        query("INSERT INTO parts_animals (zoo, place, kind) VALUES ($1, $2, $3)")
            .bind(&name)
            .bind(number)
            .bind(vec![0_u8, 255])
            .execute(&mut transaction)
            .await
            .unwrap();
    }
    for what in ["first", "second", "last"] {
        query("INSERT INTO parts_audit (what) VALUES ($1)")
            .bind(what)
            .execute(&mut transaction)
            .await
            .unwrap();
    }
    // A number that was given out is never given out again.
    query("DELETE FROM parts_audit WHERE what = 'last'")
        .execute(&mut transaction)
        .await
        .unwrap();
    transaction.signal("parts.changed").await.unwrap();
    transaction.commit().await.unwrap();
}

async fn count(control: &Control, table: &str) -> i64 {
    let count = composed(format!("SELECT count(*) FROM {table}"));
    count.fetch_value(control).await.unwrap().unwrap()
}

#[tokio::test]
async fn everything_goes_from_each_engine_to_each_and_counts_on() {
    for from in ENGINES {
        for to in ENGINES {
            let (source, target) = (Testbed::new(from), Testbed::new(to));
            let (source, target) = (source.open().await, target.open().await);
            fill(&source).await;
            let copied = copy(&source, &target, &ROOMS).await.unwrap();
            assert!(!copied.was_there, "{from:?} to {to:?}");
            let rows = |name: &str| {
                copied
                    .tables
                    .iter()
                    .find(|table| table.name == name)
                    .unwrap()
                    .rows
            };
            assert_eq!(i64::try_from(rows("parts_zoo")).unwrap(), ROWS);
            assert_eq!((rows("parts_audit"), rows("control_signals")), (2, 1));
            assert!(copied.tables.iter().all(|table| !table.name.starts_with("other")));
            let row = query("SELECT \"user\", size, raw, opened FROM parts_zoo WHERE opened = 0")
                .fetch_one(&target)
                .await
                .unwrap();
            assert_eq!(
                row.try_get::<Option<String>>(0).unwrap().as_deref(),
                Some("somebody")
            );
            assert_eq!(row.try_get::<Option<f64>>(1).unwrap(), None);
            assert_eq!(row.try_get::<Vec<u8>>(2).unwrap(), 630_i64.to_be_bytes());
            let next = query("INSERT INTO parts_audit (what) VALUES ('next') RETURNING id");
            assert_eq!(
                next.fetch_value::<i64>(&target).await.unwrap(),
                Some(4),
                "{from:?} to {to:?}"
            );
            // The tables are those of this program: its next step finds them as they should be.
            target.migrate(&PARTS).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_there_already_is_left_alone_and_what_differs_is_refused() {
    let (from, to) = (Testbed::new(Engine::Sqlite), Testbed::new(Engine::Postgres));
    let (source, target) = (from.open().await, to.open().await);
    fill(&source).await;
    let first = copy(&source, &target, &ROOMS).await.unwrap();
    let again = copy(&source, &target, &ROOMS).await.unwrap();
    assert!(again.was_there);
    assert_eq!(again.tables, first.tables);
    query("UPDATE parts_zoo SET size = 0.5 WHERE opened = 0")
        .execute(&target)
        .await
        .unwrap();
    let refused = copy(&source, &target, &ROOMS).await.unwrap_err();
    assert!(matches!(refused, CopyError::NotEmpty { .. }), "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("parts_zoo") && said.contains("empty database"),
        "{said}"
    );
    assert_eq!(count(&target, "parts_zoo").await, ROWS);
    let same = copy(&source, &from.open().await, &ROOMS).await.unwrap_err();
    assert!(matches!(same, CopyError::Same(_)), "{same}");
}

#[tokio::test]
async fn tables_of_nobody_are_not_left_behind() {
    let (source, target) = (Testbed::new(Engine::Sqlite), Testbed::new(Engine::Postgres));
    let (source, target) = (source.open().await, target.open().await);
    source.migrate(&OTHER).await.unwrap();
    let refused = copy(&source, &target, &[PARTS]).await.unwrap_err();
    assert!(
        matches!(&refused, CopyError::Unknown { tables, .. } if tables == &["other_things"]),
        "{refused}"
    );
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_counted() {
    let (source, target) = (Testbed::new(Engine::Sqlite), Testbed::new(Engine::Postgres));
    let (source, target) = (source.open().await, target.open().await);
    source.migrate(&OTHER).await.unwrap();
    query("INSERT INTO other_things (name) VALUES ($1)")
        .bind("a\0b")
        .execute(&source)
        .await
        .unwrap();
    let copied = copy(&source, &target, &ROOMS).await.unwrap();
    assert_eq!(copied.texts_replaced, 1);
    let name = query("SELECT name FROM other_things")
        .fetch_value::<String>(&target)
        .await;
    assert_eq!(name.unwrap().as_deref(), Some("a\u{FFFD}b"));
    assert!(copy(&source, &target, &ROOMS).await.unwrap().was_there);
}

#[tokio::test]
async fn a_copy_that_is_cut_short_leaves_nothing_and_is_repeated() {
    for to in ENGINES {
        let (source, target) = (Testbed::new(Engine::Sqlite), Testbed::new(to));
        let (source, target) = (source.open().await, target.open().await);
        fill(&source).await;
        target.migrate(&PARTS).await.unwrap();
        let mut turns = 1;
        loop {
            match Turns::of(copy(&source, &target, &ROOMS), turns).await {
                Some(copied) => {
                    // It was cut after the last commit, or came to its end.
                    assert_eq!(copied.unwrap().tables.len(), 5, "{to:?}");
                    break;
                }
                None => {
                    let left = count(&target, "parts_zoo").await;
                    assert!(
                        [0, ROWS].contains(&left),
                        "{to:?}: {left} rows after {turns} turns"
                    );
                }
            }
            turns *= 2;
        }
        assert!(turns > 8, "it was never cut");
        assert!(copy(&source, &target, &ROOMS).await.unwrap().was_there);
    }
}
