//! Small files of /proc and /sys/fs/cgroup, read into one buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// More than any of these files has.
const FILE_BYTES_MAX: usize = 16 * 1024;

/// A file that is read again and again: opened once, read from its beginning.
#[derive(Debug)]
pub(crate) struct KeptFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KeptFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            file: None,
            buffer: Vec::new(),
        }
    }

    /// Its present text, of at most 16 KiB.
    pub(crate) fn read(&mut self) -> io::Result<&str> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        self.buffer.resize(FILE_BYTES_MAX, 0);
        let mut filled = 0;
        while let Some(rest) = self.buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let offset = u64::try_from(filled).unwrap_or(u64::MAX);
            match file.read_at(rest, offset)? {
                0 => break,
                count => filled += count,
            }
        }
        self.buffer.truncate(filled);
        self.file = Some(file);
        std::str::from_utf8(&self.buffer).map_err(io::Error::other)
    }
}

/// Reads a small file once; what is missing or strange is `None`.
pub(crate) fn read(path: &Path) -> Option<String> {
    KeptFile::new(path).read().ok().map(str::to_owned)
}

/// The number of a file that holds one; `max` is none.
pub(crate) fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// The number behind `key` in lines of `key number`.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    };
    text.lines().find_map(line)
}
