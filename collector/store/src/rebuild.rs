//! Rebuild: a lost catalogue is made anew from what the Parquet files say of themselves (`label.rs`).
//!
//! # Which files are live
//! - A file of another store is not.
//! - One whose body is not what its label says is damaged: its rows are a gap, as far as no other file holds them.
//! - One that a whole merged file *covers* is replaced by it, also when the merge was not registered any more: both hold
//!   the same rows.
//! - Of the tiers of a day the one made last is live.
//! - Files of one step of compaction are registered together, and only then their segments are deleted. While every segment
//!   of the last step is there, its files are not taken: they may not be all of them, and the segments hold every row. That
//!   it was registered a merged file tells, which holds rows of it. Of earlier steps no file is left that was not registered:
//!   a step that fails deletes what it wrote before another begins (`compact/fresh.rs`).
//! - All others are. What a segment holds besides is left out by their marks, as at every start.
//!
//! # What is not known any more
//! Files without a label are set aside with a gap of at least as many rows as their footer says; whether files are
//! missing nobody can tell, so that one gap of at least 0 rows spans everything. Marks of streams that none of the live
//! files holds are gone: such a stream may begin anywhere, as one that is new. Every day whose samples may not be in
//! its tiers is dirty. Files that are not live are moved aside, never deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fleetmend_event::table::{Exactness, Gap, GapStage, MetricChunk};
use fleetmend_event::{HostId, Lane, Mark, Sequence, SpoolEpoch, Table as _, TimeMicros};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use sha2::{Digest as _, Sha256};

use crate::catalogue::FileRow;
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::label::{FileId, Kind, Label, StoreId, file_id};
use crate::recover::{io_error, list, list_segments};
use crate::shape::{sql_tables, table_index_by_name};
use crate::tier::{TIERS, days};

const DAY_MICROS: i64 = 24 * 3600 * 1_000_000;
const READ_BYTES: usize = 256 << 10;

/// What a catalogue is made anew from.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Which store it is, as far as files say.
    pub(crate) store: Option<StoreId>,
    /// Live files.
    pub(crate) rows: Vec<FileRow>,
    /// Highest record of every stream in them.
    pub(crate) marks: Vec<(HostId, Mark, TimeMicros)>,
    /// Highest number of a segment that was compacted.
    pub(crate) segment_max: u64,
    /// Days whose tiers are to be made anew.
    pub(crate) dirty: BTreeSet<i64>,
    /// Losses.
    pub(crate) gaps: Vec<Gap>,
    /// Files that are not live.
    pub(crate) aside: Vec<PathBuf>,
    /// Files that do not say enough of themselves; they are among those set aside.
    pub(crate) unknown: Vec<Unknown>,
}

impl Plan {
    /// Whether there is no file at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.aside.is_empty()
    }
}

/// A file that does not say enough of itself.
#[derive(Debug)]
pub(crate) struct Unknown {
    path: PathBuf,
    reason: String,
    /// Rows by its footer.
    rows: u64,
}

impl fmt::Display for Unknown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.reason)
    }
}

/// A file with a label.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    id: FileId,
    bytes: u64,
    digest: String,
    label: Label,
    covers: Vec<FileId>,
    is_whole: bool,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Live,
    Foreign,
    Replaced,
    Unfinished,
    Damaged,
}

/// Reads every file, and decides. Changes nothing; blocks for as long as reading everything takes.
pub(crate) fn plan(config: &StoreConfig, store: Option<StoreId>) -> Result<Plan, OpenError> {
    let (mut found, mut plan) = (Vec::new(), Plan::default());
    for path in parquet_files(config)? {
        match look(&path)? {
            Ok(file) => found.push(file),
            Err(unknown) => plan.unknown.push(unknown),
        }
    }
    plan.store = store.or_else(|| most_named(&found));
    let segments = list_segments(&config.segments_folder())?;
    let segments: HashSet<u64> = segments.into_iter().map(|(number, _)| number).collect();
    let fates = fates(&found, plan.store, &segments);
    // Segments of an unfinished step are there.
    let done = found
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| !matches!(fate, Fate::Foreign | Fate::Unfinished));
    plan.segment_max = done.map(|(file, _)| file.label.step).max().unwrap_or(0);
    let live: Vec<&Found> = with(&found, &fates, Fate::Live);
    plan.dirty = dirty_days(&live);
    plan.marks = marks(&live)?;
    plan.gaps = gaps(&plan.unknown, &found, &fates);
    let set_aside = found.iter().zip(&fates).filter(|(_, fate)| **fate != Fate::Live);
    for (file, fate) in set_aside {
        tracing::error!(path = %file.path.display(), ?fate, "a Parquet file is not taken over and moved aside");
        plan.aside.push(file.path.clone());
    }
    for unknown in &plan.unknown {
        tracing::error!(%unknown, "a Parquet file cannot be taken over and is moved aside");
        plan.aside.push(unknown.path.clone());
    }
    for file in live {
        let row = file
            .label
            .row(relative(&file.path), file.bytes, file.digest.clone());
        plan.rows.push(row);
    }
    Ok(plan)
}

/// A file that the catalogue does not know though it is live: made of segments that the catalogue never heard of, and
/// that are gone. Every other one that it does not know is left over.
pub(crate) fn newer_file(
    config: &StoreConfig,
    store: StoreId,
    segment_max: u64,
    known: &[FileRow],
) -> Result<Option<PathBuf>, OpenError> {
    let known: HashSet<&str> = known.iter().map(|file| file.path.as_str()).collect();
    let mut files = parquet_files(config)?;
    files.retain(|path| !known.contains(relative(path).as_str()));
    if files.is_empty() {
        return Ok(None);
    }
    let segments = list_segments(&config.segments_folder())?;
    let segments: HashSet<u64> = segments.into_iter().map(|(number, _)| number).collect();
    let is_newer = |path: &PathBuf| {
        let file = File::open(path).ok()?;
        let footer = ParquetMetaDataReader::new().parse_and_finish(&file).ok()?;
        let label = Label::of(&footer).ok().flatten()?;
        let is_left = |number: &u64| segments.contains(number);
        let is_unfinished = label.kind == Kind::Compacted && label.segments.iter().all(is_left);
        Some(label.store == hex::encode(store) && label.step > segment_max && !is_unfinished)
    };
    Ok(files.into_iter().find(|path| is_newer(path).unwrap_or(false)))
}

fn with<'a>(found: &'a [Found], fates: &[Fate], wanted: Fate) -> Vec<&'a Found> {
    let all = found.iter().zip(fates);
    all.filter(|(_, fate)| **fate == wanted)
        .map(|(file, _)| file)
        .collect()
}

fn parquet_files(config: &StoreConfig) -> Result<Vec<PathBuf>, OpenError> {
    let mut files = Vec::new();
    for table in list(&config.parquet_folder())? {
        if table.is_dir() {
            let mut of_table = list(&table)?;
            of_table.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
            files.append(&mut of_table);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// As the catalogue names it.
fn relative(path: &Path) -> String {
    let name = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    format!("{}/{}", table_of(path), name(path.file_name()))
}

fn table_of(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

/// A file, or why it cannot be taken over. A file that cannot be read now is an error: it must not be lost by that.
fn look(path: &Path) -> Result<Result<Found, Unknown>, OpenError> {
    let unknown = |reason: String, rows: u64| Unknown {
        path: path.to_owned(),
        reason,
        rows,
    };
    let file = File::open(path).map_err(io_error("open", path))?;
    let footer = match ParquetMetaDataReader::new().parse_and_finish(&file) {
        Ok(footer) => footer,
        Err(error) => {
            // Whether it cannot be read or is none, reading it tells.
            digests(path, 0).map_err(io_error("read", path))?;
            return Ok(Err(unknown(error.to_string(), 0)));
        }
    };
    let rows = u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
    let label = match Label::of(&footer) {
        Ok(Some(label)) => label,
        Ok(None) => {
            return Ok(Err(unknown(
                "it was written before files had labels".to_owned(),
                rows,
            )));
        }
        Err(error) => return Ok(Err(unknown(error.to_string(), rows))),
    };
    let covers = match label.covers() {
        Ok(covers) => covers,
        Err(error) => return Ok(Err(unknown(error.to_string(), rows))),
    };
    let (bytes, body, digest) = digests(path, label.body_bytes).map_err(io_error("read", path))?;
    let is_whole = body == label.body_digest && counts(&footer, &label) && label.table == table_of(path);
    Ok(Ok(Found {
        path: path.to_owned(),
        id: file_id(path),
        bytes,
        digest,
        label: label.without_marks(),
        covers,
        is_whole,
    }))
}

/// Whether the footer counts as many rows as the label: what stands in the body its digest says, not how it is read.
fn counts(footer: &ParquetMetaData, label: &Label) -> bool {
    let rows = label.chunks.unwrap_or(label.rows);
    let groups = footer.row_groups().iter().map(|group| group.num_rows());
    let of_groups = groups.fold(0_i64, i64::saturating_add);
    let all = footer.file_metadata().num_rows();
    [all, of_groups]
        .iter()
        .all(|count| u64::try_from(*count) == Ok(rows))
}

/// Bytes of a file, and the SHA-256 of its first `body` bytes and of all.
fn digests(path: &Path, body: u64) -> io::Result<(u64, String, String)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut of_body) = (Sha256::new(), None);
    let (mut buffer, mut read) = (vec![0; READ_BYTES], 0_u64);
    loop {
        let left = body.saturating_sub(read);
        if left == 0 && of_body.is_none() {
            of_body = Some(hex::encode(hasher.clone().finalize()));
        }
        let most = if left == 0 {
            READ_BYTES
        } else {
            usize::try_from(left).unwrap_or(READ_BYTES)
        };
        let most = most.min(READ_BYTES);
        match file.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                read = read.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((read, of_body.unwrap_or_default(), hex::encode(hasher.finalize())))
}

/// The store that most files name.
fn most_named(found: &[Found]) -> Option<StoreId> {
    let mut named: HashMap<&str, usize> = HashMap::new();
    for file in found {
        let files = named.entry(&file.label.store).or_default();
        *files = files.saturating_add(1);
    }
    let (most, _) = named.into_iter().max_by_key(|(store, files)| (*files, *store))?;
    let mut store = StoreId::default();
    hex::decode_to_slice(most, &mut store).ok().map(|()| store)
}

fn fates(found: &[Found], store: Option<StoreId>, segments: &HashSet<u64>) -> Vec<Fate> {
    let store = store.map(hex::encode).unwrap_or_default();
    let ours: Vec<&Found> = found.iter().filter(|file| file.label.store == store).collect();
    let is_merged = |file: &&&Found| file.is_whole && file.label.kind == Kind::Merged;
    let merged: Vec<&Found> = ours.iter().filter(is_merged).copied().collect();
    let covered: HashSet<FileId> = merged
        .iter()
        .flat_map(|file| file.covers.iter().copied())
        .collect();
    let merged_step = merged.iter().map(|file| file.label.step).max().unwrap_or(0);
    let last_step = ours.iter().map(|file| file.label.step).max().unwrap_or(0);
    let mut tiers: HashMap<(&str, i64), (i64, FileId)> = HashMap::new();
    for file in ours
        .iter()
        .filter(|file| file.is_whole && file.label.kind == Kind::Tier)
    {
        let place = (file.label.table.as_str(), file.label.day);
        let latest = tiers.entry(place).or_insert((file.label.made_at, file.id));
        *latest = (file.label.made_at, file.id).max(*latest);
    }
    let fate = |file: &Found| {
        let label = &file.label;
        let is_unfinished = label.kind == Kind::Compacted
            && label.step == last_step
            && label.step > merged_step
            && label.segments.iter().all(|number| segments.contains(number));
        let latest = tiers.get(&(label.table.as_str(), label.day));
        if label.store != store {
            Fate::Foreign
        } else if covered.contains(&file.id) {
            Fate::Replaced
        } else if is_unfinished {
            Fate::Unfinished
        } else if !file.is_whole {
            Fate::Damaged
        } else if label.kind == Kind::Tier && latest.is_some_and(|(_, id)| *id != file.id) {
            Fate::Replaced
        } else {
            Fate::Live
        }
    };
    found.iter().map(fate).collect()
}

/// Days whose tiers are missing, or were made when not all samples may have been there.
fn dirty_days(live: &[&Found]) -> BTreeSet<i64> {
    let mut taken: BTreeMap<i64, i64> = BTreeMap::new();
    for label in live.iter().map(|file| &file.label) {
        if label.table == MetricChunk::NAME {
            for day in days(label.from, label.to) {
                let latest = taken.entry(day).or_insert(i64::MIN);
                *latest = label.ingested_to.max(*latest);
            }
        }
    }
    let mut made: HashMap<i64, Vec<i64>> = HashMap::new();
    for file in live.iter().filter(|file| file.label.kind == Kind::Tier) {
        made.entry(file.label.day).or_default().push(file.label.made_at);
    }
    let is_done = |(day, taken): &(i64, i64)| {
        // Samples wait for compaction when they were taken, and windows for their end.
        let late = taken
            .saturating_add(DAY_MICROS)
            .max(day.saturating_add(2).saturating_mul(DAY_MICROS));
        let made = made.get(day);
        made.is_some_and(|made| made.len() == TIERS.len() && made.iter().all(|at| *at >= late))
    };
    let dirty = taken.into_iter().filter(|day| !is_done(day));
    dirty.map(|(day, _)| day).collect()
}

/// The highest number of every stream. Footers are read once more: the marks of all files at once are too long.
fn marks(live: &[&Found]) -> Result<Vec<(HostId, Mark, TimeMicros)>, OpenError> {
    let mut all: HashMap<(HostId, SpoolEpoch, Lane), (u64, i64)> = HashMap::new();
    for file in live.iter().filter(|file| file.label.kind != Kind::Tier) {
        let opened = File::open(&file.path).map_err(io_error("open", &file.path))?;
        let footer = ParquetMetaDataReader::new().parse_and_finish(&opened);
        let footer = footer.map_err(|error| io_error("read", &file.path)(io::Error::other(error)))?;
        let marks = match Label::of(&footer) {
            Ok(Some(label)) => label.marks(),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let marks = marks.unwrap_or_else(|error| {
            tracing::error!(path = %file.path.display(), %error, "the marks of a Parquet file cannot be read");
            Vec::new()
        });
        for (host, mark) in marks {
            let held = all.entry((host, mark.epoch, mark.lane)).or_default();
            *held = (mark.sequence.0.max(held.0), file.label.ingested_to.max(held.1));
        }
    }
    let mut marks: Vec<_> = all.into_iter().collect();
    // The stalest first, as the catalogue gives them.
    marks.sort_unstable_by_key(|(key, (_, seen_at))| (*seen_at, *key));
    let row = |((host, epoch, lane), (number, seen_at)): ((HostId, SpoolEpoch, Lane), (u64, i64))| {
        let mark = Mark {
            epoch,
            lane,
            sequence: Sequence(number),
        };
        (host, mark, TimeMicros(seen_at))
    };
    Ok(marks.into_iter().map(row).collect())
}

fn gaps(unknown: &[Unknown], found: &[Found], fates: &[Fate]) -> Vec<Gap> {
    let live: HashMap<FileId, u64> = with(found, fates, Fate::Live)
        .iter()
        .map(|file| (file.id, file.label.rows))
        .collect();
    let mut gaps: Vec<Gap> = unknown.iter().map(gap_of_unknown).collect();
    for file in with(found, fates, Fate::Damaged) {
        // A merge that was not registered leaves what it was made of.
        let held = file.covers.iter().filter_map(|id| live.get(id));
        let lost = held.fold(file.label.rows, |rows, held| rows.saturating_sub(*held));
        if lost > 0 {
            let span = (TimeMicros(file.label.true_from), TimeMicros(file.label.true_to));
            let count = (lost, Exactness::Exact);
            gaps.push(gap(&file.label.table, span, count, "file with another digest"));
        }
    }
    let ours = found
        .iter()
        .zip(fates)
        .filter(|(_, fate)| **fate != Fate::Foreign);
    let first = ours.map(|(file, _)| file.label.true_from);
    let now = TimeMicros::now();
    let from = first
        .chain(gaps.iter().map(|gap| gap.from_time.0))
        .fold(now.0, i64::min);
    gaps.push(Gap {
        lane: Lane::Critical,
        ..gap(
            "*",
            (TimeMicros(from), now),
            (0, Exactness::AtLeast),
            "the catalogue was lost and made anew from the files; which of them are missing nobody can tell",
        )
    });
    gaps
}

fn gap_of_unknown(unknown: &Unknown) -> Gap {
    let name = unknown.path.file_stem().unwrap_or_default().to_string_lossy();
    let date: Option<jiff::civil::Date> = name.get(..10).and_then(|date| date.parse().ok());
    let start = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    let start = start.map(|start| start.timestamp().as_microsecond());
    // Of a file with another name not even the day is known.
    let end = start.map_or(TimeMicros::now().0, |start| start.saturating_add(DAY_MICROS));
    let span = (TimeMicros(start.unwrap_or(0)), TimeMicros(end));
    let reason = format!(
        "the catalogue was lost, and a file cannot be taken over: {}",
        unknown.reason
    );
    let reason: String = reason.chars().take(200).collect();
    let table = table_of(&unknown.path);
    let table = if table_index_by_name(&table).is_some() {
        table
    } else {
        "*".to_owned()
    };
    gap(&table, span, (unknown.rows, Exactness::AtLeast), &reason)
}

fn gap(
    table: &str,
    (from_time, to_time): (TimeMicros, TimeMicros),
    (count, exactness): (u64, Exactness),
    reason: &str,
) -> Gap {
    let known = table_index_by_name(table).and_then(|index| sql_tables().get(index));
    Gap {
        time: TimeMicros::now(),
        table: table.to_owned(),
        lane: known.map_or(Lane::Events, |table| table.info.lane),
        from_time,
        to_time,
        count,
        exactness,
        stage: GapStage::Store,
        reason: reason.to_owned(),
    }
}
