//! Follows the log from file to file: lines, each with where it ends.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::position::Position;
use super::record::AuditRecord;
use crate::source::Kind;

/// Longest line: auditd's own limit is 8970 bytes (MAX_AUDIT_MESSAGE_LENGTH) and what ENRICHED adds.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes read before other things have their turn.
const TURN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rotated files that are looked at: auditd's own `num_logs` ends at 999, and nobody turns so many in one poll.
const ROTATED_MAX: usize = 99;
/// How much of the log's end tells what auditd is asked to write.
const EVIDENCE_BYTES: u64 = 1024 * 1024;

/// Something the follower has to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// A line that was too long, passed over.
    Overlong,
    /// The place that was reached before is gone: what was written in between may be lost.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    open: Option<OpenLog>,
    /// Where to go on, until the file is found.
    resume: Option<Position>,
    /// Whether this is the first start: what is in the log by now is not news.
    fresh: bool,
}

#[derive(Debug)]
struct OpenLog {
    file: File,
    /// Up to where lines were handed out.
    position: Position,
    /// What was read behind it: a line without its end.
    rest: Vec<u8>,
    /// Whether the line is too long and passed over.
    skips: bool,
    /// Bytes of it that were thrown away already.
    skipped: u64,
}

impl Tail {
    pub(super) fn new(path: &Path, resume: Option<Position>) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            fresh: resume.is_none(),
            resume,
        }
    }

    /// Where the next line begins.
    pub(super) fn position(&self) -> Option<Position> {
        self.open
            .as_ref()
            .map(|open| open.position.clone())
            .or_else(|| self.resume.clone())
    }

    /// Reads what there is, at most a turn of it; says whether there is more.
    ///
    /// # Errors
    /// When the log cannot be opened or read; the next call tries again.
    pub(super) fn read(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) -> io::Result<bool> {
        self.find(tell)?;
        let mut budget = TURN_BYTES_MAX;
        loop {
            let Some(open) = &mut self.open else {
                return Ok(false);
            };
            open.check(tell)?;
            let read = open.read(tell)?;
            budget = budget.saturating_sub(read);
            if budget == 0 {
                return Ok(true);
            }
            if read == 0 && !self.turn(tell)? {
                return Ok(false);
            }
        }
    }

    /// Opens the file to go on with, where none is open.
    fn find(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let current = File::open(&self.path).inspect_err(|error| {
            // What is written to a log that comes later is news.
            self.fresh &= error.kind() != io::ErrorKind::NotFound;
        })?;
        let mut position = Position::start_of(&current)?;
        let mut file = current;
        if let Some(kept) = self.resume.clone() {
            if kept.fits(&file) {
                position = kept;
            } else if let Some((_, older)) = self.rotated(&kept) {
                (file, position) = (older, kept);
            } else {
                tell(Told::Lost, &position);
            }
        } else if self.fresh {
            position.offset = end_of_lines(&file)?;
        }
        (self.resume, self.fresh) = (None, false);
        self.open = Some(OpenLog::new(file, position));
        Ok(())
    }

    /// At the end of the open file: goes on with the one that follows it, if the log has been turned.
    fn turn(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) -> io::Result<bool> {
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        let next = match File::open(&self.path) {
            Ok(file) => file,
            // Between the renaming and the making of the new file there is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let metadata = next.metadata()?;
        if (metadata.dev(), metadata.ino()) == (open.position.device, open.position.inode) {
            return Ok(false);
        }
        // It was written to until it was turned: what came since the last reading is read before it is left.
        if open.read(tell)? > 0 {
            return Ok(true);
        }
        open.finish(tell);
        let left = open.position.clone();
        let follower = match self.rotated(&left) {
            // Files that were begun and turned since the last look lie between.
            Some((number, _)) if number > 1 => File::open(numbered(&self.path, number - 1)).unwrap_or(next),
            _ => next,
        };
        let position = Position::start_of(&follower)?;
        self.open = Some(OpenLog::new(follower, position));
        Ok(true)
    }

    /// The rotated file that holds `position`, with its number.
    fn rotated(&self, position: &Position) -> Option<(usize, File)> {
        (1..=ROTATED_MAX)
            .map_while(|number| Some((number, File::open(numbered(&self.path, number)).ok()?)))
            .find(|(_, file)| position.fits(file))
    }
}

impl OpenLog {
    fn new(file: File, position: Position) -> Self {
        Self {
            file,
            position,
            rest: Vec::new(),
            skips: false,
            skipped: 0,
        }
    }

    /// A file that was emptied or written anew is begun again.
    fn check(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) -> io::Result<()> {
        let shorter = self.file.metadata()?.len() < self.reached();
        if !shorter && self.position.has_head_of(&self.file) {
            self.position.renew_head(&self.file);
            return Ok(());
        }
        self.position = Position::start_of(&self.file)?;
        if !self.rest.is_empty() || self.skips {
            // The line that had begun will not end.
            tell(Told::Lost, &self.position);
        }
        (self.skips, self.skipped) = (false, 0);
        self.rest.clear();
        Ok(())
    }

    fn reached(&self) -> u64 {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        self.position
            .offset
            .saturating_add(self.skipped)
            .saturating_add(rest)
    }

    /// Reads one chunk and hands out its lines; returns how much was read.
    fn read(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) -> io::Result<usize> {
        let before = self.rest.len();
        let at = self.reached();
        self.rest.resize(before + CHUNK_BYTES, 0);
        let outcome = self
            .file
            .read_at(self.rest.get_mut(before..).unwrap_or_default(), at);
        self.rest.truncate(before + *outcome.as_ref().unwrap_or(&0));
        let read = outcome?;
        let buffer = std::mem::take(&mut self.rest);
        let mut rest = buffer.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            let length = u64::try_from(end + 1).unwrap_or(u64::MAX);
            let told = if std::mem::take(&mut self.skips) || line.len() > LINE_BYTES_MAX {
                Told::Overlong
            } else {
                Told::Line(line)
            };
            let begins = self.position.clone();
            self.position.offset += length + std::mem::take(&mut self.skipped);
            tell(told, &begins);
        }
        if rest.len() > LINE_BYTES_MAX {
            self.skipped += u64::try_from(rest.len()).unwrap_or(u64::MAX);
            self.skips = true;
            rest = &[];
        }
        self.rest = rest.to_vec();
        Ok(read)
    }

    /// The last line of a file that nobody writes to any more is whole without its end.
    fn finish(&mut self, tell: &mut dyn FnMut(Told<'_>, &Position)) {
        if !self.rest.is_empty() {
            tell(Told::Line(&std::mem::take(&mut self.rest)), &self.position);
        }
        if self.skips {
            tell(Told::Overlong, &self.position);
        }
    }
}

/// `audit.log.3`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Behind the last line that has ended.
fn end_of_lines(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX));
    let mut end = vec![0; LINE_BYTES_MAX];
    let mut read = 0;
    while let Some(rest) = end.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + u64::try_from(read).unwrap_or(u64::MAX))? {
            0 => break,
            count => read += count,
        }
    }
    let last = end
        .get(..read)
        .and_then(|end| end.iter().rposition(|byte| *byte == b'\n'));
    Ok(last.map_or(from, |last| from + u64::try_from(last + 1).unwrap_or(0)))
}

/// The kinds that the end of the log holds calls of: what auditd is asked to write here.
///
/// # Errors
/// When the log cannot be opened or read.
pub(crate) fn evidence(path: &Path) -> io::Result<HashSet<Kind>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(EVIDENCE_BYTES);
    let mut end = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(
            AtOffset {
                file: &file,
                at: from,
            },
            EVIDENCE_BYTES,
        ),
        &mut end,
    )?;
    let mut kinds = HashSet::new();
    for line in end.split(|byte| *byte == b'\n') {
        let Ok(record) = AuditRecord::parse(line) else {
            continue;
        };
        let call = record
            .field("SYSCALL")
            .filter(|_| record.record_type == "SYSCALL");
        kinds.extend(call.and_then(super::rows::kind_of_call));
    }
    Ok(kinds)
}

struct AtOffset<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for AtOffset<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}
