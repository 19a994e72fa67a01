//! Objects: content under the name of its digest.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{ReadLock, Repository, WriteLock};
use crate::backup::error::{BackupError, io_error};
use crate::backup::manifest::{Blob, from_json};
use crate::backup::seal::{self, ContentDigest, Squeeze, digest_of};

impl Repository {
    /// Name of the object with this content.
    pub(in crate::backup) fn name_of(&self, digest: &[u8]) -> String {
        match &self.key {
            Some(key) => key.name_of(digest),
            None => hex::encode(digest),
        }
    }

    /// Whether there is an object of that name, as far as a look at its folder tells.
    pub(in crate::backup) fn has(&self, name: &str) -> bool {
        fs::metadata(self.folder.join(object_path(name))).is_ok_and(|file| file.len() > 0)
    }

    /// Writes bytes as an object unless there is one; returns it and how many bytes that took.
    pub(in crate::backup) fn put_bytes(
        &self,
        _: &WriteLock,
        bytes: &[u8],
        squeeze: Squeeze,
    ) -> Result<(Blob, u64), BackupError> {
        let blob = Blob {
            name: self.name_of(&digest_of(bytes)),
            bytes: bytes.len() as u64,
        };
        if self.has(&blob.name) {
            return Ok((blob, 0));
        }
        let (_, added) = self.write_object(&blob.name, (&mut &*bytes, blob.bytes), squeeze)?;
        Ok((blob, added))
    }

    /// Writes the file at `path` as the object that it should be by its digest and length. `None` when it is not.
    pub(in crate::backup) fn put_file(
        &self,
        _: &WriteLock,
        path: &Path,
        (digest, bytes): (&ContentDigest, u64),
    ) -> Result<Option<(Blob, u64)>, BackupError> {
        let blob = Blob {
            name: self.name_of(digest),
            bytes,
        };
        if self.has(&blob.name) {
            return Ok(Some((blob, 0)));
        }
        let mut file = File::open(path).map_err(io_error("read", path))?;
        let name = object_path(&blob.name);
        let (temporary, mut out) = self.temporary()?;
        let sealed = seal::seal(
            (&mut file, bytes),
            &name,
            self.key.as_ref(),
            Squeeze::No,
            &mut out,
        );
        match sealed {
            Ok(found) if found == *digest => {}
            Ok(_) => {
                fs::remove_file(&temporary).map_err(io_error("delete", &temporary))?;
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                fs::remove_file(&temporary).map_err(io_error("delete", &temporary))?;
                return Ok(None);
            }
            Err(error) => {
                // A full disk should not stay fuller than it was.
                fs::remove_file(&temporary).ok();
                return Err(io_error("copy into the repository", path)(error));
            }
        }
        let added = out.metadata().map_or(bytes, |file| file.len());
        self.place(out, &temporary, &self.folder.join(name))?;
        Ok(Some((blob, added)))
    }

    fn write_object(
        &self,
        name: &str,
        content: (&mut dyn Read, u64),
        squeeze: Squeeze,
    ) -> Result<(ContentDigest, u64), BackupError> {
        let name = object_path(name);
        let (temporary, mut out) = self.temporary()?;
        let sealed = seal::seal(content, &name, self.key.as_ref(), squeeze, &mut out);
        let digest = sealed.map_err(|error| {
            fs::remove_file(&temporary).ok();
            io_error("write", &temporary)(error)
        })?;
        let added = out.metadata().map_or(0, |file| file.len());
        self.place(out, &temporary, &self.folder.join(name))?;
        Ok((digest, added))
    }

    /// Writes the content of an object to `out`, and then says whether it is the object's. Whoever calls it gives
    /// what was written a name after that only.
    pub(in crate::backup) fn read(&self, blob: &Blob, out: &mut dyn Write) -> Result<(), BackupError> {
        let name = object_path(&blob.name);
        let path = self.folder.join(&name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::damaged(name, "it is missing"));
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let (digest, bytes) = match seal::open(&mut file, &name, self.key.as_ref(), blob.bytes, out) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(BackupError::damaged(name, error.to_string()));
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        if bytes != blob.bytes || self.name_of(&digest) != blob.name {
            return Err(BackupError::damaged(
                name,
                "its content is not what its name says",
            ));
        }
        Ok(())
    }

    /// The content of an object that is small.
    pub(in crate::backup) fn read_bytes(&self, blob: &Blob) -> Result<Vec<u8>, BackupError> {
        let mut content = Vec::new();
        self.read(blob, &mut content)?;
        Ok(content)
    }

    /// A list that is an object.
    pub(in crate::backup) fn read_list<T: DeserializeOwned>(
        &self,
        blob: &Blob,
    ) -> Result<Vec<T>, BackupError> {
        from_json(&self.read_bytes(blob)?, &object_path(&blob.name))
    }

    /// Deletes the objects that are not in `kept`; how many, and how many bytes.
    pub(in crate::backup) fn sweep(
        &self,
        _: &WriteLock,
        _: &ReadLock,
        kept: &HashSet<String>,
    ) -> Result<(u64, u64), BackupError> {
        let objects = self.folder.join("objects");
        let (mut count, mut bytes) = (0_u64, 0_u64);
        for folder in fs::read_dir(&objects).map_err(io_error("list", &objects))? {
            let folder = folder.map_err(io_error("list", &objects))?.path();
            for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
                let entry = entry.map_err(io_error("list", &folder))?;
                let is_kept = entry.file_name().to_str().is_some_and(|name| kept.contains(name));
                if !is_kept {
                    let path = entry.path();
                    bytes = bytes.saturating_add(entry.metadata().map_or(0, |file| file.len()));
                    fs::remove_file(&path).map_err(io_error("delete", &path))?;
                    count = count.saturating_add(1);
                }
            }
        }
        Ok((count, bytes))
    }
}

/// Where an object lies; its name was checked.
fn object_path(name: &str) -> String {
    format!("objects/{}/{name}", name.get(..2).unwrap_or("00"))
}
