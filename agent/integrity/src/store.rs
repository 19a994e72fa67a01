//! The baseline on disk.
//!
//! Little-endian. `"FMIB"`, version (1 byte, 1), 3 zero bytes; then
//!
//! | bytes | what |
//! |---|---|
//! | 8 | when it was written, microseconds since the epoch |
//! | 2, n | length and bytes of the root that it is of |
//! | 4, 4 × n | number and checksums of the rules that it was made with |
//! | 4 | number of records |
//! | each record: 2, n | length and bytes of the path |
//! | 1, 1, 1 | class, marks, digest (0 none, 1 whole, 2 part) |
//! | 4 × 5 | mode, owner, group, device, checksum of capabilities |
//! | 8 × 3 | inode, size, time of change |
//! | 0 or 32 | digest |
//! | 4, at the end | CRC-32C of all before |
//!
//! Written beside and renamed over, file and folder synced: a crash leaves the old one or the new one. One that is
//! damaged is set aside as `baseline.corrupt`, told, and made anew.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use fleetmend_event::TimeMicros;

use crate::books::{Books, Record};
use crate::class::Class;
use crate::error::StoreError;
use crate::pattern::path_of;
use crate::state::{Digest, FileState};

const MAGIC: &[u8] = b"FMIB";
const VERSION: u8 = 1;
/// A million files with long paths; more is not ours.
const BYTES_MAX: u64 = 512 << 20;
/// Others have no business in what root's files are.
const FILE_MODE: u32 = 0o600;

/// What a file says.
#[derive(Debug)]
pub(crate) struct Stored {
    /// When it was written.
    pub(crate) written: TimeMicros,
    /// The tree that it is of.
    pub(crate) root: PathBuf,
    /// The rules that it was made with.
    pub(crate) rules: HashSet<u32>,
    /// The files.
    pub(crate) records: Vec<Record>,
}

/// The file in a folder.
pub(crate) fn file(folder: &Path) -> PathBuf {
    folder.join("baseline")
}

/// The bytes of a baseline.
pub(crate) fn encode(books: &Books, root: &Path, rules: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(books.len().saturating_mul(160).saturating_add(4_096));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&TimeMicros::now().0.to_le_bytes());
    put_text(&mut bytes, root.as_os_str().as_bytes());
    put_count(&mut bytes, rules.len());
    for rule in rules {
        bytes.extend_from_slice(&rule.to_le_bytes());
    }
    let count_at = bytes.len();
    put_count(&mut bytes, 0);
    let mut count = 0_u32;
    for record in books.iter() {
        if put_record(&mut bytes, record) {
            count += 1;
        }
    }
    if let Some(place) = bytes.get_mut(count_at..count_at + 4) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

/// `false` when it is longer than any path of the kernel's.
fn put_text(bytes: &mut Vec<u8>, text: &[u8]) -> bool {
    let Ok(length) = u16::try_from(text.len()) else {
        return false;
    };
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text);
    true
}

fn put_record(bytes: &mut Vec<u8>, record: &Record) -> bool {
    if !put_text(bytes, record.path.as_os_str().as_bytes()) {
        return false;
    }
    let state = &record.state;
    let (kind, digest): (u8, &[u8]) = match &state.digest {
        Digest::None => (0, &[]),
        Digest::Whole(digest) => (1, digest),
        Digest::Part(digest) => (2, digest),
    };
    bytes.extend_from_slice(&[record.class.code(), record.flags, kind]);
    for word in [state.mode, state.uid, state.gid, state.device, state.capabilities] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for word in [state.inode, state.size] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&state.changed_ns.to_le_bytes());
    bytes.extend_from_slice(digest);
    true
}

/// Reads a baseline.
///
/// # Errors
/// [`StoreError::Damaged`] with what is wrong.
pub(crate) fn decode(bytes: &[u8]) -> Result<Stored, StoreError> {
    let (body, sum) = bytes
        .split_last_chunk::<4>()
        .ok_or(StoreError::Damaged("it is cut short"))?;
    let mut reader = Reader(body);
    if reader.take(4)? != MAGIC {
        return Err(StoreError::Damaged("it is no baseline"));
    }
    if reader.take(4)?.first() != Some(&VERSION) {
        return Err(StoreError::Damaged("it is of another version"));
    }
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(StoreError::Damaged("its checksum does not match"));
    }
    let written = TimeMicros(i64::from_le_bytes(reader.array()?));
    let root = reader.path()?;
    let mut rules = HashSet::new();
    for _ in 0..reader.u32()? {
        rules.insert(reader.u32()?);
    }
    let count = reader.u32()?;
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(reader.record()?);
    }
    if !reader.0.is_empty() {
        return Err(StoreError::Damaged("it has more than it says"));
    }
    Ok(Stored {
        written,
        root,
        rules,
        records,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(StoreError::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(StoreError::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn path(&mut self) -> Result<PathBuf, StoreError> {
        let length = u16::from_le_bytes(self.array()?);
        Ok(path_of(self.take(usize::from(length))?))
    }

    fn record(&mut self) -> Result<Record, StoreError> {
        let path = self.path()?.into_boxed_path();
        let [class, flags, kind] = self.array()?;
        let class = Class::from_code(class).ok_or(StoreError::Damaged("it names a class that is unknown"))?;
        let [mode, uid, gid, device, capabilities] =
            [self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?];
        let (inode, size) = (self.u64()?, self.u64()?);
        let changed_ns = i64::from_le_bytes(self.array()?);
        let digest = match kind {
            0 => Digest::None,
            1 => Digest::Whole(self.array()?),
            2 => Digest::Part(self.array()?),
            _ => return Err(StoreError::Damaged("it names a digest that is unknown")),
        };
        let state = FileState {
            mode,
            uid,
            gid,
            device,
            inode,
            size,
            changed_ns,
            capabilities,
            digest,
        };
        Ok(Record {
            path,
            state,
            class,
            flags,
            scan: 0,
        })
    }
}

/// Reads the baseline of a folder; none when there was never one.
///
/// # Errors
/// [`StoreError`]; a damaged one has been set aside.
pub(crate) fn load(folder: &Path) -> Result<Option<Stored>, StoreError> {
    let path = file(folder);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Read { path, source }),
        Ok(_) => {}
    }
    let stored = decode(&bytes);
    if stored.is_err() {
        fs::rename(&path, folder.join("baseline.corrupt")).ok();
    }
    stored.map(Some)
}

/// Replaces a file of the folder by one with these bytes, in one step and durably.
///
/// # Errors
/// When the system refuses; the old file stays as it is.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fresh = path.with_extension("new");
    let written = write(path, &fresh, bytes);
    if written.is_err() {
        // What was written of it would keep the disk full.
        fs::remove_file(&fresh).ok();
    }
    written.map_err(|source| StoreError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, fresh: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    let mut file = options.open(fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn books() -> Books {
        let mut books = Books::new(1_000);
        for inode in 0..20_u64 {
            let digest = match inode % 3 {
                0 => Digest::None,
                1 => Digest::Whole([7; 32]),
                _ => Digest::Part([9; 32]),
            };
            books.put(Record {
                path: Path::new(&format!("/usr/bin/program-{inode}")).into(),
                state: FileState {
                    mode: 0o100_755,
                    uid: 1,
                    gid: 2,
                    device: 3,
                    inode,
                    size: 5,
                    changed_ns: -6,
                    capabilities: 7,
                    digest,
                },
                class: Class::Binary,
                flags: 3,
                scan: 9,
            });
        }
        books
    }

    fn encoded() -> Vec<u8> {
        encode(&books(), Path::new("/"), &[1, 2, 3])
    }

    #[test]
    fn what_was_written_is_read_again() {
        let stored = decode(&encoded()).unwrap();
        assert_eq!(stored.root, Path::new("/"));
        assert_eq!(stored.rules, HashSet::from([1, 2, 3]));
        let books = books();
        assert_eq!(stored.records.len(), 20);
        for record in &stored.records {
            let known = books.get(&record.path).unwrap();
            assert_eq!(
                (record.state, record.class, record.flags),
                (known.state, known.class, known.flags)
            );
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_noticed() {
        let bytes = encoded();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(decode(&flipped).is_err() || at > 4 && at < 8, "flipped at {at}");
        }
    }

    #[test]
    fn damaged_file_is_set_aside_and_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).unwrap().is_none());
        std::fs::write(file(folder.path()), b"FMIBnonsense").unwrap();
        let told = load(folder.path()).unwrap_err().to_string();
        assert!(told.contains("damaged"), "{told}");
        assert!(folder.path().join("baseline.corrupt").exists() && load(folder.path()).unwrap().is_none());
    }

    #[test]
    fn full_disk_leaves_the_old_file_and_no_rest() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            println!("COULD NOT RUN: there is no /dev/full");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        replace(&path, b"old").unwrap();
        // The fresh file is the device that is always full.
        std::os::unix::fs::symlink(full, path.with_extension("new")).unwrap();
        let told = replace(&path, &encoded()).unwrap_err();
        assert!(told.to_string().contains("baseline"), "{told}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert!(!path.with_extension("new").exists() && full.exists());
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut file = MAGIC.to_vec();
            file.extend([VERSION, 0, 0, 0]);
            file.extend(&bytes);
            let sum = crc32c::crc32c(&file);
            file.extend(sum.to_le_bytes());
            prop_assert!(decode(&file).is_err() || bytes.len() >= 18);
        }
    }
}
