//! Whether a program file looks packed: compressed or encrypted, with a small loader before it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Bytes of the beginning that are read for marks.
const HEAD_BYTES: usize = 4_096;
/// Bytes of the middle whose disorder is measured.
const SAMPLE_BYTES: usize = 64 * 1024;
/// Machine code has 5 to 6.5 bits a byte, what is compressed nearly 8.
const PACKED_BITS: f64 = 7.4;
/// Where the number of section headers stands in a 64-bit ELF file.
const SECTION_COUNT_AT: usize = 60;

/// Why the file looks packed; `None` when it does not, or is no 64-bit ELF file.
pub(super) fn packed(mut file: File, bytes: u64) -> Option<String> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.by_ref()
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .ok()?;
    if !head.starts_with(b"\x7fELF\x02") {
        return None;
    }
    if head.windows(4).any(|window| window == b"UPX!") {
        return Some("it carries UPX's mark".to_owned());
    }
    // Packers leave no sections; neither do few others.
    let sections = head.get(SECTION_COUNT_AT..SECTION_COUNT_AT + 2)?;
    if sections != [0, 0] || bytes < SAMPLE_BYTES as u64 {
        return None;
    }
    file.seek(SeekFrom::Start(bytes / 4)).ok()?;
    let mut sample = Vec::with_capacity(SAMPLE_BYTES);
    file.take(SAMPLE_BYTES as u64).read_to_end(&mut sample).ok()?;
    let bits = bits_a_byte(&sample);
    (bits >= PACKED_BITS).then(|| format!("it has no sections, and {bits:.1} bits of disorder a byte"))
}

/// Shannon's entropy of the bytes.
fn bits_a_byte(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let total = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX).max(1));
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| f64::from(*count) / total)
        .map(|share| -share * share.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn judged(content: &[u8]) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        packed(file, content.len() as u64)
    }

    fn elf(body: impl Iterator<Item = u8>, sections: u8) -> Vec<u8> {
        let mut content = vec![0_u8; 64];
        content[..5].copy_from_slice(b"\x7fELF\x02");
        content[SECTION_COUNT_AT] = sections;
        content.extend(body.take(256 * 1024));
        content
    }

    /// Bytes without order, the same each time (xorshift).
    fn disorder() -> impl Iterator<Item = u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
    }

    #[test]
    fn packed_file_is_known_by_its_mark_or_by_disorder_without_sections() {
        assert!(judged(&elf(disorder(), 0)).unwrap().contains("no sections"));
        let mut marked = elf(std::iter::repeat(0), 7);
        marked[236..240].copy_from_slice(b"UPX!");
        assert!(judged(&marked).unwrap().contains("UPX"));
    }

    #[test]
    fn ordinary_stripped_and_foreign_files_are_not_packed() {
        assert_eq!(judged(&elf(disorder(), 30)), None, "it has sections");
        assert_eq!(
            judged(&elf((0..=255).cycle().map(|byte: u8| byte / 8), 0)),
            None,
            "it has order"
        );
        assert_eq!(
            judged(&disorder().take(300_000).collect::<Vec<u8>>()),
            None,
            "no program"
        );
        assert_eq!(judged(b"\x7fELF\x02"), None, "cut");
        let own = File::open("/proc/self/exe").unwrap();
        let bytes = own.metadata().unwrap().len();
        assert_eq!(packed(own, bytes), None);
    }
}
