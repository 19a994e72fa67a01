//! The payload of a DATA object, as it was before it was compressed; bounded whatever it claims to be.

use std::io::Read as _;

use super::file::JournalError;

/// Flags of a DATA object.
const XZ: u8 = 1;
const LZ4: u8 = 1 << 1;
const ZSTD: u8 = 1 << 2;

/// Most bytes of a payload that are read from the file.
pub(super) const STORED_BYTES_MAX: u64 = 256 * 1024;
/// Most bytes that a payload may have when it is not compressed any more; the rest is cut off.
const PLAIN_BYTES_MAX: usize = 256 * 1024;
/// Window of zstd frames, as a power of two; journald writes 2 MiB at most.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A payload in the clear, and whether it was cut.
pub(super) fn plain(stored: Vec<u8>, flags: u8, cut: bool) -> Result<(Vec<u8>, bool), JournalError> {
    match flags & (XZ | LZ4 | ZSTD) {
        0 => Ok((stored, cut)),
        ZSTD => zstd(&stored, cut),
        LZ4 => lz4(&stored, cut),
        XZ => Err(JournalError::Compressed("XZ, which is not read")),
        _ => Err(JournalError::Compressed("more than one way")),
    }
}

fn zstd(stored: &[u8], cut: bool) -> Result<(Vec<u8>, bool), JournalError> {
    let fault = |_| JournalError::Compressed("a zstd frame that is damaged");
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(fault)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(fault)?;
    let mut plain = Vec::new();
    let read = decoder.take(PLAIN_BYTES_MAX as u64 + 1).read_to_end(&mut plain);
    // Of a frame that was not read to its end, what came out is right.
    if read.is_err() && (!cut || plain.is_empty()) {
        return Err(JournalError::Compressed("a zstd frame that is damaged"));
    }
    let longer = plain.len() > PLAIN_BYTES_MAX;
    plain.truncate(PLAIN_BYTES_MAX);
    Ok((plain, cut || longer))
}

/// An LZ4 block behind its length in the clear. The decoder is our own: it is short, and the crate that the workspace
/// has is built without its checks.
fn lz4(stored: &[u8], cut: bool) -> Result<(Vec<u8>, bool), JournalError> {
    let damaged = || JournalError::Compressed("an LZ4 block that is damaged");
    let mut block = stored.get(8..).ok_or_else(damaged)?;
    let mut plain = Vec::new();
    while let Some((token, rest)) = block.split_first() {
        block = rest;
        let literals = lz4_length(token >> 4, &mut block);
        let part = literals.and_then(|length| block.split_at_checked(length));
        let Some((part, rest)) = part else {
            // Of a block that was not read to its end, what came out is right.
            return if cut && !plain.is_empty() {
                Ok((plain, true))
            } else {
                Err(damaged())
            };
        };
        plain.extend_from_slice(part);
        block = rest;
        if block.is_empty() || plain.len() >= PLAIN_BYTES_MAX {
            break;
        }
        let copy = block.split_at_checked(2).and_then(|(distance, rest)| {
            block = rest;
            let distance = usize::from(u16::from_le_bytes(distance.try_into().ok()?));
            Some((distance, lz4_length(token & 15, &mut block)?.checked_add(4)?))
        });
        let Some((distance, length)) = copy else {
            return if cut { Ok((plain, true)) } else { Err(damaged()) };
        };
        if distance == 0 || distance > plain.len() {
            return Err(damaged());
        }
        let from = plain.len() - distance;
        for at in from..from.saturating_add(length.min(PLAIN_BYTES_MAX)) {
            let byte = plain.get(at).copied().ok_or_else(damaged)?;
            plain.push(byte);
        }
    }
    let longer = plain.len() > PLAIN_BYTES_MAX || !block.is_empty();
    plain.truncate(PLAIN_BYTES_MAX);
    Ok((plain, cut || longer))
}

/// A length: four bits, and bytes that are added while they are 255.
fn lz4_length(bits: u8, block: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(bits);
    if bits == 15 {
        loop {
            let (byte, rest) = block.split_first()?;
            *block = rest;
            length = length.checked_add(usize::from(*byte))?;
            if *byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "abcabcabc…": three literals and a copy of `length` bytes from three before.
    fn block(length: usize) -> Vec<u8> {
        let mut bytes = u64::try_from(3 + length).unwrap().to_le_bytes().to_vec();
        bytes.push(0x3f);
        bytes.extend(b"abc");
        bytes.extend([3, 0]);
        let mut left = length - 4 - 15;
        while left >= 255 {
            bytes.push(255);
            left -= 255;
        }
        bytes.push(u8::try_from(left).unwrap());
        bytes.push(0x50);
        bytes.extend(b"defgh");
        bytes
    }

    #[test]
    fn lz4_block_is_what_it_was() {
        let (plain, cut) = plain(block(3_000), LZ4, false).unwrap();
        assert_eq!(plain.len(), 3_008);
        assert!(plain.starts_with(b"abcabcabca") && plain.ends_with(b"defgh") && !cut);
    }

    #[test]
    fn lz4_block_that_lies_ends_within_bounds() {
        let long = plain(block(10_000_000), LZ4, false).unwrap();
        assert_eq!((long.0.len(), long.1), (PLAIN_BYTES_MAX, true));
        let whole = block(3_000);
        for end in 0..whole.len() - 6 {
            let part = whole[..end].to_vec();
            assert!(
                plain(part.clone(), LZ4, false).map_or(true, |(plain, _)| plain.len() < 3_008),
                "{end}"
            );
            assert!(plain(part, LZ4, true).map_or(true, |(_, cut)| cut), "{end}");
        }
        assert!(plain(vec![0; 9], LZ4, false).is_ok_and(|(plain, _)| plain.is_empty()));
        assert!(
            plain(b"12345678\x10a\x09\x00\x00".to_vec(), LZ4, false).is_err(),
            "before its beginning"
        );
    }

    #[test]
    fn zstd_frame_is_cut_at_the_bound_and_xz_is_refused() {
        let bomb = zstd::encode_all(vec![b'a'; 10_000_000].as_slice(), 3).unwrap();
        let (plain_bomb, cut) = plain(bomb, ZSTD, false).unwrap();
        assert_eq!((plain_bomb.len(), cut), (PLAIN_BYTES_MAX, true));
        assert!(plain(b"no frame".to_vec(), ZSTD, false).is_err());
        assert!(
            plain(Vec::new(), XZ, false)
                .unwrap_err()
                .to_string()
                .contains("XZ")
        );
    }
}
