//! A batch as bytes: one Arrow IPC stream with one batch, compressed with zstd.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Largest body after decompression; a larger one is refused before it is decompressed in full.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// zstd level of bodies: level 3 costs about a third of the time of 6 for 3 % more bytes.
const ZSTD_LEVEL: i32 = 3;

/// A batch could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Arrow refused it.
    #[error("batch is not a valid Arrow IPC stream")]
    Arrow(#[from] ArrowError),
    /// zstd refused it.
    #[error("batch is not a valid zstd frame of at most {BODY_BYTES_MAX} bytes")]
    Zstd(#[source] std::io::Error),
    /// A stream must hold exactly one batch.
    #[error("body holds {found} batches where exactly one is expected")]
    Count {
        /// How many it holds, counted up to 2.
        found: usize,
    },
    /// The reader stopped on malformed bytes.
    #[error("body is malformed: the Arrow reader could not finish")]
    Malformed,
}

/// The body of a frame: `batch` as a compressed Arrow IPC stream.
///
/// # Errors
/// When Arrow or zstd refuses.
pub fn encode(batch: &RecordBatch) -> Result<Vec<u8>, BatchError> {
    let mut plain = Vec::with_capacity(batch.get_array_memory_size());
    let mut writer = StreamWriter::try_new(&mut plain, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(BatchError::Zstd)
}

/// The batch in a frame's body. Every buffer is validated; a malformed body never panics.
///
/// # Errors
/// [`BatchError`] says what is wrong with the bytes.
pub fn decode(body: &[u8]) -> Result<RecordBatch, BatchError> {
    let plain = zstd::bulk::decompress(body, BODY_BYTES_MAX).map_err(BatchError::Zstd)?;
    // arrow-ipc still has paths that panic on hostile lengths; they must not take a stream down with them.
    std::panic::catch_unwind(|| decode_plain(&plain)).unwrap_or(Err(BatchError::Malformed))
}

fn decode_plain(plain: &[u8]) -> Result<RecordBatch, BatchError> {
    let mut reader = StreamReader::try_new(std::io::Cursor::new(plain), None)?;
    let batch = reader.next().ok_or(BatchError::Count { found: 0 })??;
    match reader.next() {
        None => Ok(batch),
        Some(_) => Err(BatchError::Count { found: 2 }),
    }
}
