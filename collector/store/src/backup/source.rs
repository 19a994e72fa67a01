//! Source: what a collector's data consists of, and a consistent look at it while it is being written.
//!
//! Segments are opened first, then the catalogue is read in one transaction. A row that was acknowledged before stands
//! in one of the segments, or was compacted by then and stands in a Parquet file of the catalogue. A segment
//! that the catalogue calls compacted is left out. It is deleted or moved, and then forgotten by the catalogue, only after
//! that: when every other segment still has its name after the catalogue was read, none of them was compacted before, and
//! no row is there twice. Otherwise the look is repeated.
//!
//! Segments that are compacted but were kept (`kept.rs`) are listed last of all: whatever was compacted when the
//! catalogue was read, and had been there before, is still open or is found there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;
use tokio::runtime::Handle;

use super::error::{BackupError, io_error};
use super::kept::Kept;
use super::manifest::DATABASE_BYTES_MAX;
use crate::catalogue::{FileRow, image, snapshot};
use crate::config::StoreConfig;
use crate::segment;

/// What is backed up.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Folder of the store.
    pub store: PathBuf,
    /// Other SQLite databases, each with its name in the backup.
    pub databases: Vec<(String, PathBuf)>,
    /// Other files, each with its path in the backup.
    pub files: Vec<(String, PathBuf)>,
}

/// A segment that is open, so that deleting it does not disturb.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// The store at one moment.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) moment: TimeMicros,
    pub(super) epoch: String,
    pub(super) files: Vec<FileRow>,
    pub(super) segments: Vec<OpenSegment>,
    /// Those that are compacted.
    pub(super) kept: Vec<OpenSegment>,
    /// The newest that is compacted, and with it all before it.
    pub(super) compacted_to: u64,
    pub(super) catalogue: Vec<u8>,
}

/// Where everything lies in a store's folder.
pub(super) fn layout(store: &Path) -> StoreConfig {
    StoreConfig {
        folder: store.to_owned(),
        ..StoreConfig::default()
    }
}

/// Looks at the store; `None` when it changed meanwhile.
pub(super) fn look(store: &Path, kept: &Kept, runtime: &Handle) -> Result<Option<Look>, BackupError> {
    let layout = layout(store);
    let moment = TimeMicros::now();
    let Some(segments) = open_segments(&layout.segments_folder())? else {
        return Ok(None);
    };
    let read = runtime.block_on(snapshot(&layout.catalogue_file(), DATABASE_BYTES_MAX));
    let catalogue = read.map_err(|source| BackupError::Catalogue {
        path: store.to_owned(),
        source,
    })?;
    let (compacted, segments): (Vec<_>, Vec<_>) = segments
        .into_iter()
        .partition(|segment| catalogue.compacted.contains(&segment.number));
    for segment in &segments {
        if !has_its_name(segment)? {
            return Ok(None);
        }
    }
    Ok(Some(Look {
        moment,
        epoch: hex::encode(catalogue.epoch),
        files: catalogue.files,
        kept: kept_beside(&segments, compacted, kept)?,
        segments,
        compacted_to: catalogue.compacted.into_iter().max().unwrap_or(0),
        catalogue: catalogue.image,
    }))
}

fn has_its_name(segment: &OpenSegment) -> Result<bool, BackupError> {
    let failed = || io_error("inspect", &segment.path);
    let open = segment.file.metadata().map_err(failed())?;
    match fs::metadata(&segment.path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed()(error)),
    }
}

/// The compacted segments that are open, and those that are kept. One that goes meanwhile was given up, which
/// [`Kept::is_whole_since`] then says.
fn kept_beside(
    segments: &[OpenSegment],
    compacted: Vec<OpenSegment>,
    kept: &Kept,
) -> Result<Vec<OpenSegment>, BackupError> {
    let mut found: BTreeMap<u64, OpenSegment> = BTreeMap::new();
    let listed = kept
        .segments()
        .map_err(io_error("list the segments kept for", &kept.folder))?;
    for (number, path) in listed {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        found.insert(number, OpenSegment { number, path, file });
    }
    found.extend(compacted.into_iter().map(|segment| (segment.number, segment)));
    // Compacted and moved since the catalogue was read.
    segments.iter().for_each(|segment| {
        found.remove(&segment.number);
    });
    Ok(found.into_values().collect())
}

/// Opens every segment; `None` when one went meanwhile.
fn open_segments(folder: &Path) -> Result<Option<Vec<OpenSegment>>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let path = entry.map_err(io_error("list", folder))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(segment::number_of);
        let Some(number) = number else { continue };
        match File::open(&path) {
            Ok(file) => found.push(OpenSegment { number, path, file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        }
    }
    found.sort_by_key(|segment| segment.number);
    Ok(Some(found))
}

/// The bytes of another database at one moment.
pub(super) fn database(path: &Path, runtime: &Handle) -> Result<Vec<u8>, BackupError> {
    runtime
        .block_on(image(path, DATABASE_BYTES_MAX))
        .map_err(|source| BackupError::Database {
            path: path.to_owned(),
            source,
        })
}
