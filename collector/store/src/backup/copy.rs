//! Making a backup: what is new in the source goes into the repository, then a manifest that names everything.

mod segment;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleetmend_event::TimeMicros;
use tokio::runtime::Handle;

use super::error::{BackupError, io_error};
use super::kept::Kept;
use super::manifest::{
    BLOCK_BYTES, Blob, CATALOGUE, CHUNK_BYTES_MAX, DatabaseEntry, FORMAT, FileEntry, Link, Manifest, Missing,
    PlainEntry, Shard,
};
use super::repository::{Listed, Repository, WriteLock};
use super::seal::{ContentDigest, Squeeze, digest_of};
use super::source::{Look, Source, database, layout, look};
use super::staging::{Staged, Staging};
use super::{Progress, Watch};
use crate::catalogue::FileRow;

/// How often a store that changes under the look is looked at again.
const ATTEMPTS_MAX: u32 = 50;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// What a restore notes in the store's folder: from which repository it is.
pub(super) const RESTORED_NOTE: &str = "restored-from";

/// A backup that was made.
#[derive(Debug)]
pub struct Made {
    /// What it holds.
    pub manifest: Manifest,
    /// SHA-256 of the manifest's file, in hex: kept elsewhere it shows whether a later manifest was put back.
    pub digest: String,
    /// Objects that were new.
    pub objects_added: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Makes a backup of `source`. Blocks for as long as it takes to copy what is new. `adopt` goes on in a repository
/// whose newest backup is of another store.
///
/// # Errors
/// [`BackupError`] says what stands in the way. Then no manifest was written, and the next call begins where the
/// objects end that are there.
pub fn back_up(
    repository: &Repository,
    source: &Source,
    adopt: bool,
    runtime: &Handle,
    watch: &dyn Watch,
) -> Result<Made, BackupError> {
    let started = Instant::now();
    let lock = repository.lock()?;
    let previous = repository.newest()?;
    let link = previous.as_ref().map(|listed| Link {
        sequence: listed.sequence,
        digest: listed.digest.clone(),
    });
    let previous = previous.and_then(readable);
    let mut staging = Staging::begin(&source.store)?;
    let kept = Kept::ask(&source.store, repository.id());
    let mut copy = Copy::new((repository, &lock), previous.as_ref(), watch);
    let (look, shards) = copy.settle(source, (&mut staging, &kept), runtime)?;
    let kept_whole = match &previous {
        None => false,
        Some(before) if before.store_epoch == look.epoch => is_whole(&kept, before),
        Some(_) if adopt || is_restored_from(source, repository) => false,
        Some(other) => {
            return Err(BackupError::OtherStore {
                found: other.store_epoch.clone(),
                epoch: look.epoch,
            });
        }
    };
    copy.done.total = shards
        .iter()
        .flat_map(|shard| &shard.new)
        .map(|(row, _)| row.bytes)
        .sum();
    let manifest = Manifest {
        format: FORMAT,
        repository: repository.id().to_owned(),
        sequence: link.as_ref().map_or(1, |link| link.sequence.saturating_add(1)),
        time: look.moment,
        finished: TimeMicros::now(),
        store_epoch: look.epoch,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        previous: link,
        // What goes first is what is gone soonest.
        segments: copy.segments(look.segments)?,
        kept: copy.segments(look.kept)?,
        kept_whole,
        compacted_to: look.compacted_to,
        databases: copy.databases(source, &look.catalogue, runtime)?,
        files: copy.plain_files(source)?,
        shards: copy.shards(shards)?,
        missing: std::mem::take(&mut copy.missing),
        bytes_added: copy.added,
    };
    let manifest = Manifest {
        finished: TimeMicros::now(),
        bytes_added: copy.added,
        ..manifest
    };
    let digest = repository.put_manifest(&lock, &manifest)?;
    let numbers: Vec<u64> = manifest.kept.iter().map(|segment| segment.number).collect();
    kept.taken(manifest.sequence, &numbers);
    Ok(Made {
        manifest,
        digest,
        objects_added: copy.objects,
        elapsed: started.elapsed(),
    })
}

fn readable(newest: Listed) -> Option<Manifest> {
    let sequence = newest.sequence;
    let told = |error: &BackupError| {
        tracing::error!(sequence, %error, "the newest manifest cannot be read; everything is compared anew");
    };
    newest.manifest.inspect_err(told).ok()
}

/// Whether all is kept that was compacted since the backup `before`.
fn is_whole(kept: &Kept, before: &Manifest) -> bool {
    let is_whole = kept.is_whole_since(before.sequence);
    if !is_whole {
        tracing::warn!(
            since = %before.time,
            "not every segment was kept that was compacted since; moments between are restored as of then"
        );
    }
    is_whole
}

/// Files of one table and day, with their digests as far as the catalogue's can be read.
type Digested = Vec<(FileRow, Option<ContentDigest>)>;

/// The Parquet files of one table and day, with those that are not in the repository and where they can be read.
struct Wanted {
    table: String,
    day: i64,
    /// Each with its digest, when the catalogue's can be understood.
    rows: Vec<(FileRow, Option<ContentDigest>)>,
    new: Vec<(FileRow, PathBuf)>,
    /// Name of the list of the previous backup, when it is the same.
    unchanged: Option<Shard>,
}

struct Copy<'a> {
    repository: &'a Repository,
    lock: &'a WriteLock,
    watch: &'a dyn Watch,
    previous: Option<&'a Manifest>,
    done: Progress,
    added: u64,
    objects: u64,
    missing: Vec<Missing>,
}

impl<'a> Copy<'a> {
    fn new(
        (repository, lock): (&'a Repository, &'a WriteLock),
        previous: Option<&'a Manifest>,
        watch: &'a dyn Watch,
    ) -> Self {
        Self {
            repository,
            lock,
            watch,
            previous,
            done: Progress { done: 0, total: 0 },
            added: 0,
            objects: 0,
            missing: Vec::new(),
        }
    }

    /// Looks until nothing goes away between the look and the links to what is to be copied.
    fn settle(
        &mut self,
        source: &Source,
        (staging, kept): (&mut Staging, &Kept),
        runtime: &Handle,
    ) -> Result<(Look, Vec<Wanted>), BackupError> {
        let mut gone_before = HashSet::new();
        for _ in 0..ATTEMPTS_MAX {
            self.go_on()?;
            if let Some(look) = look(&source.store, kept, runtime)? {
                let mut shards = self.wanted(&look.files)?;
                let gone = stage(source, staging, &mut shards)?;
                // What is gone twice and still registered was not deleted by the store.
                if gone.iter().all(|path| gone_before.contains(path)) {
                    let missing = |path: String| Missing {
                        path,
                        reason: "the file is not there".to_owned(),
                    };
                    self.missing.extend(gone.into_iter().map(missing));
                    return Ok((look, shards));
                }
                gone_before = gone;
            }
            std::thread::sleep(PAUSE);
        }
        Err(BackupError::Restless {
            attempts: ATTEMPTS_MAX,
        })
    }

    /// The files by table and day; which of them are new.
    fn wanted(&self, files: &[FileRow]) -> Result<Vec<Wanted>, BackupError> {
        let mut shards: BTreeMap<(String, i64), Digested> = BTreeMap::new();
        for row in files {
            let mut digest = ContentDigest::default();
            let known = hex::decode_to_slice(&row.digest, &mut digest).is_ok();
            let shard = shards.entry((row.table.clone(), row.day)).or_default();
            shard.push((row.clone(), known.then_some(digest)));
        }
        let held: HashMap<(&str, i64), &Shard> = self.previous.map_or_else(HashMap::new, |previous| {
            let shards = previous.shards.iter();
            shards
                .map(|shard| ((shard.table.as_str(), shard.day), shard))
                .collect()
        });
        let mut wanted = Vec::with_capacity(shards.len());
        for ((table, day), rows) in shards {
            let before = held.get(&(table.as_str(), day)).copied();
            let (_, text) = self.list_of(&rows)?;
            let name = self.repository.name_of(&digest_of(&text));
            let unchanged = before.filter(|shard| shard.list.name == name).cloned();
            let new = match (&unchanged, before) {
                (Some(_), _) => Vec::new(),
                (None, before) => self.new_of(&rows, before),
            };
            wanted.push(Wanted {
                table,
                day,
                rows,
                new: new.into_iter().map(|row| (row, PathBuf::new())).collect(),
                unchanged,
            });
        }
        Ok(wanted)
    }

    fn list_of(
        &self,
        rows: &[(FileRow, Option<ContentDigest>)],
    ) -> Result<(Vec<FileEntry>, Vec<u8>), BackupError> {
        let entry = |(row, digest): &(FileRow, Option<ContentDigest>)| {
            Some(FileEntry {
                path: row.path.clone(),
                blob: Blob {
                    name: self.repository.name_of(&(*digest)?),
                    bytes: row.bytes,
                },
            })
        };
        let entries: Vec<FileEntry> = rows.iter().filter_map(entry).collect();
        let text = to_json(&entries)?;
        Ok((entries, text))
    }

    fn new_of(&self, rows: &[(FileRow, Option<ContentDigest>)], before: Option<&Shard>) -> Vec<FileRow> {
        let held = before.and_then(|shard| self.repository.read_list::<FileEntry>(&shard.list).ok());
        let held: HashSet<String> = held.into_iter().flatten().map(|entry| entry.blob.name).collect();
        let is_new = |(_, digest): &&(FileRow, Option<ContentDigest>)| {
            digest.is_some_and(|digest| {
                let name = self.repository.name_of(&digest);
                !held.contains(&name) && !self.repository.has(&name)
            })
        };
        rows.iter().filter(is_new).map(|(row, _)| row.clone()).collect()
    }

    /// Copies the new files, and writes the lists that changed.
    fn shards(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Shard>, BackupError> {
        let mut shards = Vec::with_capacity(wanted.len());
        for mut wanted in wanted {
            if let Some(shard) = wanted.unchanged {
                shards.push(shard);
                continue;
            }
            let mut lost: HashSet<i64> = HashSet::new();
            for (row, path) in &wanted.new {
                self.go_on()?;
                if path.as_os_str().is_empty() {
                    lost.insert(row.id);
                    continue;
                }
                if !self.parquet(row, path)? {
                    lost.insert(row.id);
                    self.miss(&row.path, "its content is not what the catalogue says");
                }
            }
            for (row, digest) in &wanted.rows {
                if digest.is_none() {
                    self.miss(&row.path, "the catalogue holds no digest of it");
                }
            }
            wanted.rows.retain(|(row, _)| !lost.contains(&row.id));
            let (entries, text) = self.list_of(&wanted.rows)?;
            let list = self.bytes(&text, Squeeze::Yes)?;
            shards.push(Shard {
                table: wanted.table,
                day: wanted.day,
                files: entries.len() as u64,
                rows: wanted.rows.iter().map(|(row, _)| row.rows).sum(),
                bytes: entries.iter().map(|entry| entry.blob.bytes).sum(),
                newest: wanted
                    .rows
                    .iter()
                    .map(|(row, _)| row.ingested_to)
                    .max()
                    .unwrap_or_default(),
                list,
            });
        }
        Ok(shards)
    }

    fn parquet(&mut self, row: &FileRow, path: &std::path::Path) -> Result<bool, BackupError> {
        let mut digest = ContentDigest::default();
        if hex::decode_to_slice(&row.digest, &mut digest).is_err() {
            return Ok(false);
        }
        let put = self.repository.put_file(self.lock, path, (&digest, row.bytes))?;
        if let Some((_, added)) = &put {
            self.count(*added);
        }
        self.tell(row.bytes);
        Ok(put.is_some())
    }

    fn databases(
        &mut self,
        source: &Source,
        catalogue: &[u8],
        runtime: &Handle,
    ) -> Result<Vec<DatabaseEntry>, BackupError> {
        let mut entries = vec![self.database(CATALOGUE, catalogue)?];
        for (name, path) in &source.databases {
            self.go_on()?;
            let image = database(path, runtime)?;
            entries.push(self.database(name, &image)?);
        }
        Ok(entries)
    }

    fn database(&mut self, name: &str, image: &[u8]) -> Result<DatabaseEntry, BackupError> {
        let before = self.previous.and_then(|previous| {
            let entry = previous.databases.iter().find(|entry| entry.name == name)?;
            self.repository.read_list::<String>(&entry.blocks).ok()
        });
        let held: HashSet<String> = before.into_iter().flatten().collect();
        let mut names = Vec::new();
        for block in image.chunks(usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX)) {
            let block_name = self.repository.name_of(&digest_of(block));
            if !held.contains(&block_name) {
                self.bytes(block, Squeeze::Yes)?;
            }
            names.push(block_name);
        }
        let blocks = self.bytes(&to_json(&names)?, Squeeze::Yes)?;
        Ok(DatabaseEntry {
            name: name.to_owned(),
            bytes: image.len() as u64,
            blocks,
        })
    }

    fn plain_files(&mut self, source: &Source) -> Result<Vec<PlainEntry>, BackupError> {
        let mut entries = Vec::with_capacity(source.files.len());
        for (name, path) in &source.files {
            let mut content = zeroize::Zeroizing::new(Vec::new());
            let file = fs::File::open(path).map_err(io_error("read", path))?;
            let mode = file.metadata().map_err(io_error("inspect", path))?.mode() & 0o777;
            file.take(CHUNK_BYTES_MAX)
                .read_to_end(&mut content)
                .map_err(io_error("read", path))?;
            entries.push(PlainEntry {
                path: name.clone(),
                mode,
                blob: self.bytes(&content, Squeeze::Yes)?,
            });
        }
        Ok(entries)
    }

    fn bytes(&mut self, bytes: &[u8], squeeze: Squeeze) -> Result<Blob, BackupError> {
        let (blob, added) = self.repository.put_bytes(self.lock, bytes, squeeze)?;
        self.count(added);
        Ok(blob)
    }

    fn count(&mut self, added: u64) {
        self.added = self.added.saturating_add(added);
        self.objects = self.objects.saturating_add(u64::from(added > 0));
    }

    fn miss(&mut self, path: &str, reason: &str) {
        tracing::error!(path, reason, "a file of the store is not in the backup");
        self.missing.push(Missing {
            path: path.to_owned(),
            reason: reason.to_owned(),
        });
    }

    fn tell(&mut self, bytes: u64) {
        self.done.done = self.done.done.saturating_add(bytes);
        self.watch.progress(self.done);
    }

    fn go_on(&self) -> Result<(), BackupError> {
        if self.watch.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        Ok(())
    }
}

/// Links the new files; which of them are gone.
fn stage(
    source: &Source,
    staging: &mut Staging,
    shards: &mut [Wanted],
) -> Result<HashSet<String>, BackupError> {
    let folder = layout(&source.store).parquet_folder();
    let mut gone = HashSet::new();
    for (row, place) in shards.iter_mut().flat_map(|shard| &mut shard.new) {
        match staging.keep(&folder.join(&row.path))? {
            Staged::At(path) => *place = path,
            Staged::Gone => {
                gone.insert(row.path.clone());
            }
        }
    }
    Ok(gone)
}

/// Whether the store says that it was restored from this repository.
fn is_restored_from(source: &Source, repository: &Repository) -> bool {
    let note = fs::read_to_string(source.store.join(RESTORED_NOTE));
    note.is_ok_and(|note| note.lines().next() == Some(repository.id()))
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value)
        .map_err(|error| io_error("write", std::path::Path::new("a list"))(std::io::Error::other(error)))
}
