//! Catalogue: what is registered, in SQLite.
//!
//! One transaction registers the Parquet files of a compaction, takes the marks of its segments over and marks the
//! segments as compacted. A segment that is not marked is read again at the next start, a Parquet file that is not
//! registered is not there: whichever moment a kill chooses, each row is stored once. A damaged catalogue is replaced
//! by its copy (`catalogue/copy.rs`).

mod copy;

mod snapshot;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetmend_event::{HostId, Lane, Mark, Sequence, SpoolEpoch, TimeMicros};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, Sqlite, Transaction};

use crate::error::CatalogueError;
use crate::mark::EPOCHS_PER_HOST_MAX;
use crate::own::OWN_EPOCH_PREFIX;
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

/// What one compaction or merge changes.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Files that are new; their ids are not read.
    pub(crate) added: Vec<FileRow>,
    /// Ids of files whose rows are in the new ones.
    pub(crate) removed: Vec<i64>,
    /// Segments whose rows are in the new files.
    pub(crate) segments: Vec<u64>,
    /// Marks to take over.
    pub(crate) marks: Vec<(HostId, Mark, TimeMicros)>,
    /// Days, since 1970, whose tiers are to be made anew.
    pub(crate) dirty: BTreeSet<i64>,
    /// A day whose tiers were made anew.
    pub(crate) built: Option<Built>,
}

/// A day whose tiers are to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirtyDay {
    /// Days since 1970.
    pub(crate) day: i64,
    /// When it was marked first.
    pub(crate) since: TimeMicros,
    /// How often it was marked since.
    pub(crate) marked: i64,
}

/// A day whose tiers were made anew from what there was when it was read as dirty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) dirty: DirtyDay,
    /// Whether it has windows that are not over yet.
    pub(crate) is_partial: bool,
}

/// The catalogue.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    pool: SqlitePool,
    path: PathBuf,
}

impl Catalogue {
    /// Opens or makes the catalogue at `path`; returns whether it was made.
    pub(crate) async fn open(path: &Path) -> Result<(Self, bool), CatalogueError> {
        copy::repair(path).await?;
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
        sqlx::migrate!("./migrations")
            .run(&pool)
            .await
            .map_err(|error| match error {
                MigrateError::VersionMissing(version) => CatalogueError::Newer {
                    path: path.to_owned(),
                    version,
                },
                other => CatalogueError::Migrate(other),
            })?;
        let catalogue = Self {
            pool,
            path: path.to_owned(),
        };
        let made = catalogue.make_identity().await?;
        if !copy::is_there(path) {
            copy::write(&catalogue.pool, path).await;
        }
        Ok((catalogue, made))
    }

    async fn make_identity(&self) -> Result<bool, CatalogueError> {
        let epoch = uuid::Uuid::new_v4();
        let done =
            sqlx::query("INSERT OR IGNORE INTO store_identity (id, epoch, created_at) VALUES (1, ?, ?)")
                .bind(epoch.as_bytes().as_slice())
                .bind(TimeMicros::now().0)
                .execute(&self.pool)
                .await
                .map_err(failed("make the store's identity"))?;
        Ok(done.rows_affected() == 1)
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
        copy::write(&self.pool, &self.path).await;
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
            copy::write(&self.pool, &self.path).await;
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
        self.pool.close().await;
    }
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

async fn write_change(
    transaction: &mut Transaction<'_, Sqlite>,
    change: &Change,
) -> Result<Vec<i64>, sqlx::Error> {
    let mut ids = Vec::with_capacity(change.added.len());
    for file in &change.added {
        const ADD: &str = "INSERT INTO parquet_files (path, table_name, day, from_time, to_time, ingested_to, row_count, \
                           bytes, digest, true_from, true_to, chunk_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let done = sqlx::query(ADD)
            .bind(&file.path)
            .bind(&file.table)
            .bind(file.day)
            .bind(file.from.0)
            .bind(file.to.0)
            .bind(file.ingested_to.0)
            .bind(signed(file.rows))
            .bind(signed(file.bytes))
            .bind(&file.digest)
            .bind(file.true_from.map(|time| time.0))
            .bind(file.true_to.map(|time| time.0))
            .bind(file.chunks.map(signed))
            .execute(&mut **transaction)
            .await?;
        ids.push(done.last_insert_rowid());
    }
    for id in &change.removed {
        sqlx::query("DELETE FROM parquet_files WHERE id = ?")
            .bind(id)
            .execute(&mut **transaction)
            .await?;
    }
    for number in &change.segments {
        sqlx::query("INSERT OR IGNORE INTO compacted_segments (number, compacted_at) VALUES (?, ?)")
            .bind(signed(*number))
            .bind(TimeMicros::now().0)
            .execute(&mut **transaction)
            .await?;
    }
    for (host, mark, seen_at) in &change.marks {
        const RAISE: &str = "INSERT INTO marks (host, epoch, lane, sequence, seen_at) VALUES (?, ?, ?, ?, ?) \
                             ON CONFLICT (host, epoch, lane) DO UPDATE SET sequence = max(sequence, excluded.sequence), \
                             seen_at = max(seen_at, excluded.seen_at)";
        sqlx::query(RAISE)
            .bind(host.as_bytes().as_slice())
            .bind(mark.epoch.as_bytes().as_slice())
            .bind(i64::from(mark.lane.code()))
            .bind(signed(mark.sequence.0))
            .bind(seen_at.0)
            .execute(&mut **transaction)
            .await?;
    }
    for day in &change.dirty {
        const MARK: &str = "INSERT INTO dirty_days (day, since, marked) VALUES (?, ?, 1) \
                            ON CONFLICT (day) DO UPDATE SET marked = marked + 1";
        sqlx::query(MARK)
            .bind(day)
            .bind(TimeMicros::now().0)
            .execute(&mut **transaction)
            .await?;
    }
    if let Some(built) = &change.built {
        settle_day(transaction, *built).await?;
    }
    forget_stalest(transaction, change).await?;
    Ok(ids)
}

/// Takes the mark of a day away, unless samples came meanwhile or windows are not over: then it waits anew.
async fn settle_day(transaction: &mut Transaction<'_, Sqlite>, built: Built) -> Result<(), sqlx::Error> {
    let Built { dirty, is_partial } = built;
    if !is_partial {
        sqlx::query("DELETE FROM dirty_days WHERE day = ? AND marked = ?")
            .bind(dirty.day)
            .bind(dirty.marked)
            .execute(&mut **transaction)
            .await?;
    }
    sqlx::query("UPDATE dirty_days SET since = ? WHERE day = ?")
        .bind(TimeMicros::now().0)
        .bind(dirty.day)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Keeps the latest epochs of every host whose marks changed, and the store's own.
async fn forget_stalest(
    transaction: &mut Transaction<'_, Sqlite>,
    change: &Change,
) -> Result<(), sqlx::Error> {
    const FORGET: &str = "DELETE FROM marks WHERE host = ?1 AND substr(epoch, 1, 8) <> ?2 AND epoch NOT IN \
                          (SELECT epoch FROM marks WHERE host = ?1 AND substr(epoch, 1, 8) <> ?2 \
                          GROUP BY epoch ORDER BY max(seen_at) DESC LIMIT ?3)";
    let hosts: BTreeSet<HostId> = change.marks.iter().map(|(host, ..)| *host).collect();
    for host in hosts {
        sqlx::query(FORGET)
            .bind(host.as_bytes().as_slice())
            .bind(OWN_EPOCH_PREFIX.as_slice())
            .bind(i64::try_from(EPOCHS_PER_HOST_MAX).unwrap_or(i64::MAX))
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
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
