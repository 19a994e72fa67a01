//! The room's tables in the control database, and the steps that made them what they are.
//!
//! `export_targets` says since when a target is fed, `export_hosts` what it has of each host ([`crate::marks`]),
//! `export_rows` how far each table was sent, `export_skips` what was left out because it was too old. A target that
//! is not configured any more keeps its rows for 30 days, so that one that comes back goes on where it was. What a
//! target has is written by whoever has its turn ([`Turn`]).

use std::collections::HashMap;

use fleetmend_control::{Control, ControlError, Migrations, Row, Transaction, composed, query};
use fleetmend_event::{HostId, TimeMicros};

use crate::error::ExportError;
use crate::marks::HostMarks;
use crate::turn::Turn;

const ROOM: &str = "export";

/// Tables of export. Never edited after a release: a change is a new step.
pub const TABLES: Migrations = Migrations {
    room: ROOM,
    steps: &[
        "CREATE TABLE export_targets (
        target TEXT PRIMARY KEY, begun_at INTEGER NOT NULL, used_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE export_hosts (
        target TEXT NOT NULL, host_id TEXT NOT NULL, marks BLOB NOT NULL, PRIMARY KEY (target, host_id)
    ) STRICT;
    CREATE TABLE export_rows (
        target TEXT NOT NULL, table_name TEXT NOT NULL, ingested_at INTEGER NOT NULL, seen BLOB NOT NULL,
        PRIMARY KEY (target, table_name)
    ) STRICT;
    CREATE TABLE export_skips (
        skip_id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, subject TEXT NOT NULL,
        from_time INTEGER NOT NULL, to_time INTEGER NOT NULL, noticed_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX export_skips_target ON export_skips(target, skip_id);",
        "ALTER TABLE export_rows ADD COLUMN remembers_from INTEGER;",
    ],
};

/// How long a target that is not configured keeps its place.
const UNUSED_MICROS_MAX: i64 = 30 * 86_400_000_000;
/// Skips that are kept of a target; all are counted.
const SKIPS_MAX: i64 = 1_000;

/// What was left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skip {
    /// Host or table it is of.
    pub subject: String,
    /// From when.
    pub from_time: TimeMicros,
    /// Until when.
    pub to_time: TimeMicros,
    /// When it was noticed.
    pub noticed_at: TimeMicros,
}

/// How far a table was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowsPlace {
    pub(crate) ingested_at: TimeMicros,
    /// Hashes of rows near that, and when each was stored.
    pub(crate) seen: HashMap<u64, i64>,
    /// What was stored since then and was sent is among these; what was stored before is not wanted any more.
    pub(crate) remembers_from: TimeMicros,
}

/// The room's state.
#[derive(Clone)]
pub(crate) struct State {
    control: Control,
}

impl State {
    /// Brings the tables up to date.
    pub(crate) async fn open(control: Control) -> Result<Self, ExportError> {
        let brought = control.migrate(&TABLES).await;
        brought.map_err(ExportError::database("bring the tables up to date"))?;
        Ok(Self { control })
    }

    /// What it is kept in.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Forgets targets that are long gone: those of today have to be begun before.
    pub(crate) async fn forget_unused(&self) -> Result<(), ExportError> {
        let forgotten = self.delete_unused().await;
        forgotten.map_err(ExportError::database("forget targets of former times"))
    }

    async fn delete_unused(&self) -> Result<(), ControlError> {
        let before = TimeMicros::now().plus_micros(-UNUSED_MICROS_MAX).0;
        let mut transaction = self.control.begin(ROOM).await?;
        for table in ["export_hosts", "export_rows", "export_skips"] {
            let statement = format!(
                "DELETE FROM {table} WHERE target IN (SELECT target FROM export_targets WHERE used_at < $1)"
            );
            composed(statement).bind(before).execute(&mut transaction).await?;
        }
        query("DELETE FROM export_targets WHERE used_at < $1")
            .bind(before)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// Since when a target is fed: now, when it is new.
    pub(crate) async fn begin(&self, target: &str, now: TimeMicros) -> Result<TimeMicros, ExportError> {
        let statement = "INSERT INTO export_targets (target, begun_at, used_at) VALUES ($1, $2, $2)
             ON CONFLICT (target) DO UPDATE SET used_at = excluded.used_at RETURNING begun_at";
        let begun = query(statement)
            .bind(target)
            .bind(now.0)
            .fetch_value(&self.control)
            .await
            .map_err(ExportError::database("begin a target"))?;
        Ok(begun.map_or(now, TimeMicros))
    }

    /// What a target has of each host. Marks that cannot be read are left out and counted.
    pub(crate) async fn marks(
        &self,
        target: &str,
    ) -> Result<(HashMap<HostId, HostMarks>, usize), ExportError> {
        let rows = query("SELECT host_id, marks FROM export_hosts WHERE target = $1")
            .bind(target)
            .fetch_all(&self.control)
            .await
            .map_err(ExportError::database("read what a target has"))?;
        let (mut marks, mut damaged) = (HashMap::new(), 0_usize);
        for row in rows {
            let host: Result<String, _> = row.try_get(0);
            let bytes: Result<Vec<u8>, _> = row.try_get(1);
            let (Ok(host), Ok(bytes)) = (host, bytes) else {
                damaged = damaged.saturating_add(1);
                continue;
            };
            match (host.parse(), HostMarks::from_bytes(&bytes)) {
                (Ok(host), Ok(read)) => {
                    marks.insert(host, read);
                }
                (_, Err(error)) => {
                    tracing::warn!(target_name = target, host, %error, "cannot read what an export target has of a host");
                    damaged = damaged.saturating_add(1);
                }
                (Err(_), _) => damaged = damaged.saturating_add(1),
            }
        }
        Ok((marks, damaged))
    }

    /// Keeps what a target has of these hosts, all or none; none when the turn has gone to another collector.
    pub(crate) async fn put_marks(
        &self,
        target: &str,
        marks: Vec<(HostId, Vec<u8>)>,
        turn: &Turn,
    ) -> Result<(), ExportError> {
        let written = self.write_marks(target, marks, turn).await;
        written.map_err(ExportError::database("keep what a target has"))
    }

    async fn write_marks(
        &self,
        target: &str,
        marks: Vec<(HostId, Vec<u8>)>,
        turn: &Turn,
    ) -> Result<(), ControlError> {
        let mut transaction = self.control.begin(ROOM).await?;
        turn.confirm(&mut transaction).await?;
        for (host, bytes) in marks {
            let statement = "INSERT INTO export_hosts (target, host_id, marks) VALUES ($1, $2, $3)
                 ON CONFLICT (target, host_id) DO UPDATE SET marks = excluded.marks";
            query(statement)
                .bind(target)
                .bind(host.to_string())
                .bind(bytes)
                .execute(&mut transaction)
                .await?;
        }
        touch(&mut transaction, target).await?;
        transaction.commit().await
    }

    /// How far a table was sent.
    pub(crate) async fn rows_place(
        &self,
        target: &str,
        table: &str,
    ) -> Result<Option<RowsPlace>, ExportError> {
        let wrap = || ExportError::database("read how far a table was sent");
        let statement =
            "SELECT ingested_at, seen, remembers_from FROM export_rows WHERE target = $1 AND table_name = $2";
        let read = query(statement)
            .bind(target)
            .bind(table)
            .fetch_optional(&self.control)
            .await;
        let place = |row: Row| {
            let (ingested_at, seen): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let seen = seen_of(&seen);
            // Before there was this column, rows of the last seconds were remembered.
            let oldest = seen.values().min().copied().unwrap_or(ingested_at);
            let remembers_from = row.try_get::<Option<i64>>(2)?.unwrap_or(oldest);
            Ok(RowsPlace {
                ingested_at: TimeMicros(ingested_at),
                seen,
                remembers_from: TimeMicros(remembers_from),
            })
        };
        read.map_err(wrap())?.map(place).transpose().map_err(wrap())
    }

    /// Keeps how far a table was sent, unless the turn has gone to another collector.
    pub(crate) async fn put_rows_place(
        &self,
        target: &str,
        table: &str,
        place: &RowsPlace,
        turn: &Turn,
    ) -> Result<(), ExportError> {
        let written = self.write_rows_place((target, table), place, turn).await;
        written.map_err(ExportError::database("keep how far a table was sent"))
    }

    async fn write_rows_place(
        &self,
        (target, table): (&str, &str),
        place: &RowsPlace,
        turn: &Turn,
    ) -> Result<(), ControlError> {
        let mut transaction = self.control.begin(ROOM).await?;
        turn.confirm(&mut transaction).await?;
        let statement = "INSERT INTO export_rows (target, table_name, ingested_at, seen, remembers_from)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (target, table_name) DO UPDATE SET ingested_at = excluded.ingested_at,
             seen = excluded.seen, remembers_from = excluded.remembers_from";
        query(statement)
            .bind(target)
            .bind(table)
            .bind(place.ingested_at.0)
            .bind(seen_bytes(&place.seen))
            .bind(place.remembers_from.0)
            .execute(&mut transaction)
            .await?;
        touch(&mut transaction, target).await?;
        transaction.commit().await
    }

    /// Notes what is left out.
    pub(crate) async fn put_skip(&self, target: &str, skip: &Skip) -> Result<(), ExportError> {
        let written = self.write_skip(target, skip).await;
        written.map_err(ExportError::database("note what is left out"))
    }

    async fn write_skip(&self, target: &str, skip: &Skip) -> Result<(), ControlError> {
        let insert = "INSERT INTO export_skips (target, subject, from_time, to_time, noticed_at)
             VALUES ($1, $2, $3, $4, $5)";
        query(insert)
            .bind(target)
            .bind(skip.subject.as_str())
            .bind(skip.from_time.0)
            .bind(skip.to_time.0)
            .bind(skip.noticed_at.0)
            .execute(&self.control)
            .await?;
        let prune = "DELETE FROM export_skips WHERE target = $1 AND skip_id <=
             (SELECT max(skip_id) FROM export_skips) - CAST($2 AS BIGINT)";
        query(prune)
            .bind(target)
            .bind(SKIPS_MAX)
            .execute(&self.control)
            .await?;
        Ok(())
    }

    /// What was left out, the newest first.
    pub(crate) async fn skips(&self, target: &str, limit: u32) -> Result<Vec<Skip>, ExportError> {
        let wrap = || ExportError::database("read what was left out");
        let read = "SELECT subject, from_time, to_time, noticed_at FROM export_skips WHERE target = $1
             ORDER BY skip_id DESC LIMIT $2";
        let rows = query(read)
            .bind(target)
            .bind(limit)
            .fetch_all(&self.control)
            .await
            .map_err(wrap())?;
        let skip = |row: &Row| {
            Ok(Skip {
                subject: row.try_get(0)?,
                from_time: TimeMicros(row.try_get(1)?),
                to_time: TimeMicros(row.try_get(2)?),
                noticed_at: TimeMicros(row.try_get(3)?),
            })
        };
        rows.iter().map(skip).collect::<Result<_, _>>().map_err(wrap())
    }
}

/// The target is in use.
async fn touch(transaction: &mut Transaction, target: &str) -> Result<(), ControlError> {
    query("UPDATE export_targets SET used_at = $1 WHERE target = $2")
        .bind(TimeMicros::now().0)
        .bind(target)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Pairs of `hash u64 LE, stored i64 LE`; a rest that is no pair is left out, as a row sent twice is all that comes of it.
fn seen_of(bytes: &[u8]) -> HashMap<u64, i64> {
    let pair = |pair: &[u8]| {
        let (hash, stored) = pair.split_first_chunk::<8>()?;
        let stored = stored.first_chunk::<8>()?;
        Some((u64::from_le_bytes(*hash), i64::from_le_bytes(*stored)))
    };
    bytes.chunks_exact(16).filter_map(pair).collect()
}

fn seen_bytes(seen: &HashMap<u64, i64>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(seen.len().saturating_mul(16));
    for (hash, stored) in seen {
        bytes.extend(hash.to_le_bytes());
        bytes.extend(stored.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleetmend_control::{Engine, Leases};
    use fleetmend_shutdown::Tasks;
    use fleetmend_testkit::TestControl;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn turn_of(control: &Control, name: &str, tasks: &Tasks) -> Turn {
        let leases = Leases::new(control.clone(), name, Duration::from_secs(600));
        let mut tenure = leases.hold("export/there", tasks);
        let lease = tokio::time::timeout(PATIENCE, tenure.wait()).await.unwrap();
        Turn::of(lease.unwrap(), tenure)
    }

    #[tokio::test]
    async fn who_lost_the_turn_overwrites_nothing() {
        for engine in [Engine::Sqlite, Engine::Postgres] {
            let database = TestControl::of(engine).unwrap();
            let control = database.open().await.unwrap();
            let state = State::open(control.clone()).await.unwrap();
            state.begin("there", TimeMicros::now()).await.unwrap();
            let (one, two) = (Tasks::new(), Tasks::new());
            let former = turn_of(&control, "one", &one).await;
            let host = HostId::random();
            let marks = |time| {
                let mut marks = HostMarks::default();
                marks.raise(1, TimeMicros(time));
                vec![(host, marks.to_bytes())]
            };
            let place = |time| RowsPlace {
                ingested_at: TimeMicros(time),
                seen: HashMap::from([(7, time)]),
                remembers_from: TimeMicros(time - 1),
            };
            state.put_marks("there", marks(1), &former).await.unwrap();
            state
                .put_rows_place("there", "gaps", &place(1), &former)
                .await
                .unwrap();
            one.drain(PATIENCE).await;
            let latter = turn_of(&control, "two", &two).await;
            state.put_marks("there", marks(2), &latter).await.unwrap();
            state
                .put_rows_place("there", "gaps", &place(2), &latter)
                .await
                .unwrap();
            for refused in [
                state.put_marks("there", marks(3), &former).await,
                state.put_rows_place("there", "gaps", &place(3), &former).await,
            ] {
                let refused = refused.unwrap_err();
                let lost = matches!(
                    refused,
                    ExportError::Database {
                        source: ControlError::LeaseLost(_),
                        ..
                    }
                );
                assert!(lost, "{engine:?}: {refused:?}");
            }
            let (kept, damaged) = state.marks("there").await.unwrap();
            assert_eq!((kept[&host].newest(), damaged), (Some(TimeMicros(2)), 0));
            let kept = state.rows_place("there", "gaps").await.unwrap();
            assert_eq!(kept, Some(place(2)), "{engine:?}");
            two.drain(PATIENCE).await;
        }
    }

    #[tokio::test]
    async fn target_of_today_keeps_its_place_however_long_it_runs() {
        let database = TestControl::of(Engine::Sqlite).unwrap();
        let state = State::open(database.open().await.unwrap()).await.unwrap();
        let tasks = Tasks::new();
        let turn = turn_of(state.control(), "one", &tasks).await;
        let long_ago = TimeMicros::now().plus_micros(-2 * UNUSED_MICROS_MAX);
        for target in ["there", "gone"] {
            state.begin(target, long_ago).await.unwrap();
            let place = RowsPlace {
                ingested_at: long_ago,
                seen: HashMap::new(),
                remembers_from: long_ago,
            };
            state.put_rows_place(target, "gaps", &place, &turn).await.unwrap();
        }
        query("UPDATE export_targets SET used_at = begun_at")
            .execute(state.control())
            .await
            .unwrap();
        // As a start does.
        let begun_at = state.begin("there", TimeMicros::now()).await.unwrap();
        state.forget_unused().await.unwrap();
        assert_eq!(begun_at, long_ago);
        assert!(state.rows_place("there", "gaps").await.unwrap().is_some());
        assert!(state.rows_place("gone", "gaps").await.unwrap().is_none());
        tasks.drain(PATIENCE).await;
    }
}
