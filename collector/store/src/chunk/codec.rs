//! Times and values of a chunk as bytes; the head of `chunk.rs` is the specification.

mod integers;
mod times;
mod values;
mod varint;

#[cfg(test)]
mod tests;

pub(crate) use times::{decode_times, encode_times};
pub(crate) use values::{decode_values, encode_values};

/// Samples of one chunk at most; whatever claims more is damaged.
pub(crate) const CHUNK_SAMPLES_MAX: usize = 8 * 1024;
/// Fewer numbers are not worth the compressor's head: differences in whole bytes are shorter, and quicker.
const PACKED_MIN: usize = 100;

/// Bytes of a chunk that are none, or numbers that cannot be made such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The compressor refused.
    #[error("cannot compress numbers: {reason}")]
    Pack {
        /// Its reason.
        reason: String,
    },
    /// The compressor cannot read it.
    #[error("compressed numbers are damaged: {reason}")]
    Unpack {
        /// Its reason.
        reason: String,
    },
    /// Compressed in a way that this store does not write.
    #[error("numbers are compressed in a way that is never written")]
    Foreign,
    /// There are more or fewer numbers than the chunk's count.
    #[error("chunk holds another number of samples than it says")]
    Count,
    /// The bytes end early.
    #[error("bytes of a chunk end early")]
    Short,
    /// The first byte means nothing.
    #[error("bytes of a chunk begin with {tag}, which means nothing")]
    Tag {
        /// The byte.
        tag: u8,
    },
    /// The times are not those between which the chunk lies.
    #[error("times of a chunk do not rise between its ends")]
    Times,
}
