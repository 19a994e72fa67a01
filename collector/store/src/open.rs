//! Opening: a folder becomes a store, whatever a kill, a power cut or damage left in it.
//!
//! The catalogue says which files there are, recovery reads the segments that are left (`recover.rs`). Where the catalogue
//! is lost and its copy too, it is made anew from what the Parquet files say of themselves (`rebuild.rs`), in an order that
//! a kill may stop anywhere: segments are recovered by the marks of the files, what is lost becomes gap rows in a segment of
//! its own, files that are not live are moved aside, and the catalogue gets its name last; without it, the next start
//! begins again.
//!
//! A catalogue that never heard of the segments that a file was made of, while these are gone, is older than its files, as
//! when somebody put an old one in its place. It counts as lost too: by its word those files would be deleted.
//!
//! The file `STORE` says which store the folder is of, so that a catalogue of another one is not taken for its own: it
//! would have every file deleted that it does not know.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::catalogue::{Catalogue, Change, State};
use crate::commit::Command;
use crate::config::StoreConfig;
use crate::error::{CatalogueError, OpenError};
use crate::gaps::Gaps;
use crate::inner::{Inner, Parts, SetAside};
use crate::label::StoreId;
use crate::own::new_own_epoch;
use crate::rebuild::{self, Plan};
use crate::recover::{Recovered, Recovery, io_error, make_folder, move_aside, register_files};
use crate::view::View;

/// What the writer is started with: the queue, and the number of the first segment.
pub(crate) type Start = (mpsc::Receiver<Command>, u64);

/// Opens or makes the store in its folder.
///
/// # Cancel safety
/// May be dropped; the folder stays locked until what is under way ended.
pub(crate) async fn open(mut config: StoreConfig) -> Result<(Arc<Inner>, Start), OpenError> {
    if let Some((key, reason)) = config.faults().into_iter().next() {
        return Err(OpenError::Config { key, reason });
    }
    crate::backup::refuse_unfinished(&config.folder)?;
    let lock = make_folders(&config)?;
    crate::backup::sweep(&config.folder);
    // The query engine takes absolute paths without detours only.
    config.folder = fs::canonicalize(&config.folder).map_err(io_error("find", &config.folder))?;
    let folder = Folder {
        view: Arc::new(View::new(config.hot_cache_bytes_max)),
        config: Arc::new(config),
        lock: Arc::new(lock),
    };
    let said = read_identity(&folder.config.folder)?;
    let state = Catalogue::examine(&folder.config.catalogue_file(), said).await?;
    let (catalogue, recovered, is_new) = match state {
        State::Whole => folder.known(said).await?,
        State::Absent => match folder.plan(said, None).await? {
            // A new store, or one that has nothing but segments: they say all there is to know.
            plan if plan.is_empty() => folder.known(said).await?,
            plan => folder.rebuilt(plan).await?,
        },
        State::Lost { fault } => folder.rebuilt(folder.plan(said, Some(fault)).await?).await?,
    };
    let store_id = catalogue.store_id().await?;
    if said != Some(store_id) {
        write_identity(&folder.config.folder, store_id)?;
    }
    let rows = catalogue.files().await?;
    let register = move |folder: &Folder| register_files(&folder.config, &folder.view, rows, is_new);
    let mut aside: Vec<SetAside> = folder.blocking(register).await?;
    let Recovered {
        marks,
        segments,
        next_number,
        deleted,
        mut lost,
    } = recovered;
    aside.append(&mut lost);
    catalogue.forget_segments(&deleted).await?;
    let Folder { config, view, lock } = folder;
    let (inner, commands) = Inner::new(Parts {
        epoch: catalogue.epoch().await?,
        store_id,
        own_epoch: new_own_epoch(),
        catalogue,
        config: Arc::unwrap_or_clone(config),
        view,
        gaps: Gaps::default(),
        segments,
        marks,
        aside,
        lock,
    });
    Ok((inner, (commands, next_number)))
}

/// A store's folder while it is opened.
#[derive(Clone)]
struct Folder {
    config: Arc<StoreConfig>,
    view: Arc<View>,
    /// Also held by work that nobody waits for any more.
    lock: Arc<fs::File>,
}

impl Folder {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let folder = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.map_err(|error| OpenError::Engine(error.to_string()))?
    }

    fn recovery(&self) -> Recovery<'_> {
        Recovery {
            config: &self.config,
            view: &self.view,
        }
    }

    /// How the catalogue is to be made anew. One that is there, and at fault, is better restored from a backup when files
    /// do not say enough of themselves.
    async fn plan(&self, said: Option<StoreId>, fault: Option<String>) -> Result<Plan, OpenError> {
        let plan = move |folder: &Self| rebuild::plan(&folder.config, said);
        let plan = self.blocking(plan).await?;
        match (fault, plan.unknown.first()) {
            (Some(fault), Some(one)) => Err(OpenError::Catalogue(CatalogueError::Damaged {
                path: self.config.catalogue_file(),
                fault,
                unknown: Some((plan.unknown.len(), one.to_string())),
            })),
            _ => Ok(plan),
        }
    }

    /// By a catalogue that is whole, or new.
    async fn known(&self, said: Option<StoreId>) -> Result<(Catalogue, Recovered, bool), OpenError> {
        let (catalogue, is_new) = Catalogue::connect(&self.config.catalogue_file(), said).await?;
        let (store, files) = (catalogue.store_id().await?, catalogue.files().await?);
        let compacted = catalogue.compacted_segments().await?;
        let segment_max = compacted.iter().copied().max().unwrap_or(0);
        let newer = move |folder: &Self| rebuild::newer_file(&folder.config, store, segment_max, &files);
        if let Some(newer) = self.blocking(newer).await? {
            catalogue.close().await;
            let fault = format!("is older than {}", newer.display());
            return self.rebuilt(self.plan(Some(store), Some(fault)).await?).await;
        }
        let marks = catalogue.marks().await?;
        let recover = move |folder: &Self| folder.recovery().segments(marks, &compacted, segment_max);
        Ok((catalogue, self.blocking(recover).await?, is_new))
    }

    /// By what the files say.
    async fn rebuilt(&self, plan: Plan) -> Result<(Catalogue, Recovered, bool), OpenError> {
        tracing::error!(
            files = plan.rows.len(),
            aside = plan.aside.len(),
            "the catalogue is lost; it is made anew from what the Parquet files say of themselves"
        );
        let recover = move |folder: &Self| {
            let recovery = folder.recovery();
            let mut recovered = recovery.segments(plan.marks.clone(), &[], plan.segment_max)?;
            recovery.tell(&mut recovered, &plan.gaps)?;
            for path in &plan.aside {
                move_aside(&folder.config, path)?;
            }
            Ok((recovered, plan))
        };
        let (recovered, plan) = self.blocking(recover).await?;
        let change = Change {
            added: plan.rows,
            marks: plan.marks,
            dirty: plan.dirty,
            // So that its number is not given again.
            segments: (plan.segment_max > 0)
                .then_some(plan.segment_max)
                .into_iter()
                .collect(),
            ..Change::default()
        };
        let path = self.config.catalogue_file();
        Catalogue::make(&path, plan.store, &change).await?;
        let (catalogue, _) = Catalogue::connect(&path, plan.store).await?;
        Ok((catalogue, recovered, true))
    }
}

/// Makes the folders and takes the lock.
fn make_folders(config: &StoreConfig) -> Result<fs::File, OpenError> {
    for folder in [
        config.segments_folder(),
        config.parquet_folder(),
        config.aside_folder(),
        config.spill_folder(),
    ] {
        make_folder(&folder, 0o777).map_err(io_error("make", &folder))?;
    }
    let synced = fs::File::open(&config.folder).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("sync", &config.folder))?;
    let path = config.folder.join("LOCK");
    let lock = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: config.folder.clone(),
        }),
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

fn identity_file(folder: &Path) -> PathBuf {
    folder.join("STORE")
}

/// Which store the folder is of, when it says so.
fn read_identity(folder: &Path) -> Result<Option<StoreId>, OpenError> {
    let path = identity_file(folder);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let mut id = StoreId::default();
    match hex::decode_to_slice(text.trim_ascii(), &mut id) {
        Ok(()) => Ok(Some(id)),
        Err(_) => Err(OpenError::Identity { path }),
    }
}

fn write_identity(folder: &Path, id: StoreId) -> Result<(), OpenError> {
    let path = identity_file(folder);
    let temporary = path.with_extension("tmp");
    let written = || {
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{}", hex::encode(id))?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    written().map_err(io_error("write", &path))
}
