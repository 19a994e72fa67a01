//! A crash at any moment, enumerated.
//!
//! A child process does a fixed workload on a real store. Its parent traces it and records every call that changes
//! the store's folder, in the order in which the calls ended, together with what the child said was acknowledged
//! (`trace.rs`). What a disk holds after any number of these calls is then made from the record (`disk.rs`), and the
//! store opened on it (`check.rs`). So are backups, prunings and restores (`backup.rs`) and a catalogue and a control
//! database of an older program that today's brings up to date (`migration.rs`):
//!
//! - *kill*: every call up to a point took effect, none after it. This is what `kill -9` leaves.
//! - *power cut*: of what was not synced before that point, nothing is left, or a part chosen by a seed, where a write
//!   may be torn between two sectors and names of files appear or vanish without their contents.
//!
//! Whatever the point: the store opens by itself; every record that was acknowledged before the point is there once;
//! after everything was sent again, every record is there once; and no gap says that something was lost.
//!
//! All that holds too when the catalogue and its copy go with the crash, and the files alone say what there is; then one
//! gap of at least 0 rows says so.
//!
//! The points are spread evenly over the record, at most `POINTS` of each kind, and fewer of what takes longer to look at;
//! `FLEETMEND_CRASH_POINTS=all` takes
//! every one, and a number as many. A failure names its point and seed; `FLEETMEND_CRASH_POINT=N[:SEED]` repeats that one.
//!
//! # Limits
//! Changes through a mapped file are not seen; SQLite's index of its log is one, which is made again at every start.
//! A disk that writes less than a sector, or tells that a sync is done before it is, is not simulated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]
#![cfg(target_arch = "x86_64")]

mod backup;
mod check;
mod disk;
mod migration;
mod read_only;
#[path = "../../src/tests/rows.rs"]
mod rows;
mod trace;
mod workload;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use disk::{Disk, Left};
use trace::Record;

/// Points of each kind in an ordinary run.
const POINTS: usize = 250;

/// Of `all` points those to look at, at most `most` in an ordinary run, spread evenly.
fn points(all: &[usize], most: usize) -> Vec<usize> {
    let wanted = match std::env::var("FLEETMEND_CRASH_POINTS").as_deref() {
        Ok("all") => all.len(),
        Ok(number) => number
            .parse()
            .expect("FLEETMEND_CRASH_POINTS is a number or `all`"),
        Err(_) => most,
    };
    let wanted = wanted.clamp(1, all.len());
    (0..wanted)
        .map(|n| all[(n + 1) * all.len() / wanted - 1])
        .collect()
}

/// What has to hold of a folder after a crash, by what the child had said.
type Check = fn(&Path, &[String]) -> Result<(), String>;

/// A kill.
fn kill(_: usize) -> Vec<Left> {
    vec![Left::Everything]
}

/// A power cut.
fn power_cut(point: usize) -> Vec<Left> {
    vec![Left::Synced, Left::Chance(point as u64)]
}

/// Looks at the points on two threads; the first that fails is named with all it takes to repeat it.
fn each(record: &Record, chosen: &[usize], left: fn(usize) -> Vec<Left>, check: Check) {
    let chosen: Vec<(usize, Left)> = match std::env::var("FLEETMEND_CRASH_POINT") {
        Ok(text) => {
            let (point, seed) = text
                .split_once(':')
                .map_or((text.as_str(), None), |(point, seed)| (point, Some(seed)));
            let point = point.parse().expect("FLEETMEND_CRASH_POINT begins with a number");
            let seed = seed.map(|seed| Left::Chance(seed.parse().expect("a seed is a number")));
            let all = seed.map_or_else(|| left(point), |seed| vec![seed]);
            all.into_iter().map(|left| (point, left)).collect()
        }
        Err(_) => chosen
            .iter()
            .flat_map(|point| left(*point).into_iter().map(|left| (*point, left)))
            .collect(),
    };
    println!("{} points", chosen.len());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((point, left)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let folder = tempfile::tempdir().unwrap();
            let mut disk = Disk::default();
            let acknowledged = record.play(*point, &mut disk);
            disk.leave(*left, folder.path());
            if let Err(fault) = check(folder.path(), &acknowledged) {
                panic!(
                    "after call {point} of {} ({}), {left:?}: {fault}\nrepeat with FLEETMEND_CRASH_POINT={point}{}",
                    record.calls(),
                    record.name_of(*point),
                    match left {
                        Left::Chance(seed) => format!(":{seed}"),
                        _ => String::new(),
                    }
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

fn store(left: fn(usize) -> Vec<Left>, check: Check) {
    let record = trace::record("workload::child");
    assert!(
        record.words() > 10 && record.calls() > 100,
        "the child did nothing"
    );
    let all: Vec<usize> = (1..=record.calls()).collect();
    each(&record, &points(&all, POINTS), left, check);
}

#[test]
fn kill_after_any_call_loses_nothing_acknowledged() {
    store(kill, check::holds);
}

#[test]
fn catalogue_lost_with_a_kill_after_any_call_loses_nothing_acknowledged() {
    store(kill, check::holds_without_catalogue);
}

#[test]
fn power_cut_after_any_call_loses_nothing_acknowledged() {
    store(power_cut, check::holds);
}
