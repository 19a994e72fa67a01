//! What the tests said, read from the serial port, and the table that is made of it.
//!
//! The init says, each on a line: `== KERNEL version`, for each program `== SHARE count` of its tests that are run, then
//! for every test `== TEST name`, what is told of it with `| ` before it, and `== DONE name code from to`; at last
//! `== END`. A test says `FAMILY name STATE reason` of a family of
//! probes, and `COULD NOT RUN` or `not run` with the reason when it did not try what it is named for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

/// Where the tables of a page begin and end.
const MARKS: [&str; 2] = [
    "<!-- kernel matrix: written by cargo xtask vm kernel-matrix --page -->\n",
    "<!-- end of the kernel matrix -->",
];
/// Exit code of a process that was killed.
const KILLED: i32 = 137;

/// The tests on one kernel.
#[derive(Debug)]
pub(crate) struct Row {
    /// Name of the kernel in the matrix.
    pub(crate) name: String,
    /// What the kernel calls itself.
    pub(crate) version: String,
    pub(crate) tests: Vec<Test>,
}

/// A test on one kernel.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    pub(crate) said: Vec<String>,
}

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    TimedOut,
    /// It ended well and said that it did not try.
    NotRun,
}

impl Test {
    /// A test that ended; one that passed may have said that it did not run.
    pub(crate) fn new(name: String, outcome: Outcome, seconds: f64, said: Vec<String>) -> Self {
        let skipped = |line: &String| line.starts_with("COULD NOT RUN") || line.starts_with("not run");
        let outcome = if outcome == Outcome::Passed && said.iter().any(skipped) {
            Outcome::NotRun
        } else {
            outcome
        };
        Self {
            name,
            outcome,
            seconds,
            said,
        }
    }

    /// The part of the sensor that it tests: the module that it lies in.
    pub(crate) fn part(&self) -> &str {
        match self
            .name
            .strip_prefix("bpf::tests::")
            .and_then(|rest| rest.split_once("::"))
        {
            Some((part, _)) => part,
            None => "units",
        }
    }
}

impl Row {
    /// Reads what a machine said.
    pub(crate) fn read(name: &str, results: &str) -> Result<Row> {
        let mut version = None;
        let mut tests = Vec::new();
        let mut said = Vec::new();
        let mut running = None;
        let mut ended = false;
        let mut owed = 0_usize;
        for line in results.lines() {
            if let Some(line) = line.strip_prefix("| ") {
                said.push(line.to_owned());
            } else if let Some(told) = line.strip_prefix("== KERNEL ") {
                version = Some(told.to_owned());
            } else if let Some(count) = line.strip_prefix("== SHARE ") {
                let count: usize = count.trim().parse().with_context(|| format!("read {line:?}"))?;
                owed = owed.saturating_add(count);
            } else if let Some(name) = line.strip_prefix("== TEST ") {
                running = Some(name);
                said.clear();
            } else if let Some(done) = line.strip_prefix("== DONE ") {
                tests.push(
                    done_test(done, std::mem::take(&mut said)).with_context(|| format!("read {line:?}"))?,
                );
                running = None;
            } else if line == "== END" {
                ended = true;
            }
        }
        ensure!(
            ended,
            "the machine did not come to its end; it was at {}",
            running.unwrap_or("no test")
        );
        ensure!(
            tests.len() == owed,
            "{} of {owed} tests came to their end",
            tests.len()
        );
        Ok(Row {
            name: name.to_owned(),
            version: version.context("find the kernel's version")?,
            tests,
        })
    }

    /// The rows of machines that shared the tests of a kernel, as one.
    pub(crate) fn joined(rows: Vec<Row>) -> Result<Row> {
        let mut rows = rows.into_iter();
        let mut first = rows.next().context("find the row of a machine")?;
        first.tests.extend(rows.flat_map(|row| row.tests));
        ensure!(!first.tests.is_empty(), "no test has a name like that");
        Ok(first)
    }

    /// Families of probes with the state that they said of themselves.
    pub(crate) fn families(&self) -> BTreeMap<&str, &str> {
        let lines = self.tests.iter().flat_map(|test| &test.said);
        lines
            .filter_map(|line| line.strip_prefix("FAMILY ")?.split_once(' '))
            .collect()
    }
}

/// `name code from to`
fn done_test(done: &str, said: Vec<String>) -> Option<Test> {
    let mut words = done.split(' ');
    let name = words.next()?.to_owned();
    let code: i32 = words.next()?.parse().ok()?;
    let (from, to): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let outcome = match code {
        0 => Outcome::Passed,
        KILLED => Outcome::TimedOut,
        _ => Outcome::Failed,
    };
    Some(Test::new(name, outcome, to - from, said))
}

/// The matrix: parts of the sensor by kernels, then what each family of probes said.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    let head = |text: &mut String, first: &str| {
        text.push_str(&format!("| {first} |"));
        for row in rows {
            write!(text, " {} ({}) |", row.name, row.version).ok();
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(rows.len()));
        text.push('\n');
    };
    head(&mut text, "tests of");
    let mut parts: Vec<&str> = rows.iter().flat_map(|row| &row.tests).map(Test::part).collect();
    parts.sort_unstable();
    parts.dedup();
    for part in parts {
        write!(text, "| {part} |").ok();
        for row in rows {
            write!(text, " {} |", cell(row, part)).ok();
        }
        text.push('\n');
    }
    let mut families: Vec<&str> = rows.iter().flat_map(|row| row.families().into_keys()).collect();
    families.sort_unstable();
    families.dedup();
    if !families.is_empty() {
        text.push('\n');
        head(&mut text, "family");
    }
    for family in families {
        write!(text, "| {family} |").ok();
        for row in rows {
            let state = row.families().get(family).copied().unwrap_or("nothing was said");
            write!(text, " {} |", state.replace('|', "/")).ok();
        }
        text.push('\n');
    }
    text
}

/// A page with other tables between its marks; `None` when it lacks them.
pub(crate) fn into_page(page: &str, tables: &str) -> Option<String> {
    let [begin, end] = MARKS;
    let (head, rest) = page.split_once(begin)?;
    let (_, tail) = rest.split_once(end)?;
    Some(format!("{head}{begin}\n{}\n\n{end}{tail}", tables.trim()))
}

fn cell(row: &Row, part: &str) -> String {
    let tests: Vec<&Test> = row.tests.iter().filter(|test| test.part() == part).collect();
    let of = |outcome: Outcome| {
        let names = tests.iter().filter(|test| test.outcome == outcome);
        names
            .map(|test| test.name.rsplit("::").next().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let mut cell = format!("{} of {}", of(Outcome::Passed).len(), tests.len());
    for (outcome, words) in [
        (Outcome::Failed, "failed"),
        (Outcome::TimedOut, "did not end"),
        (Outcome::NotRun, "not run"),
    ] {
        let names = of(outcome);
        if !names.is_empty() {
            write!(cell, "; {words}: {}", names.join(", ")).ok();
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "== KERNEL 6.1.0-1\n== SHARE 3\n== TEST bpf::tests::processes::one\n| FAMILY process REAL\n\
        == DONE bpf::tests::processes::one 0 3.10 4.60\n== TEST bpf::tests::processes::two\n| COULD NOT RUN: no clock\n\
        == DONE bpf::tests::processes::two 0 5 6\n== TEST bpf::clock::tests::three\n| panicked\n\
        == DONE bpf::clock::tests::three 101 6 7\n";

    #[test]
    fn results_are_read_and_told_by_part() {
        let row = Row::read("6.1", &format!("{SAID}== END\n")).unwrap();
        let outcomes: Vec<Outcome> = row.tests.iter().map(|test| test.outcome).collect();
        assert_eq!(outcomes, [Outcome::Passed, Outcome::NotRun, Outcome::Failed]);
        assert_eq!(row.families().get("process"), Some(&"REAL"));
        let table = markdown(&[row]);
        assert!(table.contains("| processes | 1 of 2; not run: two |"), "{table}");
        assert!(table.contains("| units | 0 of 1; failed: three |"), "{table}");
        assert!(table.contains("| process | REAL |"), "{table}");
    }

    #[test]
    fn tables_of_a_page_are_replaced_between_the_marks() {
        let [begin, end] = MARKS;
        let page = into_page(&format!("head\n{begin}old{end}\ntail"), "new\n").unwrap();
        assert_eq!(page, format!("head\n{begin}\nnew\n\n{end}\ntail"));
        assert_eq!(into_page(&page, "new").unwrap(), page);
        assert!(into_page("no marks", "new").is_none());
    }

    #[test]
    fn test_that_was_never_run_is_missed() {
        let error = Row::read("6.1", &format!("{}== END\n", SAID.replace("SHARE 3", "SHARE 4"))).unwrap_err();
        assert_eq!(error.to_string(), "3 of 4 tests came to their end");
    }

    #[test]
    fn machine_that_stops_in_a_test_is_told_with_the_test() {
        let error = Row::read("6.1", "== KERNEL 6\n== TEST bpf::tests::a::b\n").unwrap_err();
        assert!(error.to_string().contains("bpf::tests::a::b"), "{error}");
    }
}
