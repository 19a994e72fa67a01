//! What lies in the folders, read only.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fleetmend_event::{Lane, SpoolEpoch};

use super::InspectError;
use crate::layout::{self, Entry};

/// More of a file than any segment has is not looked at.
const SEGMENT_BYTES_MAX: u64 = 65 * 1024 * 1024;
/// Foreign names that are kept.
const FOREIGN_MAX: usize = 20;
/// Names of a folder that is no spool that are said.
const NAMES_SAID: usize = 4;
/// What belongs into the folder of a spool beside the epochs.
const OWN_NAMES: [&str; 9] = [
    "lock",
    "clean",
    "clean.new",
    "staging",
    "staging.new",
    "sent",
    "sent.new",
    "corrupt",
    "reserve",
];

/// The folder of a spool.
pub(super) struct SpoolFolder {
    pub(super) epochs: Vec<EpochFolder>,
    /// Files and bytes in `corrupt`.
    pub(super) set_aside: (u64, u64),
    pub(super) foreign: Vec<String>,
}

/// The folder of an epoch.
pub(super) struct EpochFolder {
    pub(super) ordinal: u32,
    pub(super) epoch: SpoolEpoch,
    path: PathBuf,
}

/// What lies in the folder of an epoch.
pub(super) struct Entries {
    entries: Vec<Entry>,
    pub(super) foreign: Vec<String>,
}

impl SpoolFolder {
    pub(super) fn list(folder: &Path) -> Result<Self, InspectError> {
        let failed = || InspectError::of("list", folder);
        let (mut epochs, mut foreign, mut own) = (Vec::new(), Vec::new(), false);
        for entry in fs::read_dir(folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match layout::parse_epoch(&name) {
                Some((ordinal, epoch)) if is_folder => epochs.push(EpochFolder {
                    ordinal,
                    epoch,
                    path: entry.path(),
                }),
                _ if OWN_NAMES.contains(&name.as_str()) => own = true,
                _ => foreign.push(name),
            }
        }
        foreign.sort_unstable();
        if epochs.is_empty() && !own {
            return Err(InspectError::NotASpool {
                folder: folder.to_owned(),
                holds: said(&foreign),
            });
        }
        foreign.truncate(FOREIGN_MAX);
        epochs.sort_unstable_by_key(|epoch| (epoch.ordinal, epoch.epoch));
        Ok(Self {
            epochs,
            set_aside: set_aside(&folder.join("corrupt")),
            foreign,
        })
    }
}

fn said(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(NAMES_SAID)
        .map(|name| format!("{name:?}"))
        .collect();
    match names.len().saturating_sub(shown.len()) {
        0 if shown.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn set_aside(folder: &Path) -> (u64, u64) {
    let lengths = fs::read_dir(folder).into_iter().flatten().flatten();
    lengths
        .filter_map(|file| file.metadata().ok())
        .fold((0, 0), |(files, bytes), file| {
            (files + 1, file.len().saturating_add(bytes))
        })
}

impl EpochFolder {
    pub(super) fn segment(&self, lane: Lane, first: u64) -> PathBuf {
        self.path.join(layout::segment_name(lane, first))
    }

    /// Its files. An epoch that is gone since is an empty one: the collector had all of it.
    pub(super) fn entries(&self) -> Result<Entries, InspectError> {
        let failed = || InspectError::of("list", &self.path);
        let (mut entries, mut foreign) = (Vec::new(), Vec::new());
        let files = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries { entries, foreign }),
            other => other.map_err(failed())?,
        };
        for file in files {
            let file = file.map_err(failed())?;
            let name = file.file_name().to_string_lossy().into_owned();
            // A pipe or a device of that name would be waited for; a link may lead anywhere.
            let is_file = file.file_type().is_ok_and(|kind| kind.is_file());
            match layout::parse_entry(&name) {
                Some(entry) if is_file => entries.push(entry),
                // A repair that was interrupted.
                None if is_file && name.ends_with(".new") => {}
                // Where the epoch ended, and aggregates that are about to be put into their lane.
                None if is_file
                    && (layout::parse_end(&name).is_some() || layout::ThinName::parse(&name).is_some()) => {}
                _ if foreign.len() < FOREIGN_MAX => foreign.push(name),
                _ => {}
            }
        }
        foreign.sort_unstable();
        Ok(Entries { entries, foreign })
    }
}

impl Entries {
    /// Those of a lane in the order in which an agent takes them: tombstones win over a segment that was not yet
    /// removed.
    pub(super) fn of(&self, wanted: Lane) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self
            .entries
            .iter()
            .copied()
            .filter(|entry| matches!(entry, Entry::Segment { lane, .. } | Entry::Shed { lane, .. } if *lane == wanted))
            .collect();
        entries.sort_unstable_by_key(|entry| match *entry {
            Entry::Shed { first, next, .. } => (first, 0, u64::MAX - next),
            Entry::Segment { first, .. } => (first, 1, 0),
        });
        entries
    }
}

/// The bytes of a segment and whether it is longer than any; `None` when it is gone.
pub(super) fn read_segment(path: &Path) -> io::Result<Option<(Bytes, bool)>> {
    let read = read_bounded(path, SEGMENT_BYTES_MAX.saturating_add(1))?;
    Ok(read.map(|mut bytes| {
        let most = usize::try_from(SEGMENT_BYTES_MAX).unwrap_or(usize::MAX);
        let cut = bytes.len() > most;
        bytes.truncate(most);
        (bytes.into(), cut)
    }))
}

/// The first bytes of a file; `None` when there is none.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let length = file.metadata()?.len().min(bytes_max);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
