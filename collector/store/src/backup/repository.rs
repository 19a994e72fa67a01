//! The repository's files: objects, manifests, locks.

mod lock;
mod object;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{BackupError, io_error};
use super::key::BackupKey;
use super::manifest::{LIST_BYTES_MAX, Manifest, from_json};
use super::seal::{self, Squeeze, digest_of};
pub(super) use lock::{ReadLock, WriteLock};

/// Version of the folder.
const FORMAT: u64 = 1;
const ABOUT: &str = "repository.json";
/// What `repository.json` may have.
const ABOUT_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct About {
    format: u64,
    id: String,
    key_id: Option<String>,
}

/// A repository that can be read, and written with a [`WriteLock`].
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    id: String,
    key: Option<BackupKey>,
    /// Folders with names that are not durable yet.
    unsynced: Mutex<HashSet<PathBuf>>,
}

/// A manifest as it lies in the repository.
#[derive(Debug)]
pub struct Listed {
    /// Its number.
    pub sequence: u64,
    /// SHA-256 of its file, in hex.
    pub digest: String,
    /// What it says, or what is wrong with it.
    pub manifest: Result<Manifest, BackupError>,
}

impl Repository {
    /// Opens the repository in `folder`.
    ///
    /// # Errors
    /// When there is none, or it is of another version or key.
    pub fn open(folder: &Path, key: Option<BackupKey>) -> Result<Self, BackupError> {
        let path = folder.join(ABOUT);
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(ABOUT_BYTES_MAX).read_to_end(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::Absent {
                    path: folder.to_owned(),
                });
            }
            Err(error) => Err(error),
        }
        .map_err(io_error("read", &path))?;
        let about: About = from_json(&text, ABOUT)?;
        if about.format != FORMAT {
            return Err(BackupError::Format { found: about.format });
        }
        let given = key.as_ref().map(BackupKey::id);
        if about.key_id.as_deref() != given {
            return Err(wrong_key(about.key_id.as_deref(), given));
        }
        Ok(Self {
            folder: folder.to_owned(),
            id: about.id,
            key,
            unsynced: Mutex::default(),
        })
    }

    /// Opens the repository in `folder`, or makes one where there is an empty folder.
    ///
    /// # Errors
    /// As [`Self::open`], and when the folder holds something else.
    pub fn open_or_create(folder: &Path, key: Option<BackupKey>) -> Result<Self, BackupError> {
        match Self::open(folder, key.clone()) {
            Err(BackupError::Absent { .. }) => {}
            opened => return opened,
        }
        // Never the folder itself: where it is missing, a file system may not be mounted.
        if !folder.is_dir() {
            return Err(BackupError::Absent {
                path: folder.to_owned(),
            });
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        let foreign = fs::read_dir(folder)
            .map_err(io_error("list", folder))?
            .map_while(Result::ok)
            // A file system of its own has this; a maker that was killed left the others.
            .any(|entry| {
                !["lost+found", "objects", "manifests", "tmp", "LOCK", "READERS"]
                    .iter()
                    .any(|known| entry.file_name() == *known)
            });
        if foreign {
            return Err(BackupError::NoRepository {
                path: folder.to_owned(),
            });
        }
        for name in ["objects", "manifests", "tmp"] {
            let path = folder.join(name);
            builder.create(&path).map_err(io_error("make", &path))?;
        }
        let repository = Self {
            folder: folder.to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
            key,
            unsynced: Mutex::default(),
        };
        let lock = repository.lock()?;
        // Another one may have made it while this one waited for nothing.
        if folder.join(ABOUT).exists() {
            drop(lock);
            return Self::open(folder, repository.key);
        }
        let about = About {
            format: FORMAT,
            id: repository.id.clone(),
            key_id: repository.key.as_ref().map(|key| key.id().to_owned()),
        };
        let text = serde_json::to_vec(&about).unwrap_or_default();
        let (temporary, mut file) = repository.temporary()?;
        file.write_all(&text).map_err(io_error("write", &temporary))?;
        repository.place(file, &temporary, &folder.join(ABOUT))?;
        repository.sync()?;
        Ok(repository)
    }

    /// Tells repositories apart.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether what is in it cannot be read without a key.
    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    /// Its manifests, the oldest first, one at a time: many are kept, and each names every file. One that cannot be
    /// read comes with the reason.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn list(&self) -> Result<impl Iterator<Item = Listed>, BackupError> {
        Ok(self
            .sequences()?
            .into_iter()
            .map(|sequence| self.manifest(sequence)))
    }

    /// The moment of the newest backup that can be read, if there is one.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn newest_time(&self) -> Result<Option<TimeMicros>, BackupError> {
        let sequences = self.sequences()?;
        let mut times = sequences.iter().rev().map(|sequence| self.manifest(*sequence));
        Ok(times.find_map(|listed| Some(listed.manifest.ok()?.time)))
    }

    /// The newest manifest, if there is one.
    pub(super) fn newest(&self) -> Result<Option<Listed>, BackupError> {
        Ok(self.sequences()?.last().map(|sequence| self.manifest(*sequence)))
    }

    /// Numbers of its manifests, rising.
    pub(super) fn sequences(&self) -> Result<Vec<u64>, BackupError> {
        let folder = self.folder.join("manifests");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let entry = entry.map_err(io_error("list", &folder))?;
            let name = entry.file_name();
            found.extend(
                name.to_str()
                    .filter(|name| name.len() == 20)
                    .and_then(|name| name.parse::<u64>().ok()),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The manifest `sequence`.
    pub(super) fn manifest(&self, sequence: u64) -> Listed {
        let name = manifest_name(sequence);
        let path = self.folder.join(&name);
        let read = || {
            let mut bytes = Vec::new();
            let file = File::open(&path)?;
            file.take(LIST_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(error) => {
                return Listed {
                    sequence,
                    digest: String::new(),
                    manifest: Err(io_error("read", &path)(error)),
                };
            }
        };
        Listed {
            sequence,
            digest: hex::encode(digest_of(&bytes)),
            manifest: self.decode(sequence, &name, &bytes),
        }
    }

    fn decode(&self, sequence: u64, name: &str, bytes: &[u8]) -> Result<Manifest, BackupError> {
        let mut content = Vec::new();
        seal::open(
            &mut &*bytes,
            name,
            self.key.as_ref(),
            LIST_BYTES_MAX,
            &mut content,
        )
        .map_err(|error| BackupError::damaged(name, error.to_string()))?;
        let manifest: Manifest = from_json(&content, name)?;
        manifest
            .check(sequence, &self.id)
            .map_err(|reason| BackupError::damaged(name, reason))?;
        Ok(manifest)
    }

    /// Writes a manifest; whatever it names has to be there. Returns the digest of its file.
    pub(super) fn put_manifest(&self, _: &WriteLock, manifest: &Manifest) -> Result<String, BackupError> {
        self.sync()?;
        let name = manifest_name(manifest.sequence);
        let digest = self.put_small(&name, manifest)?;
        self.sync()?;
        Ok(digest)
    }

    /// Seals `value` as the file `name`, in the place of what is there.
    pub(super) fn put_small(&self, name: &str, value: &impl Serialize) -> Result<String, BackupError> {
        let path = self.folder.join(name);
        let unsayable = |error: serde_json::Error| io_error("write", &path)(io::Error::other(error));
        let content = serde_json::to_vec(value).map_err(unsayable)?;
        let mut sealed = Vec::new();
        let from = (&mut &*content as &mut dyn Read, content.len() as u64);
        seal::seal(from, name, self.key.as_ref(), Squeeze::Yes, &mut sealed)
            .map_err(io_error("seal", &path))?;
        let (temporary, mut file) = self.temporary()?;
        file.write_all(&sealed).map_err(io_error("write", &temporary))?;
        self.place(file, &temporary, &path)?;
        Ok(hex::encode(digest_of(&sealed)))
    }

    /// What [`Self::put_small`] wrote; `None` when there is nothing.
    pub(super) fn get_small<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, BackupError> {
        let path = self.folder.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let mut content = Vec::new();
        seal::open(&mut file, name, self.key.as_ref(), LIST_BYTES_MAX, &mut content)
            .map_err(|error| BackupError::damaged(name, error.to_string()))?;
        from_json(&content, name).map(Some)
    }

    /// A file that [`Self::place`] gives its name.
    fn temporary(&self) -> Result<(PathBuf, File), BackupError> {
        let path = self
            .folder
            .join("tmp")
            .join(uuid::Uuid::new_v4().simple().to_string());
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        Ok((path.clone(), file.map_err(io_error("make", &path))?))
    }

    /// Gives a file its name once its content is durable; the name is after [`Self::sync`].
    fn place(&self, file: File, temporary: &Path, path: &Path) -> Result<(), BackupError> {
        file.sync_data().map_err(io_error("sync", temporary))?;
        let folder = path.parent().unwrap_or(&self.folder);
        if !folder.exists() {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(folder)
                .map_err(io_error("make", folder))?;
            self.unsynced.lock().extend(folder.parent().map(Path::to_owned));
        }
        fs::rename(temporary, path).map_err(io_error("name", path))?;
        self.unsynced.lock().insert(folder.to_owned());
        Ok(())
    }

    /// Makes the names of what was written durable.
    pub(super) fn sync(&self) -> Result<(), BackupError> {
        let folders = std::mem::take(&mut *self.unsynced.lock());
        folders.iter().try_for_each(|folder| {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(io_error("sync", folder))
        })
    }

    /// Deletes a manifest.
    pub(super) fn delete_manifest(&self, _: &WriteLock, sequence: u64) -> Result<(), BackupError> {
        let path = self.folder.join(manifest_name(sequence));
        fs::remove_file(&path).map_err(io_error("delete", &path))?;
        self.unsynced.lock().insert(self.folder.join("manifests"));
        Ok(())
    }
}

fn manifest_name(sequence: u64) -> String {
    format!("manifests/{sequence:020}")
}

fn wrong_key(wanted: Option<&str>, given: Option<&str>) -> BackupError {
    let wanted = wanted.map_or_else(
        || "not encrypted".to_owned(),
        |id| format!("encrypted with key {id}"),
    );
    let given = given.map_or_else(
        || "no key was given: pass --key-file, or set backup.key_file".to_owned(),
        |id| format!("key {id} was given"),
    );
    BackupError::WrongKey { wanted, given }
}
