//! What one step changes, in one transaction.

use std::collections::BTreeSet;

use fleetmend_event::{HostId, Mark, TimeMicros};
use sqlx::{Sqlite, Transaction};

use super::{FileRow, signed};
use crate::mark::EPOCHS_PER_HOST_MAX;
use crate::own::OWN_EPOCH_PREFIX;

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

/// Writes a change; the ids of the files added, in order.
pub(super) async fn write_change(
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
