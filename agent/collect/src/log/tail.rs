//! One log file, followed over rotation and restart.
//!
//! The file is known by device, inode and a fingerprint of its first bytes, so that an inode that is used again,
//! or a file that was cut and grew past the old place, is read from its beginning. After *rename and create* the
//! old file is read to its end before the new one; one that was renamed while nobody looked is found among its
//! siblings by its inode. Its writer has it open until somebody tells it of the rotation, so it is read for
//! [`FORMER_FOR`] beside the new one. After *copy and truncate* reading goes on at the beginning; what was written between
//! copy and cut is gone, and nobody can count it. A line counts when its end is written.
//!
//! Whoever may write to the folder may put something else in the file's place. A FIFO is not waited for, and a
//! link is followed only where root made it or the owner of the file that it names: with the agent's rights it
//! would else open any file of the host.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Most bytes of a line that are kept; the rest of it is passed over.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes that the fingerprint is made of.
const PRINT_BYTES: usize = 128;
/// Bytes of one read.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long a file that was rotated away is read beside the new one: logrotate tells the writer once all files of a
/// stanza are renamed.
const FORMER_FOR: Duration = Duration::from_secs(60);

/// How far a file was read, as kept over restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilePosition {
    dev: u64,
    ino: u64,
    /// Beginning of the first line that was not read whole.
    offset: u64,
    print: String,
    /// The file before it, while that may still be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<Box<FilePosition>>,
}

/// What one look at a file came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether there is more to read at once.
    pub(crate) more: bool,
    /// Whether lines were lost that nobody can count: the file was rotated away before it was read.
    pub(crate) lost: bool,
}

struct Open {
    file: File,
    dev: u64,
    ino: u64,
    /// Where the next read begins.
    offset: u64,
    /// Where the line that is not whole begins.
    line_start: u64,
    partial: Vec<u8>,
    /// Whether the rest of the line is passed over.
    skipping: bool,
    print: Vec<u8>,
}

/// A file that was rotated away, and until when it is read.
struct Former {
    open: Open,
    until: Instant,
}

/// See the module.
pub(crate) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    former: Option<Former>,
    kept: Option<FilePosition>,
    /// A file that is there at the very first look is read from its end.
    from_end: bool,
}

impl Tail {
    /// Follows `path`, on from `kept`; without it from the end (`from_end`) or the beginning of what is there.
    pub(crate) fn new(path: PathBuf, kept: Option<FilePosition>, from_end: bool) -> Self {
        Self {
            path,
            open: None,
            former: None,
            kept,
            from_end,
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was found.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How far it was read.
    pub(crate) fn position(&self) -> Option<FilePosition> {
        let Some(open) = &self.open else {
            return self.kept.clone();
        };
        Some(FilePosition {
            former: self
                .former
                .as_ref()
                .map(|former| Box::new(former.open.position())),
            ..open.position()
        })
    }

    /// Reads about `bytes_max` bytes and hands each whole line to `take`, with whether it was cut.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(crate) fn look(&mut self, bytes_max: usize, mut take: impl FnMut(&[u8], bool)) -> io::Result<Look> {
        let about = match fs::metadata(&self.path) {
            Ok(about) => Some(about),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut look = Look::default();
        if self.open.is_none() {
            let Some(about) = &about else {
                self.from_end = false;
                return Ok(look);
            };
            if !about.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            look.lost = self.open_first()?;
        }
        let more_of_former = self.read_former(bytes_max, &mut take);
        let Some(open) = &mut self.open else {
            return Ok(look);
        };
        open.start_over_if_cut(&mut take)?;
        look.more = open.read(bytes_max, &mut take)?;
        let rotated = about.is_some_and(|about| (about.dev(), about.ino()) != (open.dev, open.ino));
        if rotated && !look.more {
            let next = Open::at_start(open_log(&self.path)?)?;
            self.end_former(&mut take);
            self.former = self.open.replace(next).map(Former::new);
            look.more = true;
        }
        look.more |= more_of_former;
        Ok(look)
    }

    /// Reads what its writer has put into the file before this one; returns whether there is more.
    fn read_former(&mut self, bytes_max: usize, take: &mut impl FnMut(&[u8], bool)) -> bool {
        let Some(former) = &mut self.former else {
            return false;
        };
        // One that cannot be read any more has nothing to tell.
        let more = former.open.read(bytes_max, take).unwrap_or(false);
        if !more && Instant::now() >= former.until {
            self.end_former(take);
        }
        more
    }

    fn end_former(&mut self, take: &mut impl FnMut(&[u8], bool)) {
        if let Some(mut former) = self.former.take() {
            former.open.finish(take);
        }
    }

    /// Opens what was read last, wherever it is now; returns whether it is gone.
    fn open_first(&mut self) -> io::Result<bool> {
        let mut open = Open::at_start(open_log(&self.path)?)?;
        let Some(mut kept) = self.kept.take() else {
            if std::mem::take(&mut self.from_end) {
                open.skip_to(open.file.metadata()?.len())?;
            }
            self.open = Some(open);
            return Ok(false);
        };
        let former = kept.former.take();
        self.former = former.and_then(|former| self.renamed(&former)).map(Former::new);
        if let Some(same) = open.resumed(&kept)? {
            self.open = Some(same);
            return Ok(false);
        }
        let renamed = self.renamed(&kept);
        let lost = renamed.is_none();
        self.open = Some(match renamed {
            Some(open) => open,
            None => Open::at_start(open_log(&self.path)?)?,
        });
        Ok(lost)
    }

    /// The file that was kept, under the name that it has now.
    fn renamed(&self, kept: &FilePosition) -> Option<Open> {
        let file = open_log(&self.sibling(kept)?).ok()?;
        Open::at_start(file).ok()?.resumed(kept).ok().flatten()
    }

    fn sibling(&self, kept: &FilePosition) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_str()?;
        let entries = fs::read_dir(self.path.parent()?).ok()?.flatten();
        let mut rotated = entries.filter(|entry| {
            let is_named = entry
                .file_name()
                .to_str()
                .is_some_and(|other| other.starts_with(name));
            is_named
                && entry
                    .metadata()
                    .is_ok_and(|about| (about.dev(), about.ino()) == (kept.dev, kept.ino))
        });
        rotated.next().map(|entry| entry.path())
    }
}

impl Former {
    fn new(open: Open) -> Self {
        Self {
            open,
            until: Instant::now() + FORMER_FOR,
        }
    }
}

impl Open {
    fn position(&self) -> FilePosition {
        FilePosition {
            dev: self.dev,
            ino: self.ino,
            offset: self.line_start,
            print: hex(&self.print),
            former: None,
        }
    }

    fn at_start(file: File) -> io::Result<Self> {
        let about = file.metadata()?;
        let (dev, ino) = (about.dev(), about.ino());
        Ok(Self {
            file,
            dev,
            ino,
            offset: 0,
            line_start: 0,
            partial: Vec::new(),
            skipping: false,
            print: Vec::new(),
        })
    }

    /// This file at the place that was kept, if it is the file that was kept.
    fn resumed(mut self, kept: &FilePosition) -> io::Result<Option<Self>> {
        let known = kept.print.len() / 2;
        let same = (self.dev, self.ino) == (kept.dev, kept.ino)
            && self.file.metadata()?.len() >= kept.offset
            && known <= PRINT_BYTES
            && hex(&self.first_bytes(known)?) == kept.print;
        if same {
            self.skip_to(kept.offset)?;
        }
        Ok(same.then_some(self))
    }

    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        (self.offset, self.line_start) = (offset, offset);
        self.print = self.first_bytes(PRINT_BYTES)?;
        Ok(())
    }

    fn first_bytes(&self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; wanted.min(PRINT_BYTES)];
        let read = self.file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Begins anew when the file was cut, or holds something else than was read.
    fn start_over_if_cut(&mut self, take: &mut impl FnMut(&[u8], bool)) -> io::Result<()> {
        let now = self.first_bytes(PRINT_BYTES)?;
        let cut = self.file.metadata()?.len() < self.offset || !now.starts_with(&self.print);
        if cut {
            self.finish(take);
            (self.offset, self.line_start) = (0, 0);
        }
        self.print = now;
        Ok(())
    }

    /// Reads on; returns whether the bytes that were allowed did not suffice.
    fn read(&mut self, bytes_max: usize, take: &mut impl FnMut(&[u8], bool)) -> io::Result<bool> {
        let mut left = bytes_max;
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 {
            let read = self.file.read_at(&mut chunk, self.offset)?;
            let bytes = chunk.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(false);
            }
            self.split(bytes, take);
            left = left.saturating_sub(read);
        }
        Ok(true)
    }

    fn split(&mut self, bytes: &[u8], take: &mut impl FnMut(&[u8], bool)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.offset += part.len() as u64;
            let whole = part.strip_suffix(b"\n");
            let text = whole.unwrap_or(part);
            if self.partial.is_empty() && whole.is_some() && text.len() <= LINE_BYTES_MAX && !self.skipping {
                take(text, false);
            } else {
                let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
                self.partial.extend(text.iter().take(room));
                self.skipping |= text.len() > room;
                if whole.is_some() {
                    self.finish(take);
                }
            }
            if whole.is_some() {
                self.line_start = self.offset;
            }
        }
    }

    /// Hands over what was collected of a line, whole or not.
    fn finish(&mut self, take: &mut impl FnMut(&[u8], bool)) {
        let cut = std::mem::take(&mut self.skipping);
        if !self.partial.is_empty() {
            take(&std::mem::take(&mut self.partial), cut);
        }
    }
}

/// Opens a log without waiting for anybody at its other end, and no file that the one who named it may not choose.
fn open_log(path: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let opened = file.metadata()?;
    if !opened.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let named = fs::symlink_metadata(path)?;
    if named.is_symlink() {
        if named.uid() != 0 && named.uid() != opened.uid() {
            return Err(io::Error::other("it is a link that somebody else made"));
        }
    } else if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        return Err(io::Error::other("it was replaced while it was opened"));
    }
    Ok(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
