//! Recovery: what a start finds in the folder becomes the view, the marks and, where something is damaged, a gap.
//!
//! - A segment that the catalogue knows as compacted is deleted.
//! - The unfinished end of the newest segment is cut away: nothing of it was acknowledged. A power cut may leave the
//!   later pages of its last group without the earlier ones, so everything from the first damage on is cut when
//!   nothing but that one group follows; marks stay before it, and agents send it again.
//! - Any other damage is copied to the folder `aside`, and the segment is written anew with its whole entries and
//!   with one gap row per damage, so that the loss is recorded exactly when the damage disappears.
//! - What is read may have been written by a process that was killed before its fsync. Every segment is synced before
//!   its marks are believed, for the next hello acknowledges them.
//! - Rows that this build cannot read, of a table that only a newer one knows, are a gap of stage `store`: their
//!   segment is compacted like any other and goes.
//! - An identity that was seen already is left out. (A write that failed half-way and was sent again lies in two
//!   segments.)
//! - A Parquet file that the catalogue does not know is left over from a compaction that did not finish, whose
//!   segments are still there; it is deleted. When the catalogue itself was made anew, it is moved to `aside`.

mod files;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fleetmend_event::table::{Exactness, Gap, GapStage};
use fleetmend_event::{Fact, Frame, HostId, Lane, Mark, Sequence, TimeMicros};

use crate::clock::ClockAhead;
use crate::commit::{digest, is_whole, rows_of};
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::inner::{SegmentState, SetAside};
use crate::mark::Marks;
use crate::own::{OWN_HOST, own_frames, unreadable};
use crate::segment::{Damage, Entry, Scan, SegmentFile, file_name, number_of, put_entry, scan};
use crate::shape::{Origin, Rows};
use crate::view::{HotFrame, View};
pub(crate) use files::{move_aside, register_files};

/// Gap rows in one record.
const GAPS_AT_ONCE: usize = 256;

/// What recovery works on.
pub(crate) struct Recovery<'a> {
    /// Where everything lies.
    pub(crate) config: &'a StoreConfig,
    /// Gets the rows.
    pub(crate) view: &'a View,
}

/// What recovery found.
pub(crate) struct Recovered {
    /// Every stream's mark.
    pub(crate) marks: Marks,
    /// Segments to compact.
    pub(crate) segments: BTreeMap<u64, SegmentState>,
    /// Number of the next segment.
    pub(crate) next_number: u64,
    /// Compacted segments whose files are gone now.
    pub(crate) deleted: Vec<u64>,
    /// Rows that stand in a segment and cannot be read by this build.
    pub(crate) lost: Vec<SetAside>,
}

impl Recovery<'_> {
    /// Reads every segment that is not compacted. Numbers go on after `segment_max`, the highest that ever was.
    pub(crate) fn segments(
        &self,
        marks: Vec<(HostId, Mark, TimeMicros)>,
        compacted: &[u64],
        segment_max: u64,
    ) -> Result<Recovered, OpenError> {
        let mut all = Marks::default();
        for (host, mark, seen_at) in marks {
            all.raise((host, mark.epoch, mark.lane), mark.sequence.0, None, seen_at);
        }
        let folder = self.config.segments_folder();
        let found = list_segments(&folder)?;
        let newest = found.last().map(|(number, _)| *number);
        let highest = newest
            .into_iter()
            .chain(compacted.iter().copied())
            .fold(segment_max, u64::max);
        let mut recovered = Recovered {
            marks: all,
            segments: BTreeMap::new(),
            next_number: highest.saturating_add(1),
            deleted: compacted.to_vec(),
            lost: Vec::new(),
        };
        let compacted: HashSet<u64> = compacted.iter().copied().collect();
        for (number, path) in found {
            if compacted.contains(&number) {
                crate::backup::put_away(self.config, &path).map_err(io_error("delete", &path))?;
            } else {
                self.segment(&mut recovered, number, &path, Some(number) == newest)?;
            }
        }
        // The names of the segments are as durable now as what stands in them.
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync", &folder))?;
        Ok(recovered)
    }

    /// Makes losses that a start found durable, in a segment of their own.
    pub(crate) fn tell(&self, recovered: &mut Recovered, gaps: &[Gap]) -> Result<(), OpenError> {
        if gaps.is_empty() {
            return Ok(());
        }
        let number = recovered.next_number;
        recovered.next_number = number.saturating_add(1);
        let path = self.config.segments_folder().join(file_name(number));
        let mut bytes = crate::segment::header_of(&path);
        for some in gaps.chunks(GAPS_AT_ONCE) {
            put_gaps(&mut bytes, some.to_vec());
        }
        replace_file(&path, &bytes).map_err(io_error("write", &path))?;
        self.segment(recovered, number, &path, true)
    }

    fn segment(
        &self,
        recovered: &mut Recovered,
        number: u64,
        path: &Path,
        is_newest: bool,
    ) -> Result<(), OpenError> {
        let bytes = Bytes::from(fs::read(path).map_err(io_error("read", path))?);
        let mut found = scan(&bytes);
        let torn = is_newest
            .then(|| unfinished_from(&found))
            .flatten()
            .unwrap_or(u64::MAX);
        let whole_but_cut = found.entries.iter().any(|entry| entry.offset >= torn);
        found.entries.retain(|entry| entry.offset < torn);
        let damage: Vec<Damage> = found
            .damage
            .iter()
            .copied()
            .filter(|damage| damage.offset < torn)
            .collect();
        if whole_but_cut {
            let bytes_cut = (bytes.len() as u64).saturating_sub(torn);
            let cut = Damage {
                offset: torn,
                bytes: bytes_cut,
                is_tail: true,
            };
            self.keep_aside(number, &bytes, &[cut])?;
        }
        if !damage.is_empty() {
            self.keep_aside(number, &bytes, &damage)?;
            tracing::error!(
                segment = number,
                damaged = damage.len(),
                "segment is damaged; what is lost is a gap"
            );
            let gaps = damage.iter().map(|damage| damage_gap(&found, *damage)).collect();
            let anew = self.write_anew(path, &bytes, &found, gaps)?;
            found = scan(&anew);
        } else if torn < u64::MAX {
            tracing::warn!(
                segment = number,
                offset = torn,
                "cut off the unfinished end of a segment"
            );
            cut(path, torn).map_err(io_error("cut", path))?;
        }
        self.take_over(recovered, number, path, found)
            .map_err(io_error("open", path))
    }

    fn take_over(&self, recovered: &mut Recovered, number: u64, path: &Path, found: Scan) -> io::Result<()> {
        let file = SegmentFile::open(number, path)?;
        file.sync()?;
        let bytes = fs::metadata(path)?.len();
        let mut state = SegmentState {
            path: path.to_owned(),
            bytes,
            sealed: true,
            marks: HashMap::new(),
        };
        let mut lost = Lost::default();
        for entry in found.entries {
            let id = entry.frame.id;
            let key = (entry.host, id.epoch, id.lane);
            if id.sequence.0 <= recovered.marks.of_stream(key).sequence.0 {
                continue;
            }
            let rows = (!entry.frame.tombstone).then(|| rows_of(&entry.frame));
            let changed = matches!(&rows, Some(Ok((_, rows))) if !is_whole(&entry.frame, rows));
            let digest = (rows.is_some() && !changed).then(|| digest(&entry.frame));
            recovered
                .marks
                .raise(key, id.sequence.0, digest, entry.ingested_at);
            state.marks.insert(key, id.sequence.0);
            // Through the view's cache one by one: a segment decodes to many times its size.
            match rows {
                Some(Ok((table, rows))) => {
                    let hot = hot_frame(&file, &entry, &rows);
                    self.view.add_hot(vec![(table, hot)]);
                }
                Some(Err((table, reason))) => lost.add(&entry, table, &reason),
                None => {}
            }
        }
        recovered.segments.insert(number, state);
        recovered.lost.extend(lost.told(number));
        Ok(())
    }

    fn keep_aside(&self, number: u64, bytes: &Bytes, damage: &[Damage]) -> Result<(), OpenError> {
        for Damage {
            offset,
            bytes: length,
            ..
        } in damage
        {
            let path = self
                .config
                .aside_folder()
                .join(format!("segment-{number:020}-{offset}.bin"));
            let from = usize::try_from(*offset).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(*length).unwrap_or(usize::MAX));
            fs::write(&path, bytes.get(from..to).unwrap_or_default()).map_err(io_error("write", &path))?;
        }
        Ok(())
    }

    /// Replaces the segment by one with its whole entries and with `gaps`; returns the new bytes.
    fn write_anew(
        &self,
        path: &Path,
        bytes: &Bytes,
        found: &Scan,
        gaps: Vec<Gap>,
    ) -> Result<Bytes, OpenError> {
        let mut anew = crate::segment::header_of(path);
        for entry in &found.entries {
            let when = (entry.ingested_at, entry.clock);
            put_entry(&mut anew, entry.host, when, &entry.frame.encode());
        }
        put_gaps(&mut anew, gaps);
        tracing::info!(path = %path.display(), was = bytes.len(), is = anew.len(), "writing a damaged segment anew");
        replace_file(path, &anew).map_err(io_error("replace", path))?;
        Ok(anew.into())
    }
}

/// Adds gap rows of the store. They have an epoch of their own, so that they are numbered from 1.
fn put_gaps(segment: &mut Vec<u8>, gaps: Vec<Gap>) {
    let facts = gaps.into_iter().map(Fact::from).collect();
    let frames = own_frames(crate::own::new_own_epoch(), facts).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot record a gap");
        Vec::new()
    });
    for (frame, number) in frames.into_iter().zip(1_u64..) {
        let mut id = frame.template.id;
        id.sequence = Sequence(number);
        let encoded = Frame { id, ..frame.template }.encode();
        let when = (TimeMicros::now(), ClockAhead::NONE);
        put_entry(segment, OWN_HOST, when, &encoded);
    }
}

fn hot_frame(file: &Arc<SegmentFile>, entry: &Entry, rows: &Rows) -> Arc<HotFrame> {
    let length = u32::try_from(entry.frame.encoded_len()).unwrap_or(u32::MAX);
    let origin = Origin {
        host: entry.host,
        record: entry.frame.id,
        ingested_at: entry.ingested_at,
        clock: entry.clock,
    };
    HotFrame::new(file, entry.offset, length, origin, rows)
}

/// Rows of one segment that this build cannot read, one gap for each host, table and lane.
#[derive(Default)]
struct Lost(HashMap<(HostId, u16, Lane), Gap>);

impl Lost {
    /// Rows are checked before they are stored: only another build can have written these.
    fn add(&mut self, entry: &Entry, table: &str, reason: &str) {
        let frame = &entry.frame;
        let gap = Gap {
            stage: GapStage::Store,
            ..unreadable(frame, entry.clock, table, reason)
        };
        let key = (entry.host, frame.table, frame.id.lane);
        let Some(held) = self.0.get_mut(&key) else {
            self.0.insert(key, gap);
            return;
        };
        held.from_time = held.from_time.min(gap.from_time);
        held.to_time = held.to_time.max(gap.to_time);
        held.count = held.count.saturating_add(gap.count);
    }

    fn told(self, segment: u64) -> impl Iterator<Item = SetAside> {
        self.0.into_iter().map(move |((host, ..), gap)| {
            tracing::error!(segment, %host, table = gap.table, reason = gap.reason, rows = gap.count, "stored rows cannot be read");
            SetAside {
                file_id: 0,
                host,
                gap,
            }
        })
    }
}

/// Where the unfinished end of the newest segment begins: at the first damage after which only entries of one
/// group stand. A group's entries share the time when they were taken.
fn unfinished_from(found: &Scan) -> Option<u64> {
    let last = found.entries.last().map(|entry| entry.ingested_at);
    let is_last_group = |damage: &&Damage| {
        let mut after = found.entries.iter().filter(|entry| entry.offset > damage.offset);
        after.all(|entry| Some(entry.ingested_at) == last)
    };
    found
        .damage
        .iter()
        .find(is_last_group)
        .map(|damage| damage.offset)
}

fn damage_gap(found: &Scan, damage: Damage) -> Gap {
    let before = found
        .entries
        .iter()
        .rev()
        .find(|entry| entry.offset < damage.offset);
    let after = found.entries.iter().find(|entry| entry.offset > damage.offset);
    let now = TimeMicros::now();
    let made = |entry: &Entry| entry.clock.true_time(entry.frame.from_time, entry.ingested_at);
    let from = before.map(made);
    let to = after.map(|entry| entry.ingested_at).unwrap_or(now);
    Gap {
        time: now,
        table: "*".to_owned(),
        lane: Lane::Critical,
        from_time: from.or(after.map(made)).unwrap_or(now).min(to),
        to_time: to,
        count: 1,
        exactness: Exactness::AtLeast,
        stage: GapStage::Store,
        reason: format!("corrupt segment: {} bytes", damage.bytes),
    }
}

/// Every segment, the oldest first.
pub(crate) fn list_segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found = Vec::new();
    for path in list(folder)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        match number_of(name) {
            Some(number) => found.push((number, path)),
            None if name.ends_with(".tmp") => fs::remove_file(&path).map_err(io_error("delete", &path))?,
            None => tracing::warn!(path = %path.display(), "not a segment; left alone"),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What lies in a folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(folder).map_err(io_error("list", folder))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(io_error("list", folder)))
        .collect()
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

/// Replaces a file in one step, durably.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Makes a folder and those above it; the names of those that are new are durable: without its folder nothing that is
/// synced within it survives a power cut.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    DirBuilder::new().mode(mode).recursive(true).create(path)?;
    let above = missing.into_iter().filter_map(Path::parent);
    above
        .map(|folder| {
            if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            }
        })
        .try_for_each(|folder| File::open(folder)?.sync_all())
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
