//! The systemd journal, read from its files.
//!
//! libsystemd is under the LGPL and is not linked; this reads the format that systemd documents
//! (`JOURNAL_FILE_FORMAT`), as systemd 246 to 257 write it:
//!
//! - a header (`LPKSHHRH`, flags, ids, offset of the first entry array, number of entries),
//! - ENTRY_ARRAY objects, chained, whose items are offsets of ENTRY objects in the order of writing,
//! - ENTRY objects: sequence number, times, boot id, and offsets of DATA objects,
//! - DATA objects: one `FIELD=value` each, perhaps compressed.
//!
//! Objects are 8-aligned, integers little-endian; in *compact* files offsets inside objects have 32 bits. Hash
//! tables, FIELD and TAG objects are not needed to read forward, so that a keyed hash makes no difference.
//!
//! Invariants: everything is read with pread, never mapped, so that a file that is cut meanwhile is an error and
//! no signal; every offset is checked against the file; chains only go forward, so that a damaged one ends;
//! memory per entry is bounded, whatever sizes the file names. What is damaged is skipped and counted.

mod entry;
mod file;
mod follow;
mod object;
mod payload;

#[cfg(test)]
pub(super) mod writer;

#[cfg(test)]
mod tests;

pub use entry::JournalEntry;
pub use file::{JournalError, JournalFile, Next};
pub(super) use follow::{Journal, JournalPositions, machine_id};
