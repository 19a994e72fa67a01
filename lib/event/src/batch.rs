//! A batch as bytes: one Arrow IPC stream with one batch, compressed with zstd and a dictionary that is part of the
//! build; without one it is read as well.
//!
//! A body comes from outside. Nothing in it decides how much memory is taken before it is compared with what is
//! there: the zstd frame is decompressed into no more than it states, the stream's lengths are checked before the
//! reader believes them, and buffers that are compressed once more or that lie over each other are refused. So a
//! body costs at most about twice [`plain_bytes_max`] while it is decoded, and once as much after.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use zstd::dict::{DecoderDictionary, EncoderDictionary};

/// Largest body after decompression; a larger one is refused before it is decompressed in full.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// zstd level of bodies: of an agent's own, with the dictionary, level 3 takes half as much time again for events and
/// twice the time for samples, and saves a twentieth of the bytes.
const ZSTD_LEVEL: i32 = 1;

/// What bodies of all hosts have in common: schemas, names of series, words of events. A small batch is mostly
/// that. Its number stands in the head of every body, so a later one can be added beside it; this one is never
/// changed. Made by `models/pipeline/dictionary.py` from made-up hosts.
const DICTIONARY: &[u8] = include_bytes!("batch/bodies-1.zdict");

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, ZSTD_LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

/// Compressors that wait to be used again: the tables of one are as large as a small batch.
static COMPRESSORS: Mutex<Vec<zstd::bulk::Compressor<'static>>> = Mutex::new(Vec::new());
/// Most that wait. Threads that compress at the same time make one each, and these are freed again.
const COMPRESSORS_MAX: usize = 4;

/// A batch could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Arrow refused it.
    #[error("batch is not a valid Arrow IPC stream")]
    Arrow(#[from] ArrowError),
    /// zstd refused it.
    #[error("batch is not a valid zstd frame of at most {BODY_BYTES_MAX} bytes")]
    Zstd(#[source] std::io::Error),
    /// It was compressed with a dictionary that this build does not have.
    #[error(
        "body needs dictionary {id}, which this version does not have: upgrade the collector before its agents"
    )]
    Dictionary {
        /// The dictionary's number.
        id: u32,
    },
    /// A stream must hold exactly one batch.
    #[error("body holds {found} batches where exactly one is expected")]
    Count {
        /// How many it holds, counted up to 2.
        found: usize,
    },
    /// The reader stopped on malformed bytes.
    #[error("body is malformed: the Arrow reader could not finish")]
    Malformed,
    /// Its lengths claim more than there is.
    #[error("body is no plain Arrow IPC stream: {reason}")]
    Layout {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// `batch` as an Arrow IPC stream that is not compressed: what the dictionary is trained on.
///
/// # Errors
/// When Arrow refuses.
pub fn plain(batch: &RecordBatch) -> Result<Vec<u8>, BatchError> {
    let mut plain = Vec::with_capacity(batch.get_array_memory_size());
    let mut writer = StreamWriter::try_new(&mut plain, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(plain)
}

/// The body of a frame: `batch` as a compressed Arrow IPC stream.
///
/// # Errors
/// When Arrow or zstd refuses.
pub fn encode(batch: &RecordBatch) -> Result<Vec<u8>, BatchError> {
    compress(&plain(batch)?)
}

/// The body whose bytes before compression are `plain`.
pub(crate) fn compress(plain: &[u8]) -> Result<Vec<u8>, BatchError> {
    let kept = waiting().pop();
    let mut compressor = match kept {
        Some(compressor) => compressor,
        None => zstd::bulk::Compressor::with_prepared_dictionary(&ENCODER).map_err(BatchError::Zstd)?,
    };
    let compressed = compressor.compress(plain).map_err(BatchError::Zstd)?;
    keep(compressor);
    Ok(compressed)
}

fn waiting() -> MutexGuard<'static, Vec<zstd::bulk::Compressor<'static>>> {
    COMPRESSORS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(compressor: zstd::bulk::Compressor<'static>) {
    let mut waiting = waiting();
    if waiting.len() < COMPRESSORS_MAX {
        waiting.push(compressor);
    }
}

/// The number of the dictionary that a body needs and this build does not have. Such a body is whole, but only a
/// newer build can read it: who stores it may not take it for damaged.
pub fn missing_dictionary(body: &[u8]) -> Option<u32> {
    let needed = zstd::zstd_safe::get_dict_id_from_frame(body)?;
    let had = zstd::zstd_safe::get_dict_id_from_dict(DICTIONARY);
    (Some(needed) != had).then(|| needed.get())
}

/// The bytes of a body before compression, at most [`plain_bytes_max`]: what it holds, however it was compressed.
///
/// # Errors
/// When it is no zstd frame, a longer one, or needs a dictionary that this build does not have.
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, BatchError> {
    let bytes_max = plain_bytes_max(body);
    if let Some(id) = missing_dictionary(body) {
        return Err(BatchError::Dictionary { id });
    }
    // Reads bodies without a dictionary too.
    zstd::bulk::Decompressor::with_prepared_dictionary(&DECODER)
        .and_then(|mut decompressor| decompressor.decompress(body, bytes_max))
        .map_err(BatchError::Zstd)
}

/// Bytes that a body takes at most once it is decompressed, by what it states; [`decode`] refuses more.
pub fn plain_bytes_max(body: &[u8]) -> usize {
    let stated = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
    stated
        .and_then(|bytes| usize::try_from(bytes).ok())
        .map_or(BODY_BYTES_MAX, |bytes| bytes.min(BODY_BYTES_MAX))
}

/// The batch in a frame's body. Every buffer is validated; a malformed body never panics.
///
/// # Errors
/// [`BatchError`] says what is wrong with the bytes.
pub fn decode(body: &[u8]) -> Result<RecordBatch, BatchError> {
    decode_plain(&decompress(body)?)
}

/// The batch in the bytes of a body before compression; as [`decode`].
///
/// # Errors
/// [`BatchError`] says what is wrong with the bytes.
pub fn decode_plain(plain: &[u8]) -> Result<RecordBatch, BatchError> {
    check_lengths(plain)?;
    // arrow-ipc still has paths that panic on hostile lengths; they must not take a stream down with them.
    std::panic::catch_unwind(|| read_plain(plain)).unwrap_or(Err(BatchError::Malformed))
}

fn read_plain(plain: &[u8]) -> Result<RecordBatch, BatchError> {
    let mut reader = StreamReader::try_new(std::io::Cursor::new(plain), None)?;
    let batch = reader.next().ok_or(BatchError::Count { found: 0 })??;
    match reader.next() {
        None => Ok(batch),
        Some(_) => Err(BatchError::Count { found: 2 }),
    }
}

/// Walks the messages of an IPC stream as the reader will. The reader allocates what a message claims before it
/// looks for the bytes, and an allocation that fails ends the process.
fn check_lengths(plain: &[u8]) -> Result<(), BatchError> {
    let layout = |reason| BatchError::Layout { reason };
    let mut rest = plain;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let (length, tail) = match head {
            [0xff, 0xff, 0xff, 0xff] => tail.split_first_chunk::<4>().ok_or(BatchError::Malformed)?,
            _ => (head, tail),
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 {
            break;
        }
        let (metadata, tail) = tail
            .split_at_checked(length)
            .ok_or(layout("a message is cut short"))?;
        let message = arrow::ipc::root_as_message(metadata).map_err(|_| layout("a message is none"))?;
        let body = usize::try_from(message.bodyLength()).ok();
        let (body, tail) = body
            .and_then(|bytes| tail.split_at_checked(bytes))
            .ok_or(layout("a message's body is cut short"))?;
        let dictionary = message.header_as_dictionary_batch();
        let batch = message
            .header_as_record_batch()
            .or_else(|| dictionary.and_then(|dictionary| dictionary.data()));
        if let Some(batch) = batch {
            if batch.compression().is_some() {
                return Err(layout("its buffers are compressed once more"));
            }
            let buffers = batch.buffers().into_iter().flatten();
            let claimed = buffers
                .map(|buffer| u64::try_from(buffer.length()).unwrap_or(u64::MAX))
                .fold(0, u64::saturating_add);
            if claimed > body.len() as u64 {
                return Err(layout("its buffers lie over each other"));
            }
        }
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; rows]));
        RecordBatch::try_from_iter([("zero", zeros)]).unwrap()
    }

    #[test]
    fn a_compressor_that_is_used_again_gives_the_same_bytes_and_few_are_kept() {
        let texts: Vec<Vec<u8>> = (0..64u8)
            .map(|byte| vec![byte; 1_000 * usize::from(byte)])
            .collect();
        let first: Vec<Vec<u8>> = texts.iter().map(|text| compress(text).unwrap()).collect();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for (text, first) in texts.iter().zip(&first) {
                        assert_eq!(compress(text).unwrap(), *first);
                    }
                });
            }
        });
        for _ in 0..2 * COMPRESSORS_MAX {
            keep(zstd::bulk::Compressor::with_prepared_dictionary(&ENCODER).unwrap());
        }
        assert_eq!(waiting().len(), COMPRESSORS_MAX);
    }

    #[test]
    fn body_states_what_it_takes_and_takes_no_more() {
        let body = encode(&batch(100_000)).unwrap();
        let stated = plain_bytes_max(&body);
        assert!(
            (800_000..900_000).contains(&stated) && body.len() < 1_000,
            "{stated}"
        );
        assert_eq!(decode(&body).unwrap().num_rows(), 100_000);
        // A second zstd frame behind the first would be decompressed with it.
        let twice = [body.clone(), body].concat();
        assert!(matches!(decode(&twice), Err(BatchError::Zstd(_))));
        assert_eq!(plain_bytes_max(b"not zstd"), BODY_BYTES_MAX);
    }

    #[test]
    fn body_is_read_with_the_dictionary_it_names_and_with_none() {
        let rows = batch(10);
        let body = encode(&rows).unwrap();
        assert_eq!(
            zstd::zstd_safe::get_dict_id_from_frame(&body).map(u32::from),
            Some(40_001)
        );
        assert_eq!(decode(&body).unwrap(), rows);
        let without = zstd::bulk::compress(&plain(&rows).unwrap(), ZSTD_LEVEL).unwrap();
        assert_eq!(decode(&without).unwrap(), rows);
        // The number stands behind magic and descriptor.
        let mut foreign = body;
        let at = foreign
            .windows(2)
            .position(|bytes| bytes == 40_001_u16.to_le_bytes())
            .unwrap();
        foreign[at] ^= 1;
        assert!(matches!(
            decode(&foreign),
            Err(BatchError::Dictionary { id: 40_000 })
        ));
    }

    #[test]
    fn buffers_compressed_within_the_stream_are_refused() {
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(CompressionType::ZSTD))
            .unwrap();
        let mut plain = Vec::new();
        let rows = batch(100_000);
        let mut writer = StreamWriter::try_new_with_options(&mut plain, &rows.schema(), options).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        let body = zstd::bulk::compress(&plain, ZSTD_LEVEL).unwrap();
        assert!(matches!(decode(&body), Err(BatchError::Layout { .. })));
    }

    #[test]
    fn claimed_length_is_not_believed() {
        let mut plain = Vec::new();
        let rows = batch(1_000);
        let mut writer = StreamWriter::try_new(&mut plain, &rows.schema()).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        // The length of the batch's body stands in its message; a reader that trusts it asks for an exabyte.
        let claims: Vec<usize> = (0..plain.len() - 8)
            .filter(|at| plain[*at..*at + 8] == 8_000_i64.to_le_bytes())
            .collect();
        assert!(!claims.is_empty(), "the body's length is not found");
        for at in claims {
            plain[at..at + 8].copy_from_slice(&(1_i64 << 60).to_le_bytes());
        }
        let body = zstd::bulk::compress(&plain, ZSTD_LEVEL).unwrap();
        assert!(matches!(decode(&body), Err(BatchError::Layout { .. })));
    }
}
