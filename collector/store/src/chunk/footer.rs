//! Footers of Parquet files, parsed once and kept while they are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

use crate::view::ParquetFile;

/// Bytes of parsed footers kept in memory; the one asked for longest ago goes first.
const FOOTERS_BYTES_MAX: usize = 32 << 20;

/// A file could not be read. Whether it is damaged its digest says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be opened or looked at.
    #[error("cannot open a Parquet file")]
    Io(#[from] io::Error),
    /// It cannot be decoded.
    #[error("cannot read a Parquet file")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Its rows cannot be decoded.
    #[error("cannot read rows of a Parquet file")]
    Arrow(#[from] arrow::error::ArrowError),
    /// Its samples cannot be decoded.
    #[error("cannot read a chunk of a Parquet file")]
    Chunk(#[from] super::codec::CodecError),
    /// Its rows are not what they should be.
    #[error("a Parquet file of metrics holds {what}")]
    Shape {
        /// What it holds.
        what: String,
    },
}

impl FileError {
    /// Rows that are not what they should be.
    pub(crate) fn shape(what: impl Into<String>) -> Self {
        Self::Shape { what: what.into() }
    }
}

/// A Parquet file that is open, with its footer.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    metadata: ArrowReaderMetadata,
}

impl OpenFile {
    /// The footer.
    pub(crate) fn metadata(&self) -> &Arc<ParquetMetaData> {
        self.metadata.metadata()
    }

    /// Some columns of rows of one row group, `batch_rows` at once; all rows when `selection` is none.
    pub(crate) fn read(
        &self,
        group: usize,
        columns: &[&str],
        selection: Option<RowSelection>,
        batch_rows: usize,
    ) -> Result<ParquetRecordBatchReader, FileError> {
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.metadata.clone());
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let mut builder = builder
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(batch_rows);
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        Ok(builder.build()?)
    }

    /// As [`Self::read`], all of it.
    pub(crate) fn read_all(
        &self,
        group: usize,
        columns: &[&str],
        selection: Option<RowSelection>,
    ) -> Result<Vec<RecordBatch>, FileError> {
        let batches = self.read(group, columns, selection, 64 * 1024)?;
        Ok(batches.collect::<Result<Vec<_>, _>>()?)
    }
}

/// Parsed footers by the number of their file.
#[derive(Debug, Default)]
pub(crate) struct Footers {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    footers: HashMap<i64, Footer>,
    bytes: usize,
    /// Rises with every use.
    turn: u64,
}

#[derive(Debug)]
struct Footer {
    metadata: ArrowReaderMetadata,
    bytes: usize,
    used: u64,
}

impl Footers {
    /// Opens a file; its footer is read when it is not at hand. A file never changes under its number.
    pub(crate) fn open(&self, file: &ParquetFile) -> Result<OpenFile, FileError> {
        let opened = File::open(&file.path)?;
        if let Some(metadata) = self.held.lock().get(file.id) {
            return Ok(OpenFile {
                file: opened,
                metadata,
            });
        }
        let options = ArrowReaderOptions::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&opened, options)?;
        self.held.lock().keep(file.id, metadata.clone());
        Ok(OpenFile {
            file: opened,
            metadata,
        })
    }
}

impl Held {
    fn get(&mut self, id: i64) -> Option<ArrowReaderMetadata> {
        self.turn = self.turn.saturating_add(1);
        let footer = self.footers.get_mut(&id)?;
        footer.used = self.turn;
        Some(footer.metadata.clone())
    }

    fn keep(&mut self, id: i64, metadata: ArrowReaderMetadata) {
        let bytes = metadata.metadata().memory_size();
        let footer = Footer {
            metadata,
            bytes,
            used: self.turn,
        };
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(former) = self.footers.insert(id, footer) {
            self.bytes = self.bytes.saturating_sub(former.bytes);
        }
        while self.bytes > FOOTERS_BYTES_MAX && self.footers.len() > 1 {
            let oldest = self.footers.iter().min_by_key(|(_, footer)| footer.used);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                return;
            };
            if let Some(gone) = self.footers.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(gone.bytes);
            }
        }
    }
}
