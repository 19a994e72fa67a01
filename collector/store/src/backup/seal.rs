//! Sealed files: objects, manifests and the list of what was pruned. This text is their specification.
//!
//! A head of 48 bytes, numbers little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `46 4D 42 01`: "FMB" and the version, 1 |
//! | 4 | 1 | flags: 1 the content is compressed with zstd, 2 it is encrypted |
//! | 5 | 3 | zero |
//! | 8 | 8 | length of the content, before compression |
//! | 16 | 32 | random salt of the file's own key; zero without encryption |
//!
//! The body is the content, compressed or not. With encryption it is cut into chunks of 256 KiB, the last one
//! shorter and perhaps empty, each sealed with AES-256-GCM and followed by its tag of 16 bytes. The nonce of a chunk is
//! seven zeros, its number from 0 as four bytes, big-endian, and 1 for the last chunk or else 0: chunks can be neither
//! exchanged nor left out, at the end neither. The head and the name of the file within the repository are
//! authenticated with every chunk, so that no sealed file can stand in another's place.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use sha2::{Digest, Sha256};

use super::key::BackupKey;

const MAGIC: [u8; 4] = [b'F', b'M', b'B', 1];
const COMPRESSED: u8 = 1;
const ENCRYPTED: u8 = 2;
const HEAD_BYTES: usize = 48;
const CHUNK_BYTES: usize = 256 << 10;
const TAG_BYTES: usize = 16;
const ZSTD_LEVEL: i32 = 3;

/// SHA-256 of a content.
pub(super) type ContentDigest = [u8; 32];

/// Whether to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Squeeze {
    /// It is compressed already.
    No,
    /// It may become smaller.
    Yes,
}

/// The digest of some bytes.
pub(super) fn digest_of(bytes: &[u8]) -> ContentDigest {
    Sha256::digest(bytes).into()
}

/// Seals `length` bytes of `content` as the file `name` into `out`; returns their digest.
///
/// # Errors
/// When reading or writing fails, or the content has another length.
pub(super) fn seal(
    (content, length): (&mut dyn Read, u64),
    name: &str,
    key: Option<&BackupKey>,
    squeeze: Squeeze,
    out: &mut dyn Write,
) -> io::Result<ContentDigest> {
    let mut head = [0; HEAD_BYTES];
    put(&mut head, 0, &MAGIC);
    let compressed = if squeeze == Squeeze::Yes { COMPRESSED } else { 0 };
    let encrypted = if key.is_some() { ENCRYPTED } else { 0 };
    put(&mut head, 4, &[compressed | encrypted]);
    put(&mut head, 8, &length.to_le_bytes());
    let mut salt = [0; 32];
    if key.is_some() {
        rand::Rng::fill(&mut rand::rngs::ThreadRng::default(), &mut salt);
        put(&mut head, 16, &salt);
    }
    out.write_all(&head)?;
    let mut hashed = Hashed {
        inner: content.take(length.saturating_add(1)),
        hasher: Sha256::new(),
        bytes: 0,
    };
    let mut body: Box<dyn Read + '_> = match squeeze {
        Squeeze::Yes => Box::new(zstd::stream::read::Encoder::new(&mut hashed, ZSTD_LEVEL)?),
        Squeeze::No => Box::new(&mut hashed),
    };
    match key {
        Some(key) => {
            let key = key.of_file(&salt).ok_or_else(|| io::Error::other("no key"))?;
            seal_chunks(&mut body, &Seal { key, head, name }, out)?;
        }
        None => {
            io::copy(&mut body, out)?;
        }
    }
    drop(body);
    if hashed.bytes != length {
        let reason = format!("{} bytes instead of {length}", hashed.bytes);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(hashed.hasher.finalize().into())
}

/// Writes the content of the sealed file `name` to `out` and returns its digest and length. Nothing that was not
/// authenticated is written, and never more than `most` bytes.
///
/// # Errors
/// Of kind `InvalidData` when the file is not what was sealed under that name with that key.
pub(super) fn open(
    sealed: &mut dyn Read,
    name: &str,
    key: Option<&BackupKey>,
    most: u64,
    out: &mut dyn Write,
) -> io::Result<(ContentDigest, u64)> {
    let mut head = [0; HEAD_BYTES];
    sealed.read_exact(&mut head).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            bad("it ends within its head")
        } else {
            error
        }
    })?;
    if head.first_chunk() != Some(&MAGIC) {
        return Err(bad("it does not begin as a sealed file of version 1"));
    }
    let flags = head.get(4).copied().unwrap_or(0);
    let length = head
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    if length > most {
        return Err(bad(&format!("it claims {length} bytes, {most} are the most")));
    }
    if (flags & ENCRYPTED > 0) != key.is_some() || flags > (COMPRESSED | ENCRYPTED) {
        return Err(bad("it is encrypted and should not be, or the other way round"));
    }
    let mut sink = Bounded {
        inner: out,
        hasher: Sha256::new(),
        left: length,
    };
    let opened = if flags & COMPRESSED > 0 {
        let mut decoder = zstd::stream::write::Decoder::new(&mut sink)?;
        open_body(sealed, name, key, head, &mut decoder).and_then(|()| decoder.flush())
    } else {
        open_body(sealed, name, key, head, &mut sink)
    };
    opened?;
    if sink.left > 0 {
        return Err(bad(&format!("{} bytes of its content are missing", sink.left)));
    }
    Ok((sink.hasher.finalize().into(), length))
}

fn open_body(
    sealed: &mut dyn Read,
    name: &str,
    key: Option<&BackupKey>,
    head: [u8; HEAD_BYTES],
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(key) = key else {
        return io::copy(sealed, out).map(|_| ());
    };
    let salt = head.last_chunk().copied().unwrap_or([0; 32]);
    let key = key.of_file(&salt).ok_or_else(|| io::Error::other("no key"))?;
    open_chunks(sealed, &Seal { key, head, name }, out)
}

struct Seal<'a> {
    key: LessSafeKey,
    head: [u8; HEAD_BYTES],
    name: &'a str,
}

impl Seal<'_> {
    fn associated(&self) -> Aad<Vec<u8>> {
        let mut bytes = self.head.to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        Aad::from(bytes)
    }
}

fn nonce(number: u32, is_last: bool) -> Nonce {
    let mut bytes = [0; 12];
    put(&mut bytes, 7, &number.to_be_bytes());
    put(&mut bytes, 11, &[u8::from(is_last)]);
    Nonce::assume_unique_for_key(bytes)
}

fn seal_chunks(body: &mut dyn Read, seal: &Seal<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (mut chunk, mut next) = (Vec::new(), Vec::new());
    fill(body, CHUNK_BYTES, &mut chunk)?;
    for number in 0.. {
        fill(body, CHUNK_BYTES, &mut next)?;
        let is_last = next.is_empty();
        seal.key
            .seal_in_place_append_tag(nonce(number, is_last), seal.associated(), &mut chunk)
            .map_err(|_| io::Error::other("cannot encrypt"))?;
        out.write_all(&chunk)?;
        if is_last {
            return Ok(());
        }
        std::mem::swap(&mut chunk, &mut next);
    }
    Err(io::Error::other("content is too long"))
}

fn open_chunks(sealed: &mut dyn Read, seal: &Seal<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (mut chunk, mut next) = (Vec::new(), Vec::new());
    fill(sealed, CHUNK_BYTES + TAG_BYTES, &mut chunk)?;
    for number in 0.. {
        fill(sealed, CHUNK_BYTES + TAG_BYTES, &mut next)?;
        let is_last = next.is_empty();
        let plain = seal
            .key
            .open_in_place(nonce(number, is_last), seal.associated(), &mut chunk)
            .map_err(|_| bad("it was changed, cut or exchanged, or sealed with another key"))?;
        out.write_all(plain)?;
        if is_last {
            return Ok(());
        }
        std::mem::swap(&mut chunk, &mut next);
    }
    Err(bad("it is too long"))
}

/// Reads `bytes` bytes, fewer only at the end.
fn fill(from: &mut dyn Read, bytes: usize, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    from.take(bytes as u64).read_to_end(into).map(|_| ())
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in into.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.bytes = self.bytes.saturating_add(count as u64);
        Ok(count)
    }
}

/// Hashes what is written, and takes no more than it was told of.
struct Bounded<'a> {
    inner: &'a mut dyn Write,
    hasher: Sha256,
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(buffer.len() as u64)
            .ok_or_else(|| bad("it holds more than it claims"))?;
        self.hasher.update(buffer);
        self.inner.write_all(buffer)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
