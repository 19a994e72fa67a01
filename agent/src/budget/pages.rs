//! Pages of the program and of ONNX Runtime that nobody uses: what the start needed, and what is needed once a day.
//!
//! They stay mapped, and count as the agent's, until the kernel runs short of memory. Here they are unmapped, and put
//! first in line for the kernel to reclaim unless memory is tight already, when that would take what is used along; what is
//! used comes back from the page cache, 16 pages a fault.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where the kernel says what each mapping holds: proc_pid_smaps(5).
const SMAPS: &str = "/proc/self/smaps";

/// Unmaps the pages of `files` that hold only what is on disk. Answers with the bytes that were mapped.
///
/// A file must be loaded in full: a loader at work changes pages that it has shown as unchanged.
pub(crate) fn forget(files: &[PathBuf], reclaim: Reclaim) -> u64 {
    let text = fs::read_to_string(SMAPS).unwrap_or_default();
    // The kernel shows them by their real names.
    let files: Vec<PathBuf> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    let mut forgotten: u64 = 0;
    for Mapping { addresses, resident } in unchanged(&text, &files) {
        if release(&addresses, reclaim) {
            forgotten = forgotten.saturating_add(resident);
        }
    }
    forgotten
}

/// Whether the kernel is told that it may reclaim the pages first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reclaim {
    First,
    InTurn,
}

/// A part of memory that shows a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    resident: u64,
}

/// Mappings of `files` that can only be read or run, and of which no page was ever written to: a page that was is
/// anonymous, or on swap.
fn unchanged(smaps: &str, files: &[PathBuf]) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(": ") else {
            current = head(line, files);
            continue;
        };
        let Some(mapping) = current.as_mut() else { continue };
        match (name, bytes(value)) {
            ("Rss", Some(resident)) => mapping.resident = resident,
            ("Anonymous" | "Swap", value) if value != Some(0) => current = None,
            // It comes after the others.
            ("Swap", _) => found.extend(current.take()),
            _ => (),
        }
    }
    found
}

/// The mapping that begins with this line: `addresses rights offset device inode path`.
fn head(line: &str, files: &[PathBuf]) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let path = Path::new(fields.nth(3)?);
    let wanted = matches!(rights, "r-xp" | "r--p") && files.iter().any(|file| file == path);
    let address = |text| usize::from_str_radix(text, 16).ok();
    let addresses = address(from)?..address(to)?;
    wanted.then_some(Mapping {
        addresses,
        resident: 0,
    })
}

fn bytes(value: &str) -> Option<u64> {
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Whether the kernel did it.
#[expect(unsafe_code, reason = "madvise has no safe wrapper")]
fn release(addresses: &Range<usize>, reclaim: Reclaim) -> bool {
    let start = std::ptr::without_provenance_mut::<libc::c_void>(addresses.start);
    // SAFETY: neither changes what memory holds: the pages are private ones of a file, cannot be written to, and
    // none differs from the file, in memory or on swap, so that an access reads the same bytes again.
    unsafe {
        if reclaim == Reclaim::First {
            // Before Linux 5.4 unknown; the pages wait their turn then.
            libc::madvise(start, addresses.len(), libc::MADV_COLD);
        }
        libc::madvise(start, addresses.len(), libc::MADV_DONTNEED) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
55d0-55e0 r--p 00000000 fe:00 7 /usr/sbin/agent
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
VmFlags: rd mr mw me sd
55e0-55f0 r--p 00010000 fe:00 7 /usr/sbin/agent
Rss:                  16 kB
Anonymous:             4 kB
Swap:                  0 kB
55f0-5600 rw-p 00020000 fe:00 7 /usr/sbin/agent
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
5600-5610 r-xp 00030000 fe:00 7 /usr/sbin/agent
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
5610-5620 r-xp 00000000 fe:00 8 /usr/lib/other.so
Rss:                  64 kB
Anonymous:             0 kB
Swap:                  0 kB
5620-5630 r--p 00040000 fe:00 7 /usr/sbin/agent
Rss:                   0 kB
Anonymous:             0 kB
Swap:                  4 kB
5630-5640 rw-p 00000000 00:00 0
Rss:                  64 kB
Anonymous:            64 kB
Swap:                  0 kB
";

    #[test]
    fn only_pages_that_are_as_on_disk_are_forgotten() {
        let mapping = |addresses, resident| Mapping { addresses, resident };
        let agent = [PathBuf::from("/usr/sbin/agent")];
        assert_eq!(
            unchanged(SHOWN, &agent),
            [
                mapping(0x55d0..0x55e0, 16 << 10),
                mapping(0x5600..0x5610, 8 << 10)
            ]
        );
        assert_eq!(unchanged(SHOWN, &[]), []);
    }

    #[test]
    fn a_program_goes_on_with_fewer_pages() {
        let own = [std::env::current_exe().unwrap().canonicalize().unwrap()];
        let resident = || {
            let text = fs::read_to_string(SMAPS).unwrap();
            let mappings = unchanged(&text, &own);
            mappings.iter().map(|mapping| mapping.resident).sum::<u64>()
        };
        // Reading this needed pages too, so that more may be forgotten than a look before would say.
        let forgotten = forget(&own, Reclaim::First);
        let left = resident();
        assert!(left < forgotten, "{forgotten} were resident, {left} are");
    }
}
