//! Steps of the tables: once, in order, whole, and only of this program's past.

use std::process::{Command, Stdio};
use std::time::Duration;

use fleetmend_control::{Control, ControlConfig, ControlError, Engine, Migrations, composed, query};

use super::testbed::{ENGINES, Testbed};

const FIRST: &str = "CREATE TABLE steps_a (name TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;
    INSERT INTO steps_a (name, size) VALUES ('one', 1);";
const SECOND: &str = "ALTER TABLE steps_a ADD COLUMN more INTEGER NOT NULL DEFAULT 0;
    UPDATE steps_a SET more = size + 1;";

#[tokio::test]
async fn steps_are_applied_once_and_by_several_collectors_at_a_time() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let (one, two) = (testbed.open().await, testbed.open().await);
        let tables = Migrations {
            room: "steps",
            steps: &[FIRST],
        };
        let (first, second) = tokio::join!(one.migrate(&tables), two.migrate(&tables));
        first.unwrap();
        second.unwrap();
        let more = Migrations {
            room: "steps",
            steps: &[FIRST, SECOND],
        };
        two.migrate(&more).await.unwrap();
        one.migrate(&more).await.unwrap();
        let row = query("SELECT size, more FROM steps_a")
            .fetch_all(&one)
            .await
            .unwrap();
        assert_eq!(row.len(), 1);
        assert_eq!(row[0].try_get::<i64>(1).unwrap(), 2, "{engine:?}");
    }
}

#[tokio::test]
async fn tables_of_a_newer_program_and_changed_steps_are_refused() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        control
            .migrate(&Migrations {
                room: "steps",
                steps: &[FIRST, SECOND],
            })
            .await
            .unwrap();
        let newer = control
            .migrate(&Migrations {
                room: "steps",
                steps: &[FIRST],
            })
            .await
            .unwrap_err();
        assert!(
            matches!(
                newer,
                ControlError::Newer {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{newer}"
        );
        assert!(newer.to_string().contains("newer version"), "{newer}");
        let steps = &["CREATE TABLE steps_a (name TEXT PRIMARY KEY) STRICT;", SECOND];
        let changed = control
            .migrate(&Migrations { room: "steps", steps })
            .await
            .unwrap_err();
        assert!(
            matches!(changed, ControlError::Changed { step: 1, .. }),
            "{changed}"
        );
        let word = Migrations {
            room: "other",
            steps: &["CREATE TABLE other_a (b BOOLEAN)"],
        };
        assert!(matches!(
            control.migrate(&word).await,
            Err(ControlError::Word { .. })
        ));
    }
}

const BROKEN: &str =
    "CREATE TABLE steps_b (name TEXT PRIMARY KEY) STRICT; INSERT INTO nowhere (a) VALUES (1);";

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_of_it() {
    for engine in ENGINES {
        let testbed = Testbed::new(engine);
        let control = testbed.open().await;
        control
            .migrate(&Migrations {
                room: "steps",
                steps: &[FIRST, BROKEN],
            })
            .await
            .unwrap_err();
        query("SELECT name FROM steps_b")
            .fetch_all(&control)
            .await
            .unwrap_err();
        control
            .migrate(&Migrations {
                room: "steps",
                steps: &[FIRST, SECOND],
            })
            .await
            .unwrap();
        query("SELECT more FROM steps_a")
            .fetch_one(&control)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn tables_from_before_the_digest_are_taken_over() {
    let testbed = Testbed::new(Engine::Sqlite);
    let control = testbed.open().await;
    let old = "CREATE TABLE steps_migrations (step INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT";
    query(old).execute(&control).await.unwrap();
    query("CREATE TABLE steps_a (name TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT")
        .execute(&control)
        .await
        .unwrap();
    query("INSERT INTO steps_a (name, size) VALUES ('kept', 4)")
        .execute(&control)
        .await
        .unwrap();
    query("INSERT INTO steps_migrations (step, at) VALUES (1, 7)")
        .execute(&control)
        .await
        .unwrap();
    let tables = Migrations {
        room: "steps",
        steps: &[FIRST, SECOND],
    };
    control.migrate(&tables).await.unwrap();
    control.migrate(&tables).await.unwrap();
    let rows = query("SELECT name, more FROM steps_a")
        .fetch_all(&control)
        .await
        .unwrap();
    assert_eq!((rows.len(), rows[0].try_get::<i64>(1).unwrap()), (1, 5));
    let changed = Migrations {
        room: "steps",
        steps: &["CREATE TABLE steps_a (name TEXT PRIMARY KEY) STRICT;", SECOND],
    };
    assert!(matches!(
        control.migrate(&changed).await,
        Err(ControlError::Changed { step: 1, .. })
    ));
}

/// Where the child that is to be killed finds its database.
const CHILD_URL: &str = "CONTROL_TEST_MIGRATE_URL";
const CHILD_PASSWORD_FILE: &str = "CONTROL_TEST_MIGRATE_PASSWORD_FILE";
const KILLED_STEPS: usize = 12;
/// Kills, at most; fewer when the steps end before.
const KILLS_MAX: usize = 40;
const ROWS: i64 = 500;

/// Each step makes a table, fills it, changes it, and adds one to a counter: whole, or not at all.
fn killed_tables() -> Migrations {
    let steps: Vec<&'static str> = (0..KILLED_STEPS)
        .map(|step| {
            let begin = if step == 0 { "CREATE TABLE killed_count (a INTEGER NOT NULL); INSERT INTO killed_count VALUES (0);" } else { "" };
            let text = format!(
                "{begin} CREATE TABLE killed_{step} (a INTEGER PRIMARY KEY, b TEXT NOT NULL) STRICT;
                 INSERT INTO killed_{step} (a, b)
                     WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})
                     SELECT n, 'some text to write' FROM numbers;
                 ALTER TABLE killed_{step} ADD COLUMN c INTEGER;
                 UPDATE killed_{step} SET c = a;
                 UPDATE killed_count SET a = a + 1;"
            );
            &*text.leak()
        })
        .collect();
    Migrations {
        room: "killed",
        steps: steps.leak(),
    }
}

/// Not a test of its own: the process that the next one kills. Without its variables it does nothing.
#[tokio::test]
async fn child_that_is_killed_while_it_migrates() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let mut config = ControlConfig::of(url);
    config.password_file = std::env::var_os(CHILD_PASSWORD_FILE).map(Into::into);
    let control = Control::open(&config, "/nowhere".as_ref()).await.unwrap();
    control.migrate(&killed_tables()).await.unwrap();
}

#[tokio::test]
async fn a_kill_in_any_step_leaves_it_applied_or_not() {
    for engine in ENGINES {
        let mut testbed = Testbed::new(engine);
        if engine == Engine::Sqlite {
            testbed.config.url = Some(format!("sqlite://{}", testbed.path.display()));
        }
        let mut ended_by_itself = false;
        for kill in 0..KILLS_MAX {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "control::migrate::child_that_is_killed_while_it_migrates",
                ])
                .env(CHILD_URL, testbed.config.url.clone().unwrap())
                .envs(
                    testbed
                        .config
                        .password_file
                        .as_ref()
                        .map(|path| (CHILD_PASSWORD_FILE, path)),
                )
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // Where the kill falls depends on the machine; what has to hold does not.
            let pause = Duration::from_millis(10 + 7 * u64::try_from(kill).unwrap());
            let ended = tokio::time::timeout(pause, async {
                loop {
                    if let Some(status) = child.try_wait().unwrap() {
                        break status;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            match ended {
                Ok(status) => {
                    assert!(status.success(), "{engine:?}: {status}");
                    ended_by_itself = true;
                }
                Err(_) => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
            }
            whole(&testbed.open().await, engine).await;
            if ended_by_itself {
                break;
            }
        }
        let control = testbed.open().await;
        control.migrate(&killed_tables()).await.unwrap();
        assert_eq!(whole(&control, engine).await, KILLED_STEPS);
    }
}

/// How many steps are applied, each of them whole.
async fn whole(control: &Control, engine: Engine) -> usize {
    let mut applied: i64 = 0;
    // The server may still be carrying out what the killed one had sent: this waits for its lock.
    let mut transaction = control.begin("killed").await.unwrap();
    let tables = match engine {
        Engine::Sqlite => {
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'killed_migrations'"
        }
        Engine::Postgres => "SELECT count(*) FROM pg_tables WHERE tablename = 'killed_migrations'",
    };
    let there: Option<i64> = query(tables).fetch_value(&mut transaction).await.unwrap();
    if there == Some(1) {
        let rows = query("SELECT step FROM killed_migrations ORDER BY step")
            .fetch_all(&mut transaction)
            .await
            .unwrap();
        for row in rows {
            let table = row.try_get::<i64>(0).unwrap() - 1;
            assert_eq!(table, applied, "{engine:?}");
            let of_step = composed(format!("SELECT count(*) FROM killed_{table} WHERE c = a"));
            assert_eq!(
                of_step.fetch_value::<i64>(&mut transaction).await.unwrap(),
                Some(ROWS),
                "{engine:?}"
            );
            applied += 1;
        }
        if applied > 0 {
            let count: Option<i64> = query("SELECT a FROM killed_count")
                .fetch_value(&mut transaction)
                .await
                .unwrap();
            assert_eq!(count, Some(applied), "{engine:?}");
        }
    }
    transaction.commit().await.unwrap();
    usize::try_from(applied).unwrap()
}
