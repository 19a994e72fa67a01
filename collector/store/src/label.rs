//! Label: what a Parquet file says of itself, so that a lost catalogue can be made anew from the files (`rebuild.rs`).
//! This text is its specification.
//!
//! A label stands under the key [`LABEL_KEY`] of a file's key-value metadata: CRC32C of a JSON object, 8 digits in hex, a
//! space, and the object. Files without one are of before labels were written. Keys that a reader does not know it
//! leaves alone; what changes the meaning of those it knows is another `version`.
//!
//! | key | what |
//! |---|---|
//! | `version` | 1 |
//! | `store` | the store whose file it is, 16 bytes in hex |
//! | `table`, `day` | name; days since 1970 |
//! | `kind` | `compacted` from segments, `merged` from other files, or `tier` |
//! | `made_at` | microseconds since 1970 |
//! | `step` | highest number of a segment whose rows came into it, by compaction or by merging; 0 when unknown |
//! | `segments` | of `compacted`: the numbers of all segments of its step, whose files are registered together |
//! | `covers` | of `merged`: the files whose rows it holds, and those that these held; 16 bytes each, zstd, hex |
//! | `marks` | highest record of every stream of its step, or of what was merged; below, zstd, hex |
//! | `rows`, `chunks`, `from`, `to`, `ingested_to`, `true_from`, `true_to` | as in the catalogue |
//! | `body_bytes`, `body_digest` | how many bytes stand before the footer and the indexes, and their SHA-256 in hex |
//!
//! A mark has 41 bytes: host (16), epoch (16), lane (1), number (8, little-endian). A file is named by the UUID at the
//! end of its file name.
//!
//! # Size
//! Marks are what makes a label long: of 1,000 hosts in three lanes some 80 kB in hex, once in every file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use fleetmend_event::{HostId, Lane, Mark, Sequence, SpoolEpoch, TimeMicros};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::catalogue::FileRow;
use crate::chunk::Extent;

/// Key of the file's metadata.
pub(crate) const LABEL_KEY: &str = "fleetmend.label";
const VERSION: u32 = 1;
const ZSTD_LEVEL: i32 = 3;
const MARK_BYTES: usize = 41;
/// Decompressed bytes of a list; more is no list of ours.
const LIST_BYTES_MAX: usize = 64 << 20;
/// Files that a label names. A file that becomes so large that it is not merged any more holds a few hundred; beyond
/// this only those that were merged last are named, and files that were deleted long ago are not.
const COVERS_MAX: usize = 64 * 1024;

/// Which store a file is of: stays when it is restored, and when its catalogue is made anew.
pub(crate) type StoreId = [u8; 16];

/// Names a file, wherever it lies.
pub(crate) type FileId = [u8; 16];

/// Highest number of every stream.
type Numbers = BTreeMap<(HostId, SpoolEpoch, Lane), u64>;

/// A label that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LabelError {
    /// Another version.
    #[error("label of version {version}, which this build does not read; a newer one does")]
    Newer {
        /// The version.
        version: u32,
    },
    /// No label.
    #[error("label is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the rows of a file come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Segments.
    Compacted,
    /// Other files.
    Merged,
    /// Samples that are summed up.
    Tier,
}

/// What is known of a file before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    store: StoreId,
    kind: Kind,
    step: u64,
    segments: Vec<u64>,
    covers: BTreeSet<FileId>,
    marks: Numbers,
}

impl Origins {
    /// Files of one step of compaction.
    pub(crate) fn compacted(
        store: StoreId,
        segments: impl IntoIterator<Item = u64>,
        marks: impl IntoIterator<Item = (HostId, Mark)>,
    ) -> Self {
        let mut segments: Vec<u64> = segments.into_iter().collect();
        segments.sort_unstable();
        let mut origins = Self {
            step: segments.last().copied().unwrap_or(0),
            segments,
            ..Self::tier(store)
        };
        origins.kind = Kind::Compacted;
        origins.raise(marks);
        origins
    }

    /// A file that holds the rows of others; of those without a whole label no marks are known.
    pub(crate) fn merged<'a>(
        store: StoreId,
        inputs: impl IntoIterator<Item = (&'a Path, Option<Label>)>,
    ) -> Self {
        let mut origins = Self {
            kind: Kind::Merged,
            ..Self::tier(store)
        };
        let mut former = BTreeSet::new();
        for (path, label) in inputs {
            origins.covers.insert(file_id(path));
            if let Some(label) = label {
                origins.step = origins.step.max(label.step);
                former.extend(label.covers().unwrap_or_default());
                origins.raise(label.marks().unwrap_or_default());
            }
        }
        let room = COVERS_MAX.saturating_sub(origins.covers.len());
        // Names rise with time: the latest are kept.
        origins.covers.extend(former.into_iter().rev().take(room));
        origins
    }

    /// A file of a tier of metrics.
    pub(crate) fn tier(store: StoreId) -> Self {
        Self {
            store,
            kind: Kind::Tier,
            step: 0,
            segments: Vec::new(),
            covers: BTreeSet::new(),
            marks: Numbers::new(),
        }
    }

    fn raise(&mut self, marks: impl IntoIterator<Item = (HostId, Mark)>) {
        for (host, mark) in marks {
            let held = self.marks.entry((host, mark.epoch, mark.lane)).or_default();
            *held = mark.sequence.0.max(*held);
        }
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    version: u32,
    pub(crate) store: String,
    pub(crate) table: String,
    pub(crate) day: i64,
    pub(crate) kind: Kind,
    pub(crate) made_at: i64,
    pub(crate) step: u64,
    #[serde(default)]
    pub(crate) segments: Vec<u64>,
    #[serde(default)]
    covers: String,
    #[serde(default)]
    marks: String,
    pub(crate) rows: u64,
    #[serde(default)]
    pub(crate) chunks: Option<u64>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) ingested_to: i64,
    pub(crate) true_from: i64,
    pub(crate) true_to: i64,
    pub(crate) body_bytes: u64,
    pub(crate) body_digest: String,
}

impl Label {
    /// The label of a file of which everything but the footer is written.
    pub(crate) fn new(
        origins: &Origins,
        (table, day): (&str, i64),
        extent: &Extent,
        (body_bytes, body_digest): (u64, String),
    ) -> std::io::Result<Self> {
        let covers: Vec<u8> = origins.covers.iter().flatten().copied().collect();
        let mut marks = Vec::with_capacity(origins.marks.len().saturating_mul(MARK_BYTES));
        for ((host, epoch, lane), number) in &origins.marks {
            marks.extend_from_slice(host.as_bytes());
            marks.extend_from_slice(epoch.as_bytes());
            marks.push(lane.code());
            marks.extend_from_slice(&number.to_le_bytes());
        }
        Ok(Self {
            version: VERSION,
            store: hex::encode(origins.store),
            table: table.to_owned(),
            day,
            kind: origins.kind,
            made_at: TimeMicros::now().0,
            step: origins.step,
            segments: origins.segments.clone(),
            covers: packed(&covers)?,
            marks: packed(&marks)?,
            rows: extent.rows,
            chunks: extent.chunks,
            from: extent.from,
            to: extent.to,
            ingested_to: extent.ingested_to,
            true_from: extent.true_from.0,
            true_to: extent.true_to.0,
            body_bytes,
            body_digest,
        })
    }

    /// As it stands in a file.
    pub(crate) fn to_pair(&self) -> std::io::Result<KeyValue> {
        let text = serde_json::to_string(self).map_err(std::io::Error::other)?;
        let text = format!("{:08x} {text}", crc32c::crc32c(text.as_bytes()));
        Ok(KeyValue::new(LABEL_KEY.to_owned(), text))
    }

    /// The label of a file; none in files of before.
    pub(crate) fn of(file: &ParquetMetaData) -> Result<Option<Self>, LabelError> {
        let pairs = file.file_metadata().key_value_metadata();
        let pair = pairs.into_iter().flatten().find(|pair| pair.key == LABEL_KEY);
        let text = pair.map(|pair| pair.value.as_deref().unwrap_or_default());
        text.map(Self::parse).transpose()
    }

    fn parse(text: &str) -> Result<Self, LabelError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let (sum, text) = text
            .split_once(' ')
            .ok_or_else(|| damaged("it has no checksum"))?;
        if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(text.as_bytes())) {
            return Err(damaged("another checksum"));
        }
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            return Err(LabelError::Newer { version });
        }
        serde_json::from_str(text).map_err(damaged)
    }

    /// The files whose rows it holds, and those that these held.
    pub(crate) fn covers(&self) -> Result<Vec<FileId>, LabelError> {
        let bytes = unpacked(&self.covers)?;
        let (ids, rest) = bytes.as_chunks::<16>();
        if rest.is_empty() {
            Ok(ids.to_vec())
        } else {
            Err(damaged("files are named by half"))
        }
    }

    /// Highest number of every stream.
    pub(crate) fn marks(&self) -> Result<Vec<(HostId, Mark)>, LabelError> {
        let bytes = unpacked(&self.marks)?;
        let (marks, rest) = bytes.as_chunks::<MARK_BYTES>();
        if !rest.is_empty() {
            return Err(damaged("a mark ends early"));
        }
        marks.iter().map(mark).collect()
    }

    /// Lets go of what is long and asked for once.
    pub(crate) fn without_marks(mut self) -> Self {
        self.marks = String::new();
        self
    }

    /// What the catalogue is told of the file.
    pub(crate) fn row(&self, path: String, bytes: u64, digest: String) -> FileRow {
        FileRow {
            id: 0,
            path,
            table: self.table.clone(),
            day: self.day,
            from: TimeMicros(self.from),
            to: TimeMicros(self.to),
            ingested_to: TimeMicros(self.ingested_to),
            true_from: Some(TimeMicros(self.true_from)),
            true_to: Some(TimeMicros(self.true_to)),
            rows: self.rows,
            chunks: self.chunks,
            bytes,
            digest,
        }
    }
}

/// The name of the file at `path` in labels.
pub(crate) fn file_id(path: &Path) -> FileId {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let uuid = stem.rsplit('-').next().unwrap_or_default();
    let mut id = FileId::default();
    if hex::decode_to_slice(uuid, &mut id).is_err() {
        // No file of ours is named so; whatever it is, it is told from others.
        for (byte, of_hash) in id.iter_mut().zip(Sha256::digest(stem.as_bytes())) {
            *byte = of_hash;
        }
    }
    id
}

fn mark(bytes: &[u8; MARK_BYTES]) -> Result<(HostId, Mark), LabelError> {
    let parts = || {
        let (host, rest) = bytes.split_first_chunk::<16>()?;
        let (epoch, rest) = rest.split_first_chunk::<16>()?;
        let (lane, rest) = rest.split_first()?;
        let number = u64::from_le_bytes(rest.try_into().ok()?);
        let mark = Mark {
            epoch: SpoolEpoch::from_bytes(*epoch),
            lane: Lane::from_code(*lane)?,
            sequence: Sequence(number),
        };
        Some((HostId::from_bytes(*host), mark))
    };
    parts().ok_or_else(|| damaged("a mark of a lane that is none"))
}

fn packed(bytes: &[u8]) -> std::io::Result<String> {
    if bytes.is_empty() {
        return Ok(String::new());
    }
    Ok(hex::encode(zstd::bulk::compress(bytes, ZSTD_LEVEL)?))
}

fn unpacked(text: &str) -> Result<Vec<u8>, LabelError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let packed = hex::decode(text).map_err(damaged)?;
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed.as_slice()).map_err(damaged)?;
    let most = LIST_BYTES_MAX as u64;
    decoder
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    if bytes.len() > LIST_BYTES_MAX {
        return Err(damaged("a list is longer than any of ours"));
    }
    Ok(bytes)
}

fn damaged(reason: impl ToString) -> LabelError {
    LabelError::Damaged {
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const STORE: StoreId = [7; 16];

    fn marks() -> Vec<(HostId, Mark)> {
        let mark = |lane: Lane, number: u64| Mark {
            epoch: SpoolEpoch::from_bytes([2; 16]),
            lane,
            sequence: Sequence(number),
        };
        let host = HostId::from_bytes([1; 16]);
        vec![
            (host, mark(Lane::Events, 9)),
            (host, mark(Lane::Metrics, u64::MAX)),
        ]
    }

    fn label(origins: &Origins) -> Label {
        let extent = Extent {
            rows: 5,
            from: 1,
            to: 2,
            ..Extent::default()
        };
        Label::new(origins, ("units", 3), &extent, (10, "ab".to_owned())).unwrap()
    }

    fn again(label: &Label) -> Label {
        Label::parse(label.to_pair().unwrap().value.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn label_comes_back_as_it_was_written() {
        let written = label(&Origins::compacted(STORE, [4, 2], marks()));
        let read = again(&written);
        assert_eq!(read, written);
        assert_eq!((read.step, &read.segments[..]), (4, &[2, 4][..]));
        assert_eq!((read.marks().unwrap(), read.covers().unwrap()), (marks(), vec![]));
    }

    #[test]
    fn merged_file_covers_what_its_inputs_covered_and_has_the_highest_marks() {
        let path = |n: u8| PathBuf::from(format!("units/2026-01-01-{}.parquet", hex::encode([n; 16])));
        let (one, two, three) = (path(1), path(2), path(3));
        let mut lower = marks();
        lower[0].1.sequence = Sequence(3);
        let inputs = [
            (&*one, Some(label(&Origins::compacted(STORE, [1], lower)))),
            (&*two, Some(label(&Origins::compacted(STORE, [2], marks())))),
        ];
        let first = label(&Origins::merged(STORE, inputs));
        let second = Origins::merged(STORE, [(&*three, Some(first)), (Path::new("old.parquet"), None)]);
        let second = again(&label(&second));
        let covers = second.covers().unwrap();
        assert!([[1; 16], [2; 16], [3; 16]].iter().all(|id| covers.contains(id)));
        assert!(covers.contains(&file_id(Path::new("parquet/units/old.parquet"))) && covers.len() == 4);
        assert_eq!((second.marks().unwrap(), second.step), (marks(), 2));
    }

    #[test]
    fn label_of_another_version_or_with_a_flipped_bit_is_refused() {
        let text = label(&Origins::tier(STORE)).to_pair().unwrap().value.unwrap();
        for at in 0..text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            let flipped = String::from_utf8(flipped).unwrap();
            let error = Label::parse(&flipped);
            assert!(matches!(error, Err(LabelError::Damaged { .. })), "{flipped}");
        }
        let newer = text
            .split_once(' ')
            .unwrap()
            .1
            .replace("\"version\":1", "\"version\":2");
        let newer = format!("{:08x} {newer}", crc32c::crc32c(newer.as_bytes()));
        assert_eq!(Label::parse(&newer), Err(LabelError::Newer { version: 2 }));
    }

    #[test]
    fn damaged_lists_are_errors_and_take_no_memory() {
        let mut damaged = label(&Origins::compacted(STORE, [1], marks()));
        damaged.marks = packed(&[0; MARK_BYTES + 1]).unwrap();
        assert!(damaged.marks().is_err());
        damaged.marks = packed(&[0xff; MARK_BYTES]).unwrap();
        assert!(damaged.marks().is_err(), "of a lane that is none");
        damaged.marks = "zz".to_owned();
        assert!(damaged.marks().is_err());
        damaged.covers = packed(&[0; 15]).unwrap();
        assert!(damaged.covers().is_err());
        damaged.covers = packed(&vec![0; LIST_BYTES_MAX + 1]).unwrap();
        assert!(damaged.covers().is_err());
    }
}
