//! What one agent's generator did, in a file that outlives kill −9 of its process.
//!
//! One line per step, written before the step is taken:
//!
//! ```text
//! L                         a life begins
//! A <table> <first> <count> <time_us> <boot_us>   these numbers are appended, all with this time, at this moment
//!                           of the boot clock, which nobody sets
//! D <events> <findings> <metrics>       the spool promised everything below these numbers
//! C                         the life ended in order: everything of it is promised
//! W                         the spool was wiped while no life was running
//! ```
//!
//! A killed writer may leave half a line; it counts as not written, because what follows it was not done.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fleetmend_event::TimeMicros;

/// Tables that the generator writes, one per lane; the order is that of a journal's numbers.
pub(super) const TABLES: [&str; 3] = ["units", "findings", "metrics"];

/// A journal being written.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Next number of each table.
    pub(super) next: [u64; 3],
}

/// Numbers that were appended at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) time: TimeMicros,
    /// The boot clock, microseconds.
    pub(super) boot_us: i64,
}

/// From one start of the agent to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// By table.
    pub(super) batches: [Vec<Batch>; 3],
    /// Everything below was promised.
    pub(super) promised: [u64; 3],
    /// It ended in order.
    pub(super) clean: bool,
    /// The spool was wiped after it.
    pub(super) wiped: bool,
}

/// Where the journal of the agent with this folder lies.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("journal")
}

impl Journal {
    /// Goes on with the journal in `folder`; numbers of a new one begin at `base`.
    pub(super) fn open(folder: &Path, base: u64) -> Result<Self> {
        let path = path(folder);
        let lives = read(folder)?;
        let after = |table: usize| {
            let last = lives
                .iter()
                .filter_map(|life| life.batches.get(table)?.last())
                .next_back();
            last.map_or(base, |batch| batch.first + batch.count)
        };
        let next = [after(0), after(1), after(2)];
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        // The first one ends half a line of a killed life.
        file.write_all(b"\nL\n").context("begin a life")?;
        Ok(Self { file, next })
    }

    /// Notes that so many facts of a table are appended now, by the wall and the boot clock; returns the first number.
    pub(super) fn append(&mut self, table: usize, count: u64, now: (TimeMicros, i64)) -> Result<u64> {
        let next = self.next.get_mut(table).context("find the table")?;
        let first = *next;
        let (time, boot_us) = now;
        let line = format!("A {table} {first} {count} {} {boot_us}\n", time.0);
        self.file
            .write_all(line.as_bytes())
            .context("write the journal")?;
        *next += count;
        Ok(first)
    }

    /// Notes that the spool made everything below these numbers durable, or its loss.
    pub(super) fn promised(&mut self, [events, findings, metrics]: [u64; 3]) -> Result<()> {
        let line = format!("D {events} {findings} {metrics}\n");
        self.file.write_all(line.as_bytes()).context("write the journal")
    }

    /// Notes that the life ended in order.
    pub(super) fn closed(&mut self) -> Result<()> {
        self.file.write_all(b"C\n").context("write the journal")
    }
}

impl Batch {
    /// What the wall clock was set to: the same as long as nobody sets it.
    pub(super) fn setting_us(&self) -> i64 {
        self.time.0 - self.boot_us
    }
}

/// Notes that the spool of this agent was wiped.
pub(super) fn wiped(folder: &Path) -> Result<()> {
    let mut file = File::options()
        .append(true)
        .open(path(folder))
        .context("open the journal")?;
    file.write_all(b"\nW\n").context("write the journal")
}

/// Reads the lives in `folder`; none when there is no journal.
pub(super) fn read(folder: &Path) -> Result<Vec<Life>> {
    match std::fs::read_to_string(path(folder)) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("read a journal"),
    }
}

fn parse(text: &str) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    // Half a line is the last of its life.
    for line in text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let numbers: Vec<i64> = words.filter_map(|word| word.parse().ok()).collect();
        if kind == "L" {
            lives.push(Life::default());
        }
        let Some(life) = lives.last_mut() else { continue };
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        match (kind, numbers.as_slice()) {
            ("A", [table, first, count, time, boot_us]) => {
                let table = usize::try_from(*table).unwrap_or(usize::MAX);
                if let Some(batches) = life.batches.get_mut(table) {
                    batches.push(Batch {
                        first: unsigned(*first),
                        count: unsigned(*count),
                        time: TimeMicros(*time),
                        boot_us: *boot_us,
                    });
                }
            }
            ("D", [events, findings, metrics]) => {
                life.promised = [unsigned(*events), unsigned(*findings), unsigned(*metrics)];
            }
            ("C", []) => {
                life.clean = true;
                life.promised = [u64::MAX; 3];
            }
            ("W", []) => life.wiped = true,
            _ => {}
        }
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_a_kill_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), 1).unwrap();
        assert_eq!(journal.append(0, 5, (TimeMicros(7), 1)).unwrap(), 1);
        journal.promised([4, 1, 1]).unwrap();
        journal.file.write_all(b"A 0 6 9 9").unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path(), 1).unwrap();
        assert_eq!(journal.append(0, 2, (TimeMicros(8), 2)).unwrap(), 6);
        journal.closed().unwrap();
        wiped(folder.path()).unwrap();
        let lives = read(folder.path()).unwrap();
        assert_eq!(lives.len(), 2);
        assert_eq!(lives[0].promised, [4, 1, 1]);
        assert!(!lives[0].clean && lives[1].clean && lives[1].wiped);
        assert_eq!(
            lives[1].batches[0],
            [Batch {
                first: 6,
                count: 2,
                time: TimeMicros(8),
                boot_us: 2
            }]
        );
    }
}
