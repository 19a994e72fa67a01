//! Backups of a store that is written to, and what comes back.

mod damage;
mod full;
mod kill;
mod moment;
mod round;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::testbed::{Bed, Host, config, folder, open, open_with};
use crate::backup::{
    BackupError, BackupKey, Made, Plan, Repository, RestoreTarget, Restored, Source, Unwatched, Verified,
    VerifyExtent, back_up, plan, restore, verify,
};

/// A folder with a store, a repository and targets in it.
struct Place {
    folder: TempDir,
    key: Option<BackupKey>,
}

impl Place {
    fn new() -> Self {
        let folder = folder();
        std::fs::create_dir(folder.path().join("repository")).unwrap();
        Self {
            folder,
            key: Some(BackupKey::new(&[3; 32])),
        }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn target(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn back_up(&self) -> Result<Made, BackupError> {
        back_up_of(&self.store(), &self.repository(), self.key.clone()).await
    }

    async fn plan(&self, to: Option<fleetmend_event::TimeMicros>) -> Result<Plan, BackupError> {
        let (folder, key) = (self.repository(), self.key.clone());
        blocking(move |_| plan(&Repository::open(&folder, key)?, to)).await
    }

    /// Restores the newest backup to `name`.
    async fn restore(&self, name: &str) -> Result<Restored, BackupError> {
        let plan = self.plan(None).await?;
        self.restore_plan(plan, name).await
    }

    async fn restore_plan(&self, plan: Plan, name: &str) -> Result<Restored, BackupError> {
        let (folder, key) = (self.repository(), self.key.clone());
        let target = RestoreTarget {
            store: self.target(name),
            ..RestoreTarget::default()
        };
        blocking(move |runtime| {
            let repository = Repository::open(&folder, key)?;
            restore(&repository, &plan, &target, runtime, &Unwatched)
        })
        .await
    }

    async fn verify(&self) -> Verified {
        let (folder, key) = (self.repository(), self.key.clone());
        let verified = blocking(move |_| {
            verify(
                &Repository::open(&folder, key)?,
                VerifyExtent::Everything,
                &Unwatched,
            )
        });
        verified.await.unwrap()
    }

    /// Every object, by its path.
    fn objects(&self) -> Vec<PathBuf> {
        let mut objects = Vec::new();
        for folder in std::fs::read_dir(self.repository().join("objects")).unwrap() {
            let entries = std::fs::read_dir(folder.unwrap().path()).unwrap();
            objects.extend(entries.map(|entry| entry.unwrap().path()));
        }
        objects.sort();
        objects
    }

    fn manifest(&self, sequence: u64) -> PathBuf {
        self.repository().join(format!("manifests/{sequence:020}"))
    }
}

async fn back_up_of(store: &Path, repository: &Path, key: Option<BackupKey>) -> Result<Made, BackupError> {
    let source = Source {
        store: store.to_owned(),
        ..Source::default()
    };
    let repository = repository.to_owned();
    blocking(move |runtime| {
        let repository = Repository::open_or_create(&repository, key)?;
        back_up(&repository, &source, false, runtime, &Unwatched)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce(&Handle) -> T + Send + 'static) -> T {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || work(&runtime)).await.unwrap()
}

/// Rows, distinct pids and gaps of stage `restore` and others.
async fn counts(bed: &Bed) -> (i64, i64, i64, i64) {
    (
        bed.number("SELECT count(*) FROM process_events").await,
        bed.number("SELECT count(DISTINCT pid) FROM process_events").await,
        bed.number("SELECT count(*) FROM gaps WHERE stage = 'restore'")
            .await,
        bed.number("SELECT count(*) FROM gaps WHERE stage <> 'restore'")
            .await,
    )
}

async fn commit_execs(bed: &Bed, host: &mut Host, frames: usize) {
    for _ in 0..frames {
        let frame = host.execs(10);
        bed.store.commit(host.id, vec![frame]).await.unwrap();
    }
}

async fn compacted(bed: &Bed, files: u64) {
    bed.store.seal().await.unwrap();
    super::testbed::eventually("compaction", || {
        let stats = bed.store.stats();
        stats.hot_rows == 0 && stats.tables.iter().map(|table| table.files).sum::<u64>() >= files
    })
    .await;
}
