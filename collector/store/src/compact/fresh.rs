//! Files that are written and not registered yet.

use std::path::PathBuf;

use crate::catalogue::FileRow;

/// They go with it, unless somebody takes them to be registered.
#[derive(Debug)]
pub(super) struct Fresh {
    folder: PathBuf,
    rows: Vec<FileRow>,
}

impl Fresh {
    /// None yet, in the folder of Parquet files.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            rows: Vec::new(),
        }
    }

    /// Adds a file that is durable under its name.
    pub(super) fn extend(&mut self, row: Option<FileRow>) {
        self.rows.extend(row);
    }

    /// What the catalogue is to be told.
    pub(super) fn rows(&self) -> &[FileRow] {
        &self.rows
    }

    /// The same; from now on they stay.
    pub(super) fn into_rows(mut self) -> Vec<FileRow> {
        std::mem::take(&mut self.rows)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for row in &self.rows {
            let path = self.folder.join(&row.path);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete a file of a step that failed; the next start does");
            }
        }
    }
}
