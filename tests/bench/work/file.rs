//! Files that a worker opens: a few of its own, so that what is measured is the open.

use std::fs::File;

use anyhow::{Context, Result};
use tempfile::TempDir;

const FILES: u32 = 64;
/// One of so many opens is for writing.
const WRITES_ONE_IN: u32 = 16;

/// The files and their folder, which goes with them.
#[derive(Debug)]
pub(super) struct Files {
    folder: TempDir,
    names: Vec<std::path::PathBuf>,
}

impl Files {
    /// A folder; the files are made when the first is opened.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir().context("make a folder for files")?,
            names: Vec::new(),
        })
    }

    /// Opens and closes the next file after so many opens.
    pub(super) fn open(&mut self, after: u32) -> Result<()> {
        if self.names.is_empty() {
            for number in 0..FILES {
                let name = self.folder.path().join(format!("file-{number:02}"));
                std::fs::write(&name, [b'x'; 100]).context("write a file to open")?;
                self.names.push(name);
            }
        }
        let index = usize::try_from(after % FILES).unwrap_or(0);
        let name = self.names.get(index).context("choose a file")?;
        let file = if after.is_multiple_of(WRITES_ONE_IN) {
            File::options().write(true).open(name)
        } else {
            File::open(name)
        };
        file.map(drop).context("open a file")
    }

    /// Makes, opens and removes a path that was never there before.
    pub(super) fn distinct(&mut self, number: u32) -> Result<()> {
        let name = self.folder.path().join(format!("distinct-{number:08}"));
        File::create(&name).context("make a distinct path")?;
        File::open(&name).context("open a distinct path")?;
        std::fs::remove_file(&name).context("remove a distinct path")
    }
}
