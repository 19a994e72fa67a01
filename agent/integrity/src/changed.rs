//! Files that differ from the baseline: each with what it is now and the finding that says so, over restarts too.
//!
//! `open.json`, `{"version": 1, "changed": [..]}`, written beside and renamed. One that is damaged or of another
//! version counts as none: the next scan finds what differs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{Finding, FindingState, Severity};
use serde::{Deserialize, Serialize};

use crate::state::FileState;

/// Most files that are followed one by one.
pub(crate) const CHANGED_MAX: usize = 1_024;
const VERSION: u32 = 1;
/// So many findings with long evidence; more is not ours.
const BYTES_MAX: u64 = 64 << 20;

/// A file that differs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// What it is now; none when it is gone.
    pub(crate) now: Option<FileState>,
    /// The last row of its finding.
    pub(crate) finding: Finding,
}

/// See the module.
#[derive(Default)]
pub(crate) struct ChangedFiles {
    files: BTreeMap<PathBuf, Changed>,
    /// Whether it has to be written.
    pub(crate) unsaved: bool,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    changed: Vec<(PathBuf, Changed)>,
}

impl ChangedFiles {
    /// The file in a folder.
    pub(crate) fn file(folder: &Path) -> PathBuf {
        folder.join("open.json")
    }

    /// What an earlier run left.
    pub(crate) fn load(folder: &Path) -> Self {
        let mut bytes = Vec::new();
        let path = Self::file(folder);
        let read = std::fs::File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
        if let Err(error) = &read
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "changed files of the last run cannot be read");
        }
        if !matches!(read, Ok(count) if count > 0) {
            return Self::default();
        }
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.version == VERSION => Self {
                files: kept.changed.into_iter().take(CHANGED_MAX).collect(),
                unsaved: false,
            },
            Ok(kept) => {
                tracing::warn!(
                    version = kept.version,
                    "changed files of another version are left alone"
                );
                Self::default()
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "changed files of the last run are damaged");
                Self::default()
            }
        }
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let changed = self
            .files
            .iter()
            .map(|(path, changed)| (path.clone(), changed.clone()));
        let kept = Kept {
            version: VERSION,
            changed: changed.collect(),
        };
        serde_json::to_vec(&kept).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Changed> {
        self.files.get(path)
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.files.keys().cloned().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PathBuf, &Changed)> {
        self.files.iter()
    }

    /// Whether a file has no room among those that are followed.
    pub(crate) fn is_full_for(&self, path: &Path) -> bool {
        self.files.len() >= CHANGED_MAX && !self.files.contains_key(path)
    }

    /// The least grave of them, when it is less grave than this.
    pub(crate) fn less_grave_than(&self, severity: Severity) -> Option<PathBuf> {
        let least = self
            .files
            .iter()
            .min_by_key(|(_, changed)| changed.finding.severity);
        let (path, changed) = least?;
        (changed.finding.severity < severity).then(|| path.clone())
    }

    /// `false` when there is no room for another.
    pub(crate) fn put(&mut self, path: &Path, changed: Changed) -> bool {
        if self.is_full_for(path) {
            return false;
        }
        self.files.insert(path.to_owned(), changed);
        self.unsaved = true;
        true
    }

    /// The file is as it should be: its finding, resolved.
    pub(crate) fn resolve(&mut self, path: &Path, time: TimeMicros) -> Option<Finding> {
        let changed = self.files.remove(path)?;
        self.unsaved = true;
        Some(Finding {
            time,
            state: FindingState::Resolved,
            ..changed.finding
        })
    }
}
