//! The compressor of numbers (`pco`), told exactly what to do and held to it.
//!
//! What it is given to unpack comes from a disk: modes and differences that this store never writes are refused
//! before memory is taken for them, and so is anything but the count asked for.

use pco::data_types::Number;
use pco::metadata::DeltaEncoding;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

use super::codec::CodecError;

/// Beyond 8 a thousandth of the size costs half the speed.
const LEVEL: usize = 8;
/// Bytes of the version that the compressor writes first.
const VERSION_BYTES: usize = 2;
/// Ways of writing numbers up to this need no memory of their own.
const PLAIN_MODE_MAX: u8 = 3;

/// How numbers differ from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Integers of one spacing.
    Integers,
    /// Anything.
    Floats,
}

/// Packs numbers.
pub(crate) fn pack<T: Number>(numbers: &[T], kind: Kind, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mode = match kind {
        Kind::Integers => ModeSpec::Classic,
        Kind::Floats => ModeSpec::Auto,
    };
    let config = ChunkConfig::default()
        .with_compression_level(LEVEL)
        .with_mode_spec(mode)
        .with_delta_spec(DeltaSpec::TryConsecutive(1));
    let failed = |error: pco::errors::PcoError| CodecError::Pack {
        reason: error.to_string(),
    };
    let file = FileCompressor::default();
    file.write_header(&mut *out).map_err(failed)?;
    let mut chunk = file.chunk_compressor(numbers, &config).map_err(failed)?;
    chunk.write_meta(&mut *out).map_err(failed)?;
    chunk.write_page(0, &mut *out).map_err(failed)?;
    Ok(())
}

/// Unpacks exactly `count` numbers.
pub(crate) fn unpack<T: Number + Default>(bytes: &[u8], count: usize) -> Result<Vec<T>, CodecError> {
    let failed = |error: pco::errors::PcoError| CodecError::Unpack {
        reason: error.message,
    };
    let mode = bytes.get(VERSION_BYTES).map(|byte| byte & 0xf);
    if mode.is_none_or(|mode| mode > PLAIN_MODE_MAX) {
        return Err(CodecError::Foreign);
    }
    let (file, rest) = FileDecompressor::new(bytes).map_err(failed)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(failed)?;
    let is_plain = matches!(
        chunk.meta().delta_encoding,
        DeltaEncoding::NoOp | DeltaEncoding::Consecutive { .. }
    );
    if !is_plain {
        return Err(CodecError::Foreign);
    }
    let mut numbers = vec![T::default(); count];
    let mut page = chunk.page_decompressor(rest, count).map_err(failed)?;
    let progress = page.read(&mut numbers).map_err(failed)?;
    if progress.n_processed != count || !page.into_src().is_empty() {
        return Err(CodecError::Count);
    }
    Ok(numbers)
}
