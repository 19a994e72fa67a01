//! What is kept over restarts: how far each log was read, and the templates.
//!
//! Two JSON files, each `{"version": 1, …}`, written beside and renamed. One that is damaged or of another version
//! is the same as none: logs are taken up at their end then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::journal::JournalPositions;
use super::tail::FilePosition;
use super::template::Template;

const VERSION: u32 = 1;
/// Longer files are not ours.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How far everything was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Positions {
    pub(crate) version: u32,
    pub(crate) journal: JournalPositions,
    pub(crate) files: BTreeMap<PathBuf, FilePosition>,
    /// Files that were looked for, present or not: one that came later is read from its beginning.
    pub(crate) watched: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeptTemplates {
    version: u32,
    templates: Vec<Template>,
}

/// The folder of both files.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    folder: PathBuf,
    written: Option<Positions>,
}

impl Keep {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            written: None,
        }
    }

    pub(crate) fn positions(&self) -> Positions {
        let kept: Option<Positions> = read(&self.folder.join("positions.json"));
        kept.filter(|kept| kept.version == VERSION).unwrap_or_default()
    }

    pub(crate) fn templates(&self) -> Vec<Template> {
        let kept: Option<KeptTemplates> = read(&self.folder.join("templates.json"));
        kept.filter(|kept| kept.version == VERSION)
            .map_or_else(Vec::new, |kept| kept.templates)
    }

    /// Writes them, unless that is what was written last.
    pub(crate) fn write_positions(&mut self, positions: &Positions) -> io::Result<()> {
        let positions = Positions {
            version: VERSION,
            ..positions.clone()
        };
        if self.written.as_ref() == Some(&positions) {
            return Ok(());
        }
        self.write("positions.json", &positions)?;
        self.written = Some(positions);
        Ok(())
    }

    pub(crate) fn write_templates(&self, templates: Vec<Template>) -> io::Result<()> {
        self.write(
            "templates.json",
            &KeptTemplates {
                version: VERSION,
                templates,
            },
        )
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(name);
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_data()?;
        fs::rename(&fresh, &path)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "what was kept of logs cannot be read");
            return None;
        }
        Ok(_) => {}
    }
    serde_json::from_slice(&bytes)
        .inspect_err(
            |error| tracing::warn!(%error, path = %path.display(), "what was kept of logs is damaged"),
        )
        .ok()
}
