//! Catalogue: what is registered, in SQLite.
//!
//! One transaction registers the Parquet files of a compaction, takes the marks of its segments over and marks the
//! segments as compacted. A segment that is not marked is read again at the next start, a Parquet file that is not
//! registered is not there: whichever moment a kill chooses, each row is stored once. A damaged catalogue is replaced
//! by its copy (`catalogue/copy.rs`); without one it is made anew from the files (`rebuild.rs`).

mod change;
mod copy;
mod examine;
mod snapshot;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_event::{HostId, Lane, Mark, Sequence, SpoolEpoch, TimeMicros};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Row};

use crate::error::CatalogueError;
use crate::label::StoreId;
use change::write_change;
pub(crate) use change::{Built, Change, DirtyDay};
use copy::Copies;
pub(crate) use examine::State;
pub(crate) use snapshot::{image, snapshot};

/// A Parquet file as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRow {
    pub(crate) id: i64,
    /// Relative to the folder of Parquet files.
    pub(crate) path: String,
    pub(crate) table: String,
    pub(crate) day: i64,
    pub(crate) from: TimeMicros,
    pub(crate) to: TimeMicros,
    pub(crate) ingested_to: TimeMicros,
    /// The span of its rows by the store's clock; unknown in files written before these were kept.
    pub(crate) true_from: Option<TimeMicros>,
    pub(crate) true_to: Option<TimeMicros>,
    pub(crate) rows: u64,
    /// Chunks that hold them, in files of metrics; none in files of one row each.
    pub(crate) chunks: Option<u64>,
    pub(crate) bytes: u64,
    pub(crate) digest: String,
}

/// The catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    pool: SqlitePool,
    copies: Arc<Copies>,
}

impl Catalogue {
    /// Opens or makes the catalogue at `path`; returns whether it was made.
    ///
    /// # Errors
    /// When it is damaged and has no whole copy, too.
    pub(crate) async fn open(path: &Path) -> Result<(Self, bool), CatalogueError> {
        match examine::examine(path, None).await? {
            State::Whole | State::Absent => Self::connect(path, None).await,
            State::Lost { fault } => Err(CatalogueError::Damaged {
                path: path.to_owned(),
                fault,
                unknown: None,
            }),
        }
    }

    /// Looks at the catalogue at `path`, which should be of this store; its copy takes its place where that helps.
    pub(crate) async fn examine(path: &Path, store: Option<StoreId>) -> Result<State, CatalogueError> {
        examine::examine(path, store).await
    }

    /// Opens or makes a catalogue that is whole; returns whether it was made. One that does not say of which store it
    /// is says `store` from now on.
    pub(crate) async fn connect(path: &Path, store: Option<StoreId>) -> Result<(Self, bool), CatalogueError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Segments are deleted once they are registered, so a registration must survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options)
            .await
            .map_err(failed("open"))?;
        let mut connection = pool.acquire().await.map_err(failed("open"))?;
        migrate(&mut connection, path).await?;
        let made = make_identity(&mut connection, store).await?;
        drop(connection);
        let catalogue = Self {
            copies: Arc::new(Copies::new(path)),
            pool,
        };
        // A kill may have come between a change and its copy, and recovery deletes by what the catalogue says.
        catalogue.copies.renew(&catalogue.pool).await;
        Ok((catalogue, made))
    }

    /// Makes a catalogue at `path` that holds `change`, in one step.
    pub(crate) async fn make(
        path: &Path,
        store: Option<StoreId>,
        change: &Change,
    ) -> Result<(), CatalogueError> {
        let temporary = path.with_extension("anew");
        copy::delete(&temporary).map_err(copy::file("delete", &temporary))?;
        let options = SqliteConnectOptions::new()
            .filename(&temporary)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Delete);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .map_err(failed("make anew"))?;
        migrate(&mut connection, path).await?;
        make_identity(&mut connection, store).await?;
        let written = async move {
            let mut transaction = connection.begin().await?;
            write_change(&mut transaction, change).await?;
            transaction.commit().await?;
            connection.close().await
        };
        written.await.map_err(failed("make anew"))?;
        let to = path.to_owned();
        let place = move || {
            examine::put_aside(&to)?;
            copy::place(&temporary, &to)
        };
        let placed = tokio::task::spawn_blocking(place).await;
        let placed = placed.map_err(std::io::Error::other).flatten();
        placed.map_err(copy::file("make", path))
    }

    /// Which store it is, in all its lives.
    pub(crate) async fn store_id(&self) -> Result<StoreId, CatalogueError> {
        let row = sqlx::query("SELECT store_id FROM store_identity WHERE id = 1")
            .fetch_one(&self.pool)
            .await
            .map_err(failed("read the store's identity"))?;
        sixteen(&row, 0, "a store id")
    }

    /// Writes something that changes nothing.
    pub(crate) async fn touch(&self) -> Result<(), CatalogueError> {
        sqlx::query("UPDATE store_identity SET created_at = created_at WHERE id = 1")
            .execute(&self.pool)
            .await
            .map_err(failed("write"))?;
        Ok(())
    }

    /// Writes the copy that was put off, when it is time.
    pub(crate) async fn copy_when_due(&self) {
        self.copies.renew_when_due(&self.pool).await;
    }

    /// The life of this store.
    pub(crate) async fn epoch(&self) -> Result<[u8; 16], CatalogueError> {
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(failed("read the store's identity"))?;
        store_epoch(&mut connection).await
    }

    /// Begins another life of this store, as when it was restored.
    pub(crate) async fn renew_epoch(&self) -> Result<(), CatalogueError> {
        sqlx::query("UPDATE store_identity SET epoch = ?, created_at = ? WHERE id = 1")
            .bind(uuid::Uuid::new_v4().as_bytes().as_slice())
            .bind(TimeMicros::now().0)
            .execute(&self.pool)
            .await
            .map_err(failed("renew the store's identity"))?;
        self.copies.renew(&self.pool).await;
        Ok(())
    }

    /// Every mark that was taken over, the stalest first.
    pub(crate) async fn marks(&self) -> Result<Vec<(HostId, Mark, TimeMicros)>, CatalogueError> {
        let rows = sqlx::query("SELECT host, epoch, lane, sequence, seen_at FROM marks ORDER BY seen_at")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read marks"))?;
        let mark = |row: &SqliteRow| {
            let lane = u8::try_from(row.get::<i64, _>(2)).ok().and_then(Lane::from_code);
            let lane = lane.ok_or(CatalogueError::Invalid { what: "a lane" })?;
            let sequence = Sequence(unsigned(row.get(3)));
            let epoch = SpoolEpoch::from_bytes(sixteen(row, 1, "a spool epoch")?);
            Ok((
                HostId::from_bytes(sixteen(row, 0, "a host id")?),
                Mark {
                    epoch,
                    lane,
                    sequence,
                },
                TimeMicros(row.get(4)),
            ))
        };
        rows.iter().map(mark).collect()
    }

    /// Every live Parquet file.
    pub(crate) async fn files(&self) -> Result<Vec<FileRow>, CatalogueError> {
        let mut connection = self.pool.acquire().await.map_err(failed("read Parquet files"))?;
        live_files(&mut connection).await
    }

    /// Every day whose tiers are to be made anew, the longest waiting first.
    pub(crate) async fn dirty_days(&self) -> Result<Vec<DirtyDay>, CatalogueError> {
        let rows = sqlx::query("SELECT day, since, marked FROM dirty_days ORDER BY since, day")
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read dirty days"))?;
        let day = |row: &SqliteRow| DirtyDay {
            day: row.get(0),
            since: TimeMicros(row.get(1)),
            marked: row.get(2),
        };
        Ok(rows.iter().map(day).collect())
    }

    /// Segments that are compacted and not yet deleted, and the newest that was.
    pub(crate) async fn compacted_segments(&self) -> Result<Vec<u64>, CatalogueError> {
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(failed("read compacted segments"))?;
        compacted_segments(&mut connection).await
    }

    /// Applies `change` in one transaction; returns the ids of the files added, in order.
    ///
    /// # Cancel safety
    /// Dropped before its end it changes nothing, or everything when the commit was under way.
    pub(crate) async fn apply(&self, change: &Change) -> Result<Vec<i64>, CatalogueError> {
        let failure = failed("register files");
        let mut transaction = self.pool.begin().await.map_err(failed("register files"))?;
        let ids = write_change(&mut transaction, change).await.map_err(failure)?;
        transaction.commit().await.map_err(failed("register files"))?;
        if !(change.added.is_empty() && change.removed.is_empty() && change.segments.is_empty()) {
            self.copies.renew_or_delete(&self.pool).await;
        }
        Ok(ids)
    }

    /// Forgets compacted segments whose files are deleted. The newest stays known, so that its number is not given
    /// again: a backup tells by the number whether a segment's rows are in its Parquet files.
    pub(crate) async fn forget_segments(&self, numbers: &[u64]) -> Result<(), CatalogueError> {
        const FORGET: &str = "DELETE FROM compacted_segments WHERE compacted_at = 0 AND number < \
                              (SELECT max(number) FROM compacted_segments)";
        let failure = || failed("forget segments");
        let mut transaction = self.pool.begin().await.map_err(failure())?;
        for number in numbers {
            // 0 says that the file is deleted.
            sqlx::query("UPDATE compacted_segments SET compacted_at = 0 WHERE number = ?")
                .bind(signed(*number))
                .execute(&mut *transaction)
                .await
                .map_err(failure())?;
        }
        sqlx::query(FORGET)
            .execute(&mut *transaction)
            .await
            .map_err(failure())?;
        transaction.commit().await.map_err(failure())
    }

    /// Forgets files that expired, in one transaction.
    pub(crate) async fn forget_files(&self, ids: &[i64]) -> Result<(), CatalogueError> {
        self.apply(&Change {
            removed: ids.to_vec(),
            ..Change::default()
        })
        .await
        .map(|_| ())
    }

    /// Marks a file as damaged: it stays known, and is not read any more.
    pub(crate) async fn set_damaged(&self, id: i64) -> Result<(), CatalogueError> {
        sqlx::query("UPDATE parquet_files SET state = 'damaged' WHERE id = ?")
            .bind(id)
            .execute(&self.pool)
            .await
            .map_err(failed("mark a damaged file"))?;
        Ok(())
    }

    /// Forgets marks of streams not heard of since `before`.
    pub(crate) async fn forget_marks(&self, before: TimeMicros) -> Result<(), CatalogueError> {
        sqlx::query("DELETE FROM marks WHERE seen_at < ?")
            .bind(before.0)
            .execute(&self.pool)
            .await
            .map_err(failed("forget marks"))?;
        Ok(())
    }

    /// Closes the file in order.
    pub(crate) async fn close(&self) {
        self.copies.renew_stale(&self.pool).await;
        self.pool.close().await;
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), CatalogueError> {
    let done = sqlx::migrate!("./migrations").run(connection).await;
    done.map_err(|error| match error {
        MigrateError::VersionMissing(version) => CatalogueError::Newer {
            path: path.to_owned(),
            version,
        },
        other => CatalogueError::Migrate(other),
    })
}

/// Makes what is missing of the identity; returns whether there was none.
async fn make_identity(
    connection: &mut SqliteConnection,
    store: Option<StoreId>,
) -> Result<bool, CatalogueError> {
    let failure = failed("make the store's identity");
    let done = sqlx::query("INSERT OR IGNORE INTO store_identity (id, epoch, created_at) VALUES (1, ?, ?)")
        .bind(uuid::Uuid::new_v4().as_bytes().as_slice())
        .bind(TimeMicros::now().0)
        .execute(&mut *connection)
        .await
        .map_err(&failure)?;
    let store = store.unwrap_or_else(|| *uuid::Uuid::new_v4().as_bytes());
    sqlx::query("UPDATE store_identity SET store_id = ? WHERE id = 1 AND store_id IS NULL")
        .bind(store.as_slice())
        .execute(&mut *connection)
        .await
        .map_err(&failure)?;
    Ok(done.rows_affected() == 1)
}

async fn store_epoch(connection: &mut SqliteConnection) -> Result<[u8; 16], CatalogueError> {
    let row = sqlx::query("SELECT epoch FROM store_identity WHERE id = 1")
        .fetch_one(connection)
        .await
        .map_err(failed("read the store's identity"))?;
    sixteen(&row, 0, "a store epoch")
}

async fn live_files(connection: &mut SqliteConnection) -> Result<Vec<FileRow>, CatalogueError> {
    const LIVE: &str = "SELECT id, path, table_name, day, from_time, to_time, ingested_to, row_count, bytes, digest, \
                        true_from, true_to, chunk_count \
                        FROM parquet_files WHERE state = 'live' ORDER BY id";
    let rows = sqlx::query(LIVE)
        .fetch_all(connection)
        .await
        .map_err(failed("read Parquet files"))?;
    let file = |row: &SqliteRow| FileRow {
        id: row.get(0),
        path: row.get(1),
        table: row.get(2),
        day: row.get(3),
        from: TimeMicros(row.get(4)),
        to: TimeMicros(row.get(5)),
        ingested_to: TimeMicros(row.get(6)),
        rows: unsigned(row.get(7)),
        bytes: unsigned(row.get(8)),
        digest: row.get(9),
        true_from: row.get::<Option<i64>, _>(10).map(TimeMicros),
        true_to: row.get::<Option<i64>, _>(11).map(TimeMicros),
        chunks: row.get::<Option<i64>, _>(12).map(unsigned),
    };
    Ok(rows.iter().map(file).collect())
}

async fn compacted_segments(connection: &mut SqliteConnection) -> Result<Vec<u64>, CatalogueError> {
    let rows = sqlx::query("SELECT number FROM compacted_segments")
        .fetch_all(connection)
        .await
        .map_err(failed("read compacted segments"))?;
    Ok(rows.iter().map(|row| unsigned(row.get(0))).collect())
}

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> CatalogueError {
    move |source| CatalogueError::Sql { action, source }
}

fn sixteen(row: &SqliteRow, column: usize, what: &'static str) -> Result<[u8; 16], CatalogueError> {
    row.get::<Vec<u8>, _>(column)
        .try_into()
        .map_err(|_| CatalogueError::Invalid { what })
}

/// SQLite's integers are signed; numbers of ours never reach their end.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
