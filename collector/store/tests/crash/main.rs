//! A crash at any moment, enumerated.
//!
//! A child process does a fixed workload on a real store. Its parent traces it and records every call that changes
//! the store's folder, in the order in which the calls ended, together with what the child said was acknowledged
//! (`trace.rs`). What a disk holds after any number of these calls is then made from the record (`disk.rs`), and the
//! store opened on it (`check.rs`):
//!
//! - *kill*: every call up to a point took effect, none after it. This is what `kill -9` leaves.
//! - *power cut*: of what was not synced before that point, nothing is left, or a part chosen by a seed, where a write
//!   may be torn between two sectors and names of files appear or vanish without their contents.
//!
//! Whatever the point: the store opens by itself; every record that was acknowledged before the point is there once;
//! after everything was sent again, every record is there once; and no gap says that something was lost.
//!
//! The points are spread evenly over the record, at most `POINTS` of each kind; `FLEETMEND_CRASH_POINTS=all` takes
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

mod check;
mod disk;
mod trace;
mod workload;

use std::sync::atomic::{AtomicUsize, Ordering};

use disk::{Disk, Left};
use trace::Record;

/// Points of each kind in an ordinary run.
const POINTS: usize = 250;

/// The points to look at among `count`, spread evenly.
fn points(count: usize) -> Vec<usize> {
    let wanted = match std::env::var("FLEETMEND_CRASH_POINTS").as_deref() {
        Ok("all") => count,
        Ok(number) => number
            .parse()
            .expect("FLEETMEND_CRASH_POINTS is a number or `all`"),
        Err(_) => POINTS,
    };
    let wanted = wanted.clamp(1, count);
    (0..wanted).map(|n| (n + 1) * count / wanted).collect()
}

/// Looks at every point on two threads; the first that fails is named with all it takes to repeat it.
fn each(record: &Record, left: impl Fn(usize) -> Vec<Left> + Sync) {
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
        Err(_) => points(record.calls())
            .into_iter()
            .flat_map(|point| left(point).into_iter().map(move |left| (point, left)))
            .collect(),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((point, left)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let folder = tempfile::tempdir().unwrap();
            let mut disk = Disk::default();
            let acknowledged = record.play(*point, &mut disk);
            disk.leave(*left, folder.path());
            if let Err(fault) = check::holds(folder.path(), &acknowledged) {
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

#[test]
fn kill_after_any_call_loses_nothing_acknowledged() {
    let record = trace::record("workload::child");
    each(&record, |_| vec![Left::Everything]);
}

#[test]
fn power_cut_after_any_call_loses_nothing_acknowledged() {
    let record = trace::record("workload::child");
    each(&record, |point| vec![Left::Synced, Left::Chance(point as u64)]);
}
