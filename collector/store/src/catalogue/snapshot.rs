//! A look at a catalogue, or another database of SQLite, while somebody else writes to it.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Row};

use super::{FileRow, compacted_segments, failed, live_files, store_epoch};
use crate::error::CatalogueError;

/// What a catalogue says at one moment.
#[derive(Debug)]
pub(crate) struct CatalogueSnapshot {
    /// The life of the store.
    pub(crate) epoch: [u8; 16],
    /// Every live Parquet file.
    pub(crate) files: Vec<FileRow>,
    /// Segments that are compacted and not deleted yet, and the newest that was.
    pub(crate) compacted: Vec<u64>,
    /// The database itself, page by page as its file would be.
    pub(crate) image: Vec<u8>,
}

/// Reads the catalogue in `path` in one transaction; holds nobody up.
///
/// # Errors
/// When it cannot be read, or has more than `bytes_max` bytes.
///
/// # Cancel safety
/// May be dropped.
pub(crate) async fn snapshot(path: &Path, bytes_max: u64) -> Result<CatalogueSnapshot, CatalogueError> {
    let mut connection = open(path).await.map_err(failed("open"))?;
    let mut transaction = connection.begin().await.map_err(failed("begin to read"))?;
    // The first statement chooses the moment.
    let snapshot = CatalogueSnapshot {
        epoch: store_epoch(&mut transaction).await?,
        files: live_files(&mut transaction).await?,
        compacted: compacted_segments(&mut transaction).await?,
        image: pages(&mut transaction, bytes_max)
            .await
            .map_err(failed("copy the pages"))?,
    };
    transaction.rollback().await.map_err(failed("end reading"))?;
    connection.close().await.map_err(failed("close"))?;
    Ok(snapshot)
}

/// The database in `path` as its file would be at one moment; holds nobody up.
///
/// # Errors
/// As [`snapshot`].
///
/// # Cancel safety
/// May be dropped.
pub(crate) async fn image(path: &Path, bytes_max: u64) -> Result<Vec<u8>, sqlx::Error> {
    let mut connection = open(path).await?;
    let mut transaction = connection.begin().await?;
    let image = pages(&mut transaction, bytes_max).await?;
    transaction.rollback().await?;
    connection.close().await?;
    Ok(image)
}

async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(10));
    SqliteConnection::connect_with(&options).await
}

async fn pages(connection: &mut SqliteConnection, bytes_max: u64) -> Result<Vec<u8>, sqlx::Error> {
    const BYTES: &str = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    let row = sqlx::query(BYTES).fetch_one(&mut *connection).await?;
    let bytes = u64::try_from(row.get::<i64, _>(0)).unwrap_or(0);
    if bytes > bytes_max {
        let reason = format!("it has {bytes} bytes, and {bytes_max} are the most that is copied");
        return Err(sqlx::Error::Io(std::io::Error::other(reason)));
    }
    Ok(connection.serialize(None).await?.to_vec())
}
