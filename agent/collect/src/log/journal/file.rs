//! One journal file, read forward.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use super::entry::{Field, JournalEntry};
use super::object::{
    Header, OBJECT_BYTES, TYPE_DATA, TYPE_ENTRY, TYPE_ENTRY_ARRAY, object_at, read_at, u32_at, u64_at,
};
use super::payload::{STORED_BYTES_MAX, plain};

/// Bytes before the items of an entry, an entry array, and the payload of a data object.
const ENTRY_FIXED: u64 = 64;
const ARRAY_FIXED: u64 = 24;
const DATA_FIXED: u64 = 64;
const DATA_FIXED_COMPACT: u64 = 72;
/// Most fields of one entry; journald refuses more than 1,024.
const ITEMS_MAX: u64 = 2_048;
/// Most items of an entry array; journald doubles their size, up to what fits the file.
const ARRAY_ITEMS_MAX: u64 = 1 << 28;
/// Most entry arrays of a file; their sizes double.
const ARRAYS_MAX: u32 = 65_536;
/// Of a payload that is not compressed so much is read first: enough for every field but a long message.
const HEAD_BYTES: u64 = 512;
/// Most bytes of compressed or long payloads that are read for one entry.
const ENTRY_BYTES_MAX: u64 = 1024 * 1024;
/// Most data objects whose field is remembered: units, users and programs are shared between entries.
const FIELDS_CACHED_MAX: usize = 2_048;

/// Why a journal file, or a part of it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Not a journal file.
    #[error("it does not begin as a journal file does")]
    Signature,
    /// Made by a newer systemd, in a way that this reader does not know.
    #[error("it needs features that are not known here: flags {0:#x}")]
    Flags(u32),
    /// The file ends too early, or the disk fails.
    #[error("read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// The system's words.
        source: io::Error,
    },
    /// A value that cannot be.
    #[error("{what} at byte {offset} is damaged")]
    Damaged {
        /// What it should be.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// A payload that cannot be read.
    #[error("compressed with {0}")]
    Compressed(&'static str),
}

/// What reading on came to.
#[derive(Debug)]
pub enum Next {
    /// An entry.
    Entry(Box<JournalEntry>),
    /// One entry that is damaged; the next may be whole.
    Skipped(JournalError),
    /// Nothing more at present.
    End,
}

/// Where reading stands in the chain of entry arrays.
#[derive(Debug, Clone, Copy)]
struct Place {
    array: u64,
    items: u64,
    index: u64,
    arrays: u32,
}

/// A journal file that is read forward, entry by entry.
#[derive(Debug)]
pub struct JournalFile {
    file: File,
    header: Header,
    place: Option<Place>,
    read: u64,
    fields: HashMap<u64, Field>,
}

impl JournalFile {
    /// Opens a file, before its first entry.
    ///
    /// # Errors
    /// [`JournalError`] when it is no journal file, or one that cannot be read here.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let file = File::open(path).map_err(|source| JournalError::Read { offset: 0, source })?;
        let header = Header::read(&file)?;
        Ok(Self {
            file,
            header,
            place: None,
            read: 0,
            fields: HashMap::new(),
        })
    }

    /// The file's own id: it stays when the file is renamed.
    pub fn id(&self) -> [u8; 16] {
        self.header.file_id
    }

    /// The id of the numbering that its entries share with those of other files.
    pub fn seqnum_id(&self) -> [u8; 16] {
        self.header.seqnum_id
    }

    /// Entries that the header counts.
    pub fn entries(&self) -> u64 {
        self.header.entries
    }

    /// Entries that were read or passed over.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Whether nothing will be added to it.
    pub fn is_archived(&self) -> bool {
        self.header.archived
    }

    /// When its first and its last entry were written, in microseconds.
    pub fn times(&self) -> (u64, u64) {
        (self.header.head_realtime, self.header.tail_realtime)
    }

    /// Looks whether the file has grown or was archived.
    ///
    /// # Errors
    /// [`JournalError`] when the header cannot be read any more, or is that of another file.
    pub fn refresh(&mut self) -> Result<(), JournalError> {
        let header = Header::read(&self.file)?;
        if header.file_id != self.header.file_id {
            return Err(JournalError::Damaged {
                what: "the file's id",
                offset: 24,
            });
        }
        self.header = header;
        Ok(())
    }

    /// Passes over entries until `read` of them are passed, or the file ends.
    ///
    /// # Errors
    /// [`JournalError`] when the chain of entries is damaged.
    pub fn skip_to(&mut self, read: u64) -> Result<(), JournalError> {
        let wanted = read.min(self.header.entries);
        while self.read < wanted {
            let Some(place) = self.settle()? else {
                break;
            };
            let step = (wanted - self.read).min(place.items - place.index);
            self.read += step;
            self.place = Some(Place {
                index: place.index + step,
                ..place
            });
        }
        Ok(())
    }

    /// The next entry.
    ///
    /// # Errors
    /// [`JournalError`] when the chain of entries is damaged: nothing more can be read from this file.
    pub fn next_entry(&mut self) -> Result<Next, JournalError> {
        if self.read >= self.header.entries {
            return Ok(Next::End);
        }
        let Some(place) = self.settle()? else {
            return Ok(Next::End);
        };
        let width = self.item_bytes();
        let mut item = [0_u8; 8];
        let at = place.array + ARRAY_FIXED + place.index * width;
        let part = item.get_mut(..usize::try_from(width).unwrap_or(8));
        read_at(&self.file, part.unwrap_or_default(), at)?;
        let offset = u64::from_le_bytes(item);
        if offset == 0 {
            // Counted, and not linked yet: it comes with the next look.
            return Ok(Next::End);
        }
        self.place = Some(Place {
            index: place.index + 1,
            ..place
        });
        self.read += 1;
        Ok(match self.entry(offset) {
            Ok(entry) => Next::Entry(Box::new(entry)),
            Err(error) => Next::Skipped(error),
        })
    }

    /// Bytes of an item of an entry array.
    fn item_bytes(&self) -> u64 {
        if self.header.compact { 4 } else { 8 }
    }

    /// The array that holds the next item; `None` when it is not there yet.
    fn settle(&mut self) -> Result<Option<Place>, JournalError> {
        let mut place = match self.place {
            Some(place) => place,
            None if self.header.entry_array == 0 => return Ok(None),
            None => self.array(self.header.entry_array, 0)?,
        };
        while place.index >= place.items {
            let mut next = [0_u8; 8];
            read_at(&self.file, &mut next, place.array + OBJECT_BYTES)?;
            let next = u64::from_le_bytes(next);
            if next == 0 {
                self.place = Some(place);
                return Ok(None);
            }
            // Forward, and not into itself: a damaged chain would otherwise be read for ever.
            let end = place
                .array
                .saturating_add(ARRAY_FIXED + place.items * self.item_bytes());
            if next < end || place.arrays >= ARRAYS_MAX {
                return Err(JournalError::Damaged {
                    what: "the chain of entries",
                    offset: place.array,
                });
            }
            place = self.array(next, place.arrays + 1)?;
        }
        self.place = Some(place);
        Ok(Some(place))
    }

    fn array(&self, offset: u64, arrays: u32) -> Result<Place, JournalError> {
        let head = object_at(&self.file, &self.header, offset, TYPE_ENTRY_ARRAY, ARRAY_FIXED)?;
        let width = self.item_bytes();
        let items = (head.bytes - ARRAY_FIXED) / width;
        if items > ARRAY_ITEMS_MAX {
            return Err(JournalError::Damaged {
                what: "the size of an entry array",
                offset,
            });
        }
        Ok(Place {
            array: offset,
            items,
            index: 0,
            arrays,
        })
    }

    fn entry(&mut self, offset: u64) -> Result<JournalEntry, JournalError> {
        let head = object_at(&self.file, &self.header, offset, TYPE_ENTRY, ENTRY_FIXED)?;
        let width = if self.header.compact { 4_u64 } else { 16 };
        let items = (head.bytes - ENTRY_FIXED) / width;
        if items > ITEMS_MAX {
            return Err(JournalError::Damaged {
                what: "the size of an entry",
                offset,
            });
        }
        let mut bytes = vec![0_u8; usize::try_from(ENTRY_FIXED + items * width).unwrap_or(0)];
        read_at(&self.file, &mut bytes, offset)?;
        let mut entry = JournalEntry {
            seqnum: u64_at(&bytes, 16),
            realtime_us: u64_at(&bytes, 24),
            ..JournalEntry::default()
        };
        let mut budget = ENTRY_BYTES_MAX;
        let fixed = usize::try_from(ENTRY_FIXED).unwrap_or(64);
        for item in bytes
            .get(fixed..)
            .unwrap_or_default()
            .chunks_exact(usize::try_from(width).unwrap_or(16))
        {
            let data = if self.header.compact {
                u64::from(u32_at(item, 0))
            } else {
                u64_at(item, 0)
            };
            match self.field(data, &mut entry.truncated, &mut budget) {
                Ok(field) => entry.put(field),
                Err(_) => entry.unreadable += 1,
            }
        }
        if entry.bytes("MESSAGE").is_none() && entry.unreadable > 0 {
            entry.truncated = true;
        }
        Ok(entry)
    }

    fn payload(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, JournalError> {
        let mut payload = vec![0_u8; usize::try_from(bytes).unwrap_or(0)];
        read_at(&self.file, &mut payload, offset)?;
        Ok(payload)
    }

    fn field(&mut self, offset: u64, truncated: &mut bool, budget: &mut u64) -> Result<Field, JournalError> {
        if let Some(field) = self.fields.get(&offset) {
            return Ok(field.clone());
        }
        let fixed = if self.header.compact {
            DATA_FIXED_COMPACT
        } else {
            DATA_FIXED
        };
        let head = object_at(&self.file, &self.header, offset, TYPE_DATA, fixed)?;
        let stored = head.bytes - fixed;
        let mut payload = self.payload(offset + fixed, stored.min(HEAD_BYTES))?;
        let compressed = head.flags != 0;
        let taken = stored.min(STORED_BYTES_MAX);
        if compressed || (stored > HEAD_BYTES && Field::of(&payload).is_message()) {
            *budget = budget.checked_sub(taken).ok_or(JournalError::Damaged {
                what: "the size of an entry's fields",
                offset,
            })?;
            payload = self.payload(offset + fixed, taken)?;
        }
        let (payload, cut) = plain(payload, head.flags, taken < stored)?;
        let field = Field::of(&payload);
        if field.is_message() {
            *truncated |= cut;
            return Ok(field);
        }
        if self.fields.len() >= FIELDS_CACHED_MAX {
            self.fields.clear();
        }
        self.fields.insert(offset, field.clone());
        Ok(field)
    }
}
