//! The catalogue's copy.
//!
//! After every change of which files are live, and before anything that the change made needless is deleted, the whole
//! catalogue is written to `catalogue.copy.sqlite`, under another name, synced and renamed; and once more at every start,
//! before recovery deletes anything. So the copy is never older than what lies on the disk allows: a catalogue that is
//! damaged or gone is replaced by it (`catalogue/examine.rs`), and at worst the last step is done again. A copy that
//! cannot be written is deleted: none is better than one that names files which are gone, for without one the catalogue
//! is made anew from the files.
//!
//! # What it costs
//! A copy reads and writes the whole catalogue: 330 bytes a file and 55 a stream, 8 MB and a tenth of a second for a year
//! of 1,000 hosts (20,000 files; 30,000 streams, after ten unclean starts each). It is made by a reader: nobody who writes to
//! the catalogue waits for it, only the step of maintenance that caused it. Once a copy takes longer than
//! [`FREE_TIME`], the next one comes no sooner than [`TIMES_LONGER`] times that later: a step before then deletes the
//! copy, and maintenance writes it when it is time, as does closing. So copies take at most a twentieth of the time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::SqlitePool;
use tokio::sync::Mutex;

use crate::error::CatalogueError;

/// A copy that takes no longer is made after every change.
const FREE_TIME: Duration = Duration::from_millis(100);
/// Otherwise so many times longer than it took there is none.
const TIMES_LONGER: u32 = 19;

/// Where the copy of a catalogue lies.
pub(super) fn copy_of(catalogue: &Path) -> PathBuf {
    catalogue.with_file_name("catalogue.copy.sqlite")
}

/// Writes copies, one at a time.
#[derive(Debug)]
pub(super) struct Copies {
    path: PathBuf,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// When the next one may be written.
    not_before: Option<Instant>,
    /// Whether there is none, because a change came before then.
    is_stale: bool,
}

impl Copies {
    /// Of the catalogue at this path.
    pub(super) fn new(catalogue: &Path) -> Self {
        Self {
            path: copy_of(catalogue),
            pace: Mutex::default(),
        }
    }

    /// Writes the copy anew.
    pub(super) async fn renew(&self, pool: &SqlitePool) {
        self.written(&mut *self.pace.lock().await, pool).await;
    }

    /// Writes the copy anew, or deletes it when it is not time.
    pub(super) async fn renew_or_delete(&self, pool: &SqlitePool) {
        let mut pace = self.pace.lock().await;
        if pace.is_due(Instant::now()) {
            self.written(&mut pace, pool).await;
        } else if !pace.is_stale {
            pace.is_stale = true;
            self.deleted().await;
        }
    }

    /// Writes a copy that is missing, when it is time.
    pub(super) async fn renew_when_due(&self, pool: &SqlitePool) {
        let mut pace = self.pace.lock().await;
        if pace.is_stale && pace.is_due(Instant::now()) {
            self.written(&mut pace, pool).await;
        }
    }

    /// Writes a copy that is missing.
    pub(super) async fn renew_stale(&self, pool: &SqlitePool) {
        let mut pace = self.pace.lock().await;
        if pace.is_stale {
            self.written(&mut pace, pool).await;
        }
    }

    async fn written(&self, pace: &mut Pace, pool: &SqlitePool) {
        let began = Instant::now();
        // Until it is there, also for whoever stops waiting.
        pace.is_stale = true;
        match write(pool, &self.path).await {
            Ok(()) => pace.is_stale = false,
            Err(error) => {
                metrics::counter!(crate::metrics::MAINTENANCE_FAILURES, "step" => "catalogue_copy")
                    .increment(1);
                tracing::warn!(path = %self.path.display(), %error, "cannot copy the catalogue; a stale copy is deleted");
                self.deleted().await;
            }
        }
        pace.took(began, Instant::now());
    }

    async fn deleted(&self) {
        let path = self.path.clone();
        let deleted = tokio::task::spawn_blocking(move || delete(&path)).await;
        if let Err(error) = deleted.map_err(io::Error::other).flatten() {
            tracing::error!(path = %self.path.display(), %error, "cannot delete a stale copy of the catalogue: delete it");
        }
    }
}

impl Pace {
    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    fn took(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began);
        self.not_before = (took > FREE_TIME)
            .then(|| now.checked_add(took.saturating_mul(TIMES_LONGER)))
            .flatten();
    }
}

async fn write(pool: &SqlitePool, copy: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let temporary = copy.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    sqlx::query("VACUUM INTO ?")
        .bind(temporary.to_string_lossy().into_owned())
        .execute(pool)
        .await?;
    let to = copy.to_owned();
    tokio::task::spawn_blocking(move || place(&temporary, &to)).await??;
    Ok(())
}

/// Syncs a file and gives it its name.
pub(super) fn place(temporary: &Path, to: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    fs::rename(temporary, to)?;
    sync_folder(to)
}

/// Deletes a file durably, if it is there.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(path),
    }
}

fn sync_folder(of: &Path) -> io::Result<()> {
    of.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

pub(super) fn file<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> CatalogueError + use<'a> {
    move |source| CatalogueError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn copies_take_at_most_a_twentieth_of_the_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert!(pace.is_due(at(0)));
        pace.took(at(0), at(90));
        assert!(pace.is_due(at(90)), "what is quick is made every time");
        pace.took(at(100), at(600));
        assert!(!pace.is_due(at(10_000)) && pace.is_due(at(10_100)));
    }

    #[tokio::test]
    async fn copy_that_is_put_off_is_no_stale_one_and_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue.sqlite");
        let (catalogue, _) = Catalogue::open(&path).await.unwrap();
        let copy = copy_of(&path);
        assert!(copy.exists());
        let far = Instant::now() + Duration::from_secs(3_600);
        catalogue.copies.pace.lock().await.not_before = Some(far);
        catalogue.copies.renew_or_delete(&catalogue.pool).await;
        assert!(!copy.exists());
        catalogue.copy_when_due().await;
        assert!(!copy.exists(), "it is not time");
        catalogue.copies.pace.lock().await.not_before = None;
        catalogue.copy_when_due().await;
        assert!(copy.exists());
        catalogue.copies.pace.lock().await.not_before = Some(far);
        catalogue.copies.renew_or_delete(&catalogue.pool).await;
        catalogue.close().await;
        assert!(copy.exists(), "closing does not leave without one");
    }
}
