//! One Parquet file while it is written.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{max, min};
use fleetmend_event::TimeMicros;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use sha2::{Digest as _, Sha256};

use super::DAY_MICROS;
use super::packing::properties;
use crate::catalogue::FileRow;
use crate::chunk::{Chunk, ChunkWriter, Extent};
use crate::clock::ClockAhead;
use crate::error::MaintenanceError;
use crate::label::{Label, Origins};
use crate::shape::{CLOCK_AHEAD, INGESTED_AT, SqlTable, TIME, typed};

/// A file that is being written, with the digest of what was written.
struct Hashed {
    file: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where a file goes, while it is written under another name.
struct Place {
    table: &'static SqlTable,
    day: i64,
    folder: PathBuf,
    name: String,
    origins: Arc<Origins>,
}

impl Place {
    fn begin(
        parquet_folder: &Path,
        table: &'static SqlTable,
        day: i64,
        origins: &Arc<Origins>,
    ) -> Result<(Self, Hashed), MaintenanceError> {
        let folder = parquet_folder.join(table.info.name);
        if !folder.exists() {
            fs::create_dir_all(&folder).map_err(io_error("make", &folder))?;
            // A file that is durable in a folder whose own name is not would go with it in a power cut.
            let synced = File::open(parquet_folder).and_then(|folder| folder.sync_all());
            synced.map_err(io_error("sync", parquet_folder))?;
        }
        let date = jiff::Timestamp::from_microsecond(day.saturating_mul(DAY_MICROS))
            .map(|time| time.strftime("%Y-%m-%d").to_string());
        let name = format!(
            "{}-{}.parquet",
            date.unwrap_or_else(|_| "unknown".to_owned()),
            uuid::Uuid::now_v7().simple()
        );
        let path = folder.join(&name).with_extension("tmp");
        let file = File::create(&path).map_err(io_error("make", &path))?;
        let place = Self {
            table,
            day,
            folder,
            name,
            origins: origins.clone(),
        };
        let file = Hashed {
            file: BufWriter::new(file),
            digest: Sha256::new(),
            bytes: 0,
        };
        Ok((place, file))
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join(&self.name).with_extension("tmp")
    }

    /// What the file says of itself, once everything but its footer is written.
    fn label(&self, body: &Hashed, extent: &Extent) -> Result<KeyValue, MaintenanceError> {
        let digest = hex::encode(body.digest.clone().finalize());
        let place = (self.table.info.name, self.day);
        let label = Label::new(&self.origins, place, extent, (body.bytes, digest));
        label
            .and_then(|label| label.to_pair())
            .map_err(io_error("label", &self.temporary()))
    }

    /// Makes the file durable under its name. A file without rows is deleted.
    fn finish(self, file: Hashed, extent: &Extent) -> Result<Option<FileRow>, MaintenanceError> {
        if extent.rows == 0 {
            return Ok(None);
        }
        let temporary = self.temporary();
        let path = self.folder.join(&self.name);
        let Hashed {
            file, digest, bytes, ..
        } = file;
        let file = file
            .into_inner()
            .map_err(|error| io_error("write", &temporary)(error.into_error()))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        let digest = hex::encode(digest.finalize());
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(io_error("sync", &self.folder))?;
        Ok(Some(FileRow {
            id: 0,
            path: format!("{}/{}", self.table.info.name, self.name),
            table: self.table.info.name.to_owned(),
            day: self.day,
            from: TimeMicros(extent.from),
            to: TimeMicros(extent.to),
            ingested_to: TimeMicros(extent.ingested_to),
            true_from: Some(extent.true_from),
            true_to: Some(extent.true_to),
            rows: extent.rows,
            chunks: extent.chunks,
            bytes,
            digest,
        }))
    }
}

impl Drop for Place {
    /// What was not finished goes: a step that fails on a full disk is tried again, and would fill it with its rests.
    fn drop(&mut self) {
        let temporary = self.temporary();
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %temporary.display(), %error, "cannot delete a file that was not finished");
        }
    }
}

/// A file of rows that is being written.
pub(crate) struct Part {
    place: Place,
    writer: ArrowWriter<Hashed>,
    extent: Extent,
}

impl Part {
    /// Begins a file of `table` in the folder of Parquet files.
    pub(crate) fn begin(
        parquet_folder: &Path,
        table: &'static SqlTable,
        day: i64,
        origins: &Arc<Origins>,
    ) -> Result<Self, MaintenanceError> {
        let (place, file) = Place::begin(parquet_folder, table, day, origins)?;
        Ok(Self {
            place,
            writer: ArrowWriter::try_new(file, table.schema.clone(), Some(properties(table)?))?,
            extent: Extent::default(),
        })
    }

    /// Adds sorted rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), MaintenanceError> {
        let times = typed::<TimestampMicrosecondArray>(batch, TIME)?;
        let ingested = typed::<TimestampMicrosecondArray>(batch, INGESTED_AT)?;
        let extent = &mut self.extent;
        extent.from = extent.from.min(min(times).unwrap_or(i64::MAX));
        extent.to = extent.to.max(max(times).unwrap_or(i64::MIN));
        extent.ingested_to = extent.ingested_to.max(max(ingested).unwrap_or(i64::MIN));
        let clocks = typed::<Int64Array>(batch, CLOCK_AHEAD)?;
        for ((time, taken), clock) in times.values().iter().zip(ingested.values()).zip(clocks) {
            let made = ClockAhead::from_micros(clock).true_time(TimeMicros(*time), TimeMicros(*taken));
            extent.true_from = extent.true_from.min(made);
            extent.true_to = extent.true_to.max(made);
        }
        extent.rows = extent.rows.saturating_add(batch.num_rows() as u64);
        self.writer.write(batch)?;
        Ok(())
    }

    /// Makes the file durable under its name. A file without rows is deleted.
    pub(crate) fn finish(mut self) -> Result<Option<FileRow>, MaintenanceError> {
        self.writer.flush()?;
        let synced = self.writer.sync();
        synced.map_err(io_error("write", &self.place.temporary()))?;
        let label = self.place.label(self.writer.inner(), &self.extent)?;
        self.writer.append_key_value_metadata(label);
        self.place.finish(self.writer.into_inner()?, &self.extent)
    }
}

/// A file of chunks that is being written.
pub(crate) struct ChunkPart {
    place: Place,
    writer: ChunkWriter<Hashed>,
}

impl ChunkPart {
    /// Begins a file of `table` in the folder of Parquet files.
    pub(crate) fn begin(
        parquet_folder: &Path,
        table: &'static SqlTable,
        day: i64,
        origins: &Arc<Origins>,
    ) -> Result<Self, MaintenanceError> {
        let (place, file) = Place::begin(parquet_folder, table, day, origins)?;
        Ok(Self {
            place,
            writer: ChunkWriter::begin(file)?,
        })
    }

    /// Adds a chunk.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Result<(), MaintenanceError> {
        Ok(self.writer.push(chunk)?)
    }

    /// Samples that were added.
    pub(crate) fn samples(&self) -> u64 {
        self.writer.extent().rows
    }

    /// Makes the file durable under its name. A file without chunks is deleted.
    pub(crate) fn finish(mut self) -> Result<Option<FileRow>, MaintenanceError> {
        self.writer.end_body()?;
        let label = self.place.label(self.writer.out(), self.writer.extent())?;
        let (file, extent) = self.writer.finish(label)?;
        self.place.finish(file, &extent)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MaintenanceError + use<> {
    let path = path.to_owned();
    move |source| MaintenanceError::Io { action, path, source }
}
