//! View: what there is to query, kept in memory.
//!
//! For every table the frames that are not compacted yet (*hot*) and the Parquet files. Compaction replaces hot
//! frames by a file under one lock, so that a query sees each row once. A query holds what it was given: a deleted
//! segment stays readable through its open file, and a deleted Parquet file goes when the last query lets go of it.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use fleetmend_event::{HostId, RecordId, TimeMicros};
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use crate::catalogue::FileRow;
use crate::clock::ClockAhead;
use crate::error::ReadError;
use crate::segment::SegmentFile;
use crate::select::Deadline;
use crate::shape::{Origin, Rows, SqlTable, align, sql_tables, table_index_by_name};

/// A durable frame that is not compacted yet.
#[derive(Debug)]
pub(crate) struct HotFrame {
    /// Where it lies.
    pub(crate) segment: Arc<SegmentFile>,
    /// Where in the segment the frame begins.
    pub(crate) offset: u64,
    /// Bytes of the frame.
    pub(crate) length: u32,
    /// Whose it is.
    pub(crate) host: HostId,
    /// Its identity within the host.
    pub(crate) record: RecordId,
    /// When the store took it.
    pub(crate) ingested_at: TimeMicros,
    /// How its host's clock stood to the store's.
    pub(crate) clock: ClockAhead,
    /// Earliest time in it.
    pub(crate) from: TimeMicros,
    /// Latest time in it.
    pub(crate) to: TimeMicros,
    /// Rows SQL shows of it.
    pub(crate) rows: u64,
    /// Memory that its rows take when they are decoded.
    pub(crate) bytes: u64,
    /// Its decoded rows, while the cache has room.
    batch: Mutex<Option<RecordBatch>>,
    lost: AtomicBool,
}

impl HotFrame {
    /// A frame at `offset` of `segment`.
    pub(crate) fn new(
        segment: &Arc<SegmentFile>,
        offset: u64,
        length: u32,
        origin: Origin,
        rows: &Rows,
    ) -> Arc<Self> {
        Arc::new(Self {
            segment: segment.clone(),
            offset,
            length,
            host: origin.host,
            record: origin.record,
            ingested_at: origin.ingested_at,
            clock: origin.clock,
            from: rows.from,
            to: rows.to,
            rows: rows.count,
            bytes: rows.bytes,
            batch: Mutex::new(Some(rows.batch.clone())),
            lost: AtomicBool::new(false),
        })
    }

    /// Its rows, from memory or from the segment. Reads a file when they are not in memory.
    pub(crate) fn batch(&self, table: &SqlTable) -> Result<RecordBatch, ReadError> {
        if let Some(batch) = self.batch.lock().clone() {
            return Ok(batch);
        }
        let frame = self.segment.frame_at(self.offset, self.length)?;
        let batch = frame.batch()?.ok_or(ReadError::Shape {
            table: table.info.name,
            reason: "frame is a tombstone".to_owned(),
        })?;
        Ok(align(table, &batch)?.batch)
    }

    /// What its rows have in common.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            host: self.host,
            record: self.record,
            ingested_at: self.ingested_at,
            clock: self.clock,
        }
    }

    /// When its earliest row was made, by the store's clock.
    pub(crate) fn true_from(&self) -> TimeMicros {
        self.clock.true_time(self.from, self.ingested_at)
    }

    /// Seconds from its latest row to its reception, by the store's clock.
    pub(crate) fn late_seconds(&self) -> f64 {
        let made = self.clock.true_time(self.to, self.ingested_at);
        let late = u64::try_from(self.ingested_at.micros_since(made)).unwrap_or(0);
        Duration::from_micros(late).as_secs_f64()
    }

    /// Notes that it cannot be read any more; says whether that is new.
    pub(crate) fn give_up(&self) -> bool {
        !self.lost.swap(true, Ordering::AcqRel)
    }

    /// Whether it cannot be read any more; a gap says so.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn let_go(&self) {
        *self.batch.lock() = None;
    }
}

/// A registered Parquet file.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    /// Its number in the catalogue.
    pub(crate) id: i64,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// Place of its table.
    pub(crate) table: usize,
    /// Day it belongs to, in days since 1970.
    pub(crate) day: i64,
    /// Earliest time in it.
    pub(crate) from: TimeMicros,
    /// Latest time in it.
    pub(crate) to: TimeMicros,
    /// Earliest time in it by the store's clock.
    pub(crate) true_from: TimeMicros,
    /// Latest time in it by the store's clock.
    pub(crate) true_to: TimeMicros,
    /// Its rows.
    pub(crate) rows: u64,
    /// Chunks that hold them, in files of metrics.
    pub(crate) chunks: Option<u64>,
    /// Since when this process knows it.
    pub(crate) added: std::time::Instant,
    /// Its size.
    pub(crate) bytes: u64,
    /// SHA-256 of it, in hex.
    pub(crate) digest: String,
    /// Whether it goes when the last query lets go of it.
    pub(crate) doomed: AtomicBool,
}

/// Last bytes of every Parquet file.
const PARQUET_MAGIC: &[u8; 4] = b"PAR1";

impl ParquetFile {
    /// A registered file in the folder of Parquet files; `None` for a table this build does not know.
    pub(crate) fn of_row(folder: &Path, row: FileRow) -> Option<Self> {
        let table = table_index_by_name(&row.table)?;
        Some(Self {
            id: row.id,
            path: folder.join(row.path),
            table,
            day: row.day,
            from: row.from,
            to: row.to,
            true_from: row.true_from.unwrap_or(row.ingested_to),
            true_to: row.true_to.unwrap_or(row.ingested_to),
            rows: row.rows,
            chunks: row.chunks,
            added: std::time::Instant::now(),
            bytes: row.bytes,
            digest: row.digest,
            doomed: AtomicBool::new(false),
        })
    }

    /// What is wrong with it at first sight: it is missing, has another size or another end.
    ///
    /// # Errors
    /// When it cannot be looked at now, which says nothing about the file: too many open files, no right to open it,
    /// a disk that does not answer.
    pub(crate) fn fault(&self) -> io::Result<Option<String>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("file is missing".to_owned()));
            }
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        if bytes != self.bytes {
            return Ok(Some(format!("file of {bytes} bytes instead of {}", self.bytes)));
        }
        let mut end = [0; 4];
        file.read_exact_at(&mut end, bytes.saturating_sub(4))?;
        Ok((end != *PARQUET_MAGIC).then(|| "file without a Parquet footer".to_owned()))
    }

    /// What is wrong with it when all of it is read. Blocks for as long as that takes, until `deadline`.
    ///
    /// # Errors
    /// As [`Self::fault`], and when the work has to end.
    pub(crate) fn deep_fault_until(&self, deadline: &Deadline) -> io::Result<Option<String>> {
        let fault = self.fault()?;
        if fault.is_some() {
            return Ok(fault);
        }
        let go_on = || deadline.check().map_err(io::Error::other);
        let whole = digest_while(&self.path, go_on)? == self.digest;
        Ok((!whole).then(|| "file with another digest".to_owned()))
    }

    /// Renames it, so that it is kept for a person and read by nobody.
    pub(crate) fn rename_aside(&self) {
        let mut to = self.path.clone().into_os_string();
        to.push(".corrupt");
        if let Err(error) = std::fs::rename(&self.path, &to)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot rename a damaged file");
        }
    }
}

/// Bytes of a file that are read before the reader looks whether to go on.
const READ_BYTES: usize = 256 << 10;

/// SHA-256 of a file, in hex. Blocks.
#[cfg(test)]
pub(crate) fn digest_of(path: &Path) -> io::Result<String> {
    digest_while(path, || Ok(()))
}

/// SHA-256 of a file, in hex, unless `go_on` fails. Blocks.
fn digest_while(path: &Path, mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        go_on()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hasher.finalize())),
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Drop for ParquetFile {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            // The catalogue does not know it any more, so that the next start deletes it.
            tracing::warn!(path = %self.path.display(), %error, "cannot delete an expired file");
        }
    }
}

/// What a query of one table reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableView {
    /// Frames that are not compacted yet.
    pub(crate) hot: Vec<Arc<HotFrame>>,
    /// Parquet files.
    pub(crate) files: Vec<Arc<ParquetFile>>,
}

/// What there is to query.
#[derive(Debug)]
pub(crate) struct View {
    tables: RwLock<Vec<TableView>>,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    held: VecDeque<(std::sync::Weak<HotFrame>, u64)>,
    bytes: u64,
    bytes_max: u64,
}

impl View {
    /// An empty view that keeps at most `cache_bytes_max` of decoded rows.
    pub(crate) fn new(cache_bytes_max: u64) -> Self {
        Self {
            tables: RwLock::new(vec![TableView::default(); sql_tables().len()]),
            cache: Mutex::new(Cache {
                held: VecDeque::new(),
                bytes: 0,
                bytes_max: cache_bytes_max,
            }),
        }
    }

    /// Adds durable frames, each with the place of its table.
    pub(crate) fn add_hot(&self, frames: Vec<(usize, Arc<HotFrame>)>) {
        {
            let mut cache = self.cache.lock();
            for (_, frame) in &frames {
                cache.hold(frame);
            }
        }
        let mut tables = self.tables.write();
        for (table, frame) in frames {
            if let Some(view) = tables.get_mut(table) {
                view.hot.push(frame);
            }
        }
    }

    /// Adds Parquet files that were registered.
    pub(crate) fn add_files(&self, files: Vec<Arc<ParquetFile>>) {
        self.replace(&HashSet::new(), &HashSet::new(), files);
    }

    /// Puts `added` in the place of the frames of `segments` and of the files `removed`, in one step. The files
    /// removed are given back.
    pub(crate) fn replace(
        &self,
        segments: &HashSet<u64>,
        removed: &HashSet<i64>,
        added: Vec<Arc<ParquetFile>>,
    ) -> Vec<Arc<ParquetFile>> {
        let mut gone = Vec::new();
        let mut tables = self.tables.write();
        for view in tables.iter_mut() {
            if !segments.is_empty() {
                view.hot.retain(|frame| !segments.contains(&frame.segment.number));
            }
            if !removed.is_empty() {
                let out = view.files.extract_if(.., |file| removed.contains(&file.id));
                gone.extend(out);
            }
        }
        for file in added {
            if let Some(view) = tables.get_mut(file.table) {
                view.files.push(file);
            }
        }
        gone
    }

    /// What a query of this table reads now.
    pub(crate) fn table(&self, table: usize) -> TableView {
        self.tables.read().get(table).cloned().unwrap_or_default()
    }

    /// Every frame of these segments, each with the place of its table.
    pub(crate) fn hot_of(&self, segments: &HashSet<u64>) -> Vec<Vec<Arc<HotFrame>>> {
        let of_table = |view: &TableView| {
            view.hot
                .iter()
                .filter(|frame| segments.contains(&frame.segment.number))
                .cloned()
                .collect()
        };
        self.tables.read().iter().map(of_table).collect()
    }

    /// Every Parquet file.
    pub(crate) fn files(&self) -> Vec<Arc<ParquetFile>> {
        self.tables
            .read()
            .iter()
            .flat_map(|view| view.files.iter().cloned())
            .collect()
    }

    /// Frames not compacted yet, and their rows.
    pub(crate) fn hot_count(&self) -> (u64, u64) {
        let tables = self.tables.read();
        let hot = tables.iter().flat_map(|view| &view.hot);
        hot.fold((0, 0), |(frames, rows), frame| {
            (frames + 1, frame.rows.saturating_add(rows))
        })
    }
}

impl Cache {
    fn hold(&mut self, frame: &Arc<HotFrame>) {
        self.held.push_back((Arc::downgrade(frame), frame.bytes));
        self.bytes = self.bytes.saturating_add(frame.bytes);
        while self.bytes > self.bytes_max {
            let Some((oldest, bytes)) = self.held.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(bytes);
            if let Some(oldest) = oldest.upgrade() {
                oldest.let_go();
            }
        }
    }
}
