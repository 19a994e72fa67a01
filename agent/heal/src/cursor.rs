//! The index of the next ledger entry to read: one number in a file, replaced whole and synced.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::CursorError;

/// The file.
#[derive(Debug, Clone)]
pub struct CursorFile {
    path: PathBuf,
}

impl CursorFile {
    /// The file at `path`; it need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The index; 0 when there is none or it is not a number: everything is then read again, nothing is lost.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn read(&self) -> Result<u64, CursorError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.trim().parse().unwrap_or_else(|_| {
                tracing::warn!(path = %self.path.display(), "cursor is not a number: the ledger is read from its start");
                0
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(source) => Err(self.fault("read", source)),
        }
    }

    /// Keeps the index.
    ///
    /// # Errors
    /// When it is not on the disk.
    pub fn write(&self, index: u64) -> Result<(), CursorError> {
        let temporary = self.path.with_extension("new");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(index.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        });
        written.map_err(|source| self.fault("write", source))
    }

    fn fault(&self, action: &'static str, source: std::io::Error) -> CursorError {
        CursorError {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_survives_and_garbage_means_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let cursor = CursorFile::new(&path);
        assert_eq!(cursor.read().unwrap(), 0);
        cursor.write(41).unwrap();
        cursor.write(42).unwrap();
        assert_eq!(CursorFile::new(&path).read().unwrap(), 42);
        fs::write(&path, b"\xff\x00").unwrap();
        assert!(cursor.read().is_err() || cursor.read().unwrap() == 0);
        fs::write(&path, b"4x").unwrap();
        assert_eq!(cursor.read().unwrap(), 0);
    }
}
