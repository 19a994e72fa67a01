//! One Parquet file while it is written.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow::array::{Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::{max, min};
use fleetmend_event::TimeMicros;
use parquet::arrow::ArrowWriter;

use super::DAY_MICROS;
use super::packing::properties;
use crate::catalogue::FileRow;
use crate::clock::ClockAhead;
use crate::error::MaintenanceError;
use crate::shape::{CLOCK_AHEAD, INGESTED_AT, SqlTable, TIME, typed};
use crate::view::digest_of;

/// A file that is being written under another name.
pub(crate) struct Part {
    table: &'static SqlTable,
    day: i64,
    folder: PathBuf,
    name: String,
    writer: ArrowWriter<BufWriter<File>>,
    rows: u64,
    from: i64,
    to: i64,
    ingested_to: i64,
    true_from: TimeMicros,
    true_to: TimeMicros,
}

impl Part {
    /// Begins a file of `table` in the folder of Parquet files.
    pub(crate) fn begin(
        parquet_folder: &Path,
        table: &'static SqlTable,
        day: i64,
    ) -> Result<Self, MaintenanceError> {
        let folder = parquet_folder.join(table.info.name);
        fs::create_dir_all(&folder).map_err(io_error("make", &folder))?;
        let date = jiff::Timestamp::from_microsecond(day.saturating_mul(DAY_MICROS))
            .map(|time| time.strftime("%Y-%m-%d").to_string());
        let name = format!(
            "{}-{}.parquet",
            date.unwrap_or_else(|_| "unknown".to_owned()),
            uuid::Uuid::now_v7().simple()
        );
        let path = folder.join(&name).with_extension("tmp");
        let file = File::create(&path).map_err(io_error("make", &path))?;
        let writer = ArrowWriter::try_new(
            BufWriter::new(file),
            table.schema.clone(),
            Some(properties(table)?),
        )?;
        Ok(Self {
            table,
            day,
            folder,
            name,
            writer,
            rows: 0,
            from: i64::MAX,
            to: i64::MIN,
            ingested_to: i64::MIN,
            true_from: TimeMicros(i64::MAX),
            true_to: TimeMicros(i64::MIN),
        })
    }

    /// Adds sorted rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), MaintenanceError> {
        let times = typed::<TimestampMicrosecondArray>(batch, TIME)?;
        let ingested = typed::<TimestampMicrosecondArray>(batch, INGESTED_AT)?;
        self.from = self.from.min(min(times).unwrap_or(i64::MAX));
        self.to = self.to.max(max(times).unwrap_or(i64::MIN));
        self.ingested_to = self.ingested_to.max(max(ingested).unwrap_or(i64::MIN));
        let clocks = typed::<Int64Array>(batch, CLOCK_AHEAD)?;
        for ((time, taken), clock) in times.values().iter().zip(ingested.values()).zip(clocks) {
            let made = ClockAhead::from_micros(clock).true_time(TimeMicros(*time), TimeMicros(*taken));
            self.true_from = self.true_from.min(made);
            self.true_to = self.true_to.max(made);
        }
        self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        self.writer.write(batch)?;
        Ok(())
    }

    /// Makes the file durable under its name. A file without rows is deleted.
    pub(crate) fn finish(self) -> Result<Option<FileRow>, MaintenanceError> {
        let path = self.folder.join(&self.name);
        let temporary = path.with_extension("tmp");
        let file = self.writer.into_inner()?;
        if self.rows == 0 {
            fs::remove_file(&temporary).map_err(io_error("delete", &temporary))?;
            return Ok(None);
        }
        let file = file
            .into_inner()
            .map_err(|error| io_error("write", &temporary)(error.into_error()))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        let bytes = file.metadata().map_err(io_error("measure", &temporary))?.len();
        let digest = digest_of(&temporary).map_err(io_error("read", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(io_error("sync", &self.folder))?;
        Ok(Some(FileRow {
            id: 0,
            path: format!("{}/{}", self.table.info.name, self.name),
            table: self.table.info.name.to_owned(),
            day: self.day,
            from: TimeMicros(self.from),
            to: TimeMicros(self.to),
            ingested_to: TimeMicros(self.ingested_to),
            true_from: Some(self.true_from),
            true_to: Some(self.true_to),
            rows: self.rows,
            bytes,
            digest,
        }))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MaintenanceError + use<> {
    let path = path.to_owned();
    move |source| MaintenanceError::Io { action, path, source }
}
