//! Facts as Parquet for analysts: plain columns, one row per sample or event, sorted by time and host.
//!
//! Rows are read in windows of time that grow while little is found and shrink when there is more than
//! [`ROWS_MAX`], so that whatever the span, a bounded number of rows is in memory. Columns are those of SQL.
//!
//! # A folder, version 1
//! `<table>-<day>.parquet` for each day (UTC, by the hosts' clocks) that has rows, and at last `manifest.json`: version,
//! table, span, hosts, per file its rows, bytes, SHA-256, first and last time, and the known losses that overlap the
//! span. Files are written under another name, synced, and renamed: one that has its final name is whole, and an export
//! that has a manifest is. Each file says table, span and version in its key-value metadata too.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use fleetmend_event::table::table_by_name;
use fleetmend_event::{HostId, HostScope, TimeMicros};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError as Encoding;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::error::{ParquetError, SourceError};
use crate::source::{FactSource, RowSpan};

/// Version of the manifest and the layout.
const VERSION: u32 = 1;
/// Name of the manifest.
pub const MANIFEST: &str = "manifest.json";
/// Rows that are read at once; the store answers with no more.
const ROWS_MAX: usize = 50_000;
const DAY: i64 = 86_400_000_000;
const WINDOW_FIRST: i64 = 60_000_000;
/// Encoded bytes of a row group that is not written yet.
const ROW_GROUP_BYTES_MAX: usize = 16 << 20;
/// Pieces of a streamed file are about so large.
const PIECE_BYTES: usize = 256 << 10;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct ParquetRequest {
    /// Of which table.
    pub table: String,
    /// From when, by the hosts' clocks.
    pub from: TimeMicros,
    /// Until when, itself left out.
    pub to: TimeMicros,
    /// Of which hosts; of all, when none are named.
    pub hosts: Option<BTreeSet<HostId>>,
    /// Whose facts whoever asks may see.
    pub scope: HostScope,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the folder.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Of its bytes, in hex.
    pub sha256: String,
    /// From when its rows are.
    pub from: TimeMicros,
    /// Until when, itself left out.
    pub to: TimeMicros,
}

/// What an export holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The table.
    pub table: String,
    /// From when.
    pub from: TimeMicros,
    /// Until when, itself left out.
    pub to: TimeMicros,
    /// Of which hosts; of all, when there is no list.
    pub hosts: Option<BTreeSet<HostId>>,
    /// When it was made.
    pub made_at: TimeMicros,
    /// Rows of all files.
    pub rows: u64,
    /// The files.
    pub files: Vec<FileEntry>,
    /// Known losses that overlap the span, as rows of `gaps`; of all hosts within the scope.
    pub gaps: Vec<serde_json::Value>,
}

impl ParquetRequest {
    fn check(&self) -> Result<(), ParquetError> {
        if table_by_name(&self.table).is_none() {
            return Err(ParquetError::Request(format!(
                "there is no table {:?}",
                self.table
            )));
        }
        if self.from >= self.to {
            return Err(ParquetError::Request("from has to be before to".to_owned()));
        }
        Ok(())
    }
}

/// Rows of a request in their order, a window at a time.
struct Windows<'a> {
    source: &'a dyn FactSource,
    request: &'a ParquetRequest,
    at: TimeMicros,
    until: TimeMicros,
    window: i64,
}

impl Windows<'_> {
    /// The rows of the next window; there is at least one batch, which may be empty. None at the end.
    async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>, ParquetError> {
        while self.at < self.until {
            let to = self.at.plus_micros(self.window).min(self.until);
            let span = RowSpan::Made {
                from: self.at,
                to,
                hosts: self.request.hosts.clone(),
            };
            let table = &self.request.table;
            let read = self.source.rows(table, span, &self.request.scope, ROWS_MAX).await;
            let (batches, more) = match read {
                Ok(read) => read,
                Err(SourceError::TooMany(_)) => (Vec::new(), true),
                Err(source) => {
                    return Err(ParquetError::Source {
                        table: table.clone(),
                        source,
                    });
                }
            };
            if more {
                if self.window <= 1 {
                    return Err(ParquetError::Moment {
                        table: table.clone(),
                        rows_max: ROWS_MAX,
                        at: self.at,
                    });
                }
                self.window /= 2;
                continue;
            }
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            if rows < ROWS_MAX / 4 {
                self.window = self.window.saturating_mul(2).min(DAY);
            }
            self.at = to;
            return Ok(Some(batches));
        }
        Ok(None)
    }
}

fn properties(request: &ParquetRequest) -> WriterProperties {
    let pair = |key: &str, value: String| KeyValue::new(format!("fleetmend.{key}"), value);
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("fleetmend ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![
            pair("version", VERSION.to_string()),
            pair("table", request.table.clone()),
            pair("from", request.from.to_string()),
            pair("to", request.to.to_string()),
        ]))
        .build()
}

/// A file that is being encoded. Its methods block.
struct Encoder<W: Write + Send> {
    request: ParquetRequest,
    writer: Option<ArrowWriter<W>>,
    sink: Option<W>,
    rows: u64,
}

impl<W: Write + Send> Encoder<W> {
    fn new(request: &ParquetRequest, sink: W) -> Self {
        Self {
            request: request.clone(),
            writer: None,
            sink: Some(sink),
            rows: 0,
        }
    }

    fn failed(&self) -> impl FnOnce(Encoding) -> ParquetError + use<W> {
        let table = self.request.table.clone();
        move |source| ParquetError::Encode { table, source }
    }

    fn begin(&mut self, schema: SchemaRef) -> Result<(), ParquetError> {
        if let Some(sink) = self.sink.take() {
            let writer = ArrowWriter::try_new(sink, schema, Some(properties(&self.request)));
            self.writer = Some(writer.map_err(self.failed())?);
        }
        Ok(())
    }

    fn write(&mut self, batches: &[RecordBatch]) -> Result<(), ParquetError> {
        for batch in batches {
            self.begin(batch.schema())?;
            let failed = self.failed();
            let Some(writer) = &mut self.writer else { continue };
            writer
                .write(batch)
                .and_then(|()| {
                    if writer.in_progress_size() > ROW_GROUP_BYTES_MAX {
                        writer.flush()
                    } else {
                        Ok(())
                    }
                })
                .map_err(failed)?;
            self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        }
        Ok(())
    }

    /// Ends the file; its rows and where it was written to.
    fn finish(mut self) -> Result<(u64, Option<W>), ParquetError> {
        let failed = self.failed();
        let sink = match self.writer.take() {
            Some(writer) => Some(writer.into_inner().map_err(failed)?),
            None => self.sink.take(),
        };
        Ok((self.rows, sink))
    }
}

/// Counts and digests what is written.
struct Digesting {
    file: std::io::BufWriter<std::fs::File>,
    digest: Sha256,
    bytes: u64,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn file_error(attempt: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ParquetError {
    let path = path.to_owned();
    move |source| ParquetError::File {
        attempt,
        path,
        source,
    }
}

/// Runs what blocks elsewhere.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ParquetError> + Send + 'static,
) -> Result<T, ParquetError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ParquetError::Request(format!("a thread of the export ended: {error}")))?
}

/// Writes what is wanted into `folder`, which is made, and has to hold no export yet.
///
/// # Errors
/// [`ParquetError`]; what has its final name then is whole, and there is no manifest.
///
/// # Cancel safety
/// May be dropped; as after an error.
pub async fn export_to_folder(
    source: &dyn FactSource,
    request: &ParquetRequest,
    folder: &Path,
) -> Result<Manifest, ParquetError> {
    request.check()?;
    let made = folder.to_owned();
    blocking(move || std::fs::create_dir_all(&made).map_err(file_error("make", &made))).await?;
    if folder.join(MANIFEST).exists() {
        let folder = folder.display();
        return Err(ParquetError::Request(format!(
            "{folder} holds an export already: name another folder"
        )));
    }
    let mut files = Vec::new();
    let mut at = request.from;
    while at < request.to {
        let day_end = TimeMicros(at.0.div_euclid(DAY).saturating_add(1).saturating_mul(DAY));
        let until = day_end.min(request.to);
        files.extend(export_day(source, request, (at, until), folder).await?);
        at = until;
    }
    let gaps = source
        .gaps(&request.table, request.from, request.to, &request.scope)
        .await;
    let manifest = Manifest {
        version: VERSION,
        table: request.table.clone(),
        from: request.from,
        to: request.to,
        hosts: request.hosts.clone(),
        made_at: TimeMicros::now(),
        rows: files.iter().map(|file: &FileEntry| file.rows).sum(),
        files,
        gaps: gaps.map_err(|source| ParquetError::Source {
            table: "gaps".to_owned(),
            source,
        })?,
    };
    let (folder, written) = (folder.to_owned(), manifest.clone());
    blocking(move || put_manifest(&folder, &written)).await?;
    Ok(manifest)
}

/// The file of one day, or none when it has no rows.
async fn export_day(
    source: &dyn FactSource,
    request: &ParquetRequest,
    (from, to): (TimeMicros, TimeMicros),
    folder: &Path,
) -> Result<Option<FileEntry>, ParquetError> {
    let day = from.to_string();
    let name = format!("{}-{}.parquet", request.table, day.get(..10).unwrap_or("unknown"));
    let (partial, place) = (folder.join(format!(".{name}.partial")), folder.join(&name));
    let mut windows = Windows {
        source,
        request,
        at: from,
        until: to,
        window: WINDOW_FIRST,
    };
    let mut encoder: Option<Encoder<Digesting>> = None;
    while let Some(batches) = windows.next().await? {
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            continue;
        }
        let (begun, path, request) = (encoder.take(), partial.clone(), request.clone());
        let written = blocking(move || {
            let mut encoder = match begun {
                Some(encoder) => encoder,
                None => Encoder::new(&request, create(&path)?),
            };
            encoder.write(&batches)?;
            Ok(encoder)
        });
        encoder = Some(written.await?);
    }
    let Some(encoder) = encoder else { return Ok(None) };
    let entry = blocking(move || {
        let (rows, sink) = encoder.finish()?;
        let sink = sink.ok_or_else(|| ParquetError::Request("there was nothing to write to".to_owned()))?;
        put_in_place(sink, &partial, &place).map(|(bytes, sha256)| FileEntry {
            name,
            rows,
            bytes,
            sha256,
            from,
            to,
        })
    });
    Ok(Some(entry.await?))
}

fn create(path: &Path) -> Result<Digesting, ParquetError> {
    let file = std::fs::File::create(path).map_err(file_error("create", path))?;
    Ok(Digesting {
        file: std::io::BufWriter::new(file),
        digest: Sha256::new(),
        bytes: 0,
    })
}

fn put_in_place(sink: Digesting, partial: &Path, place: &Path) -> Result<(u64, String), ParquetError> {
    let file = sink.file.into_inner();
    let file = file.map_err(|error| file_error("write", partial)(error.into_error()))?;
    file.sync_all().map_err(file_error("sync", partial))?;
    std::fs::rename(partial, place).map_err(file_error("rename into place", place))?;
    sync_parent(place)?;
    Ok((sink.bytes, hex::encode(sink.digest.finalize())))
}

fn put_manifest(folder: &Path, manifest: &Manifest) -> Result<(), ParquetError> {
    let (partial, place) = (folder.join(".manifest.partial"), folder.join(MANIFEST));
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|error| file_error("encode", &place)(std::io::Error::other(error)))?;
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(&text)?;
        file.sync_all()
    };
    write().map_err(file_error("write", &partial))?;
    std::fs::rename(&partial, &place).map_err(file_error("rename into place", &place))?;
    sync_parent(&place)
}

fn sync_parent(path: &Path) -> Result<(), ParquetError> {
    let parent: PathBuf = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let synced = std::fs::File::open(&parent).and_then(|folder| folder.sync_all());
    synced.map_err(file_error("sync", &parent))
}

/// Pieces of a file for whoever reads them.
struct Pieces<E> {
    gathered: Vec<u8>,
    to: mpsc::Sender<Result<Bytes, E>>,
}

impl<E> Write for Pieces<E> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.gathered));
        let sent = self.to.blocking_send(Ok(piece));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))
    }
}

/// Writes what is wanted as one file, in pieces; says how many rows it has. A reader that is slow makes it wait, one
/// that goes away ends it.
///
/// # Errors
/// [`ParquetError`]; what was sent is then no whole file.
///
/// # Cancel safety
/// May be dropped; as after an error.
pub async fn export_to_stream<E: Send + 'static>(
    source: Arc<dyn FactSource>,
    request: ParquetRequest,
    to: mpsc::Sender<Result<Bytes, E>>,
) -> Result<u64, ParquetError> {
    request.check()?;
    let mut windows = Windows {
        source: source.as_ref(),
        request: &request,
        at: request.from,
        until: request.to,
        window: WINDOW_FIRST,
    };
    let sink = Pieces {
        gathered: Vec::new(),
        to: to.clone(),
    };
    let mut encoder = Encoder::new(&request, sink);
    while let Some(batches) = windows.next().await? {
        if to.is_closed() {
            return Err(ParquetError::Gone);
        }
        let written = blocking(move || {
            encoder.write(&batches)?;
            Ok(encoder)
        });
        encoder = written.await?;
    }
    blocking(move || {
        let (rows, sink) = encoder.finish()?;
        let flushed = sink.map_or(Ok(()), |mut sink| sink.flush());
        flushed.map_err(|_| ParquetError::Gone)?;
        Ok(rows)
    })
    .await
}
