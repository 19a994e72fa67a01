//! A small file under /proc or /sys that is read again and again: opened once, read at offset 0.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Largest file that is read, so that a strange kernel cannot fill the memory.
const BYTES_MAX: usize = 1 << 20;

pub(super) struct ProcFile {
    path: &'static str,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    pub(super) const fn new(path: &'static str) -> Self {
        Self {
            path,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// Its present text.
    pub(super) fn read(&mut self) -> io::Result<&str> {
        match self.fill() {
            Ok(()) => std::str::from_utf8(&self.buffer).map_err(|error| self.fault(&error)),
            Err(error) => {
                self.file = None;
                Err(self.fault(&error))
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(self.path)?,
        };
        self.buffer.clear();
        let mut chunk = [0_u8; 8192];
        loop {
            let offset = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
            let count = file.read_at(&mut chunk, offset)?;
            let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            self.buffer.extend_from_slice(read);
            if self.buffer.len() > BYTES_MAX {
                return Err(io::Error::other("longer than expected"));
            }
        }
        self.file = Some(file);
        Ok(())
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> io::Error {
        io::Error::other(format!("{}: {error}", self.path))
    }
}

/// The number at the head of `text`, NaN when there is none.
pub(super) fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or(f64::NAN)
}
