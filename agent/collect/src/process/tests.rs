use std::collections::HashSet;

use fleetmend_event::TimeMicros;
use proptest::prelude::*;

use super::table::{Exec, Identity, Reading, Table};
use super::*;

const SECOND: u64 = 1_000_000_000;

fn small() -> ProcessConfig {
    ProcessConfig {
        running_max: 4,
        ended_max: 3,
        snapshot_rows_max: 3,
        ..ProcessConfig::default()
    }
}

fn program(comm: &str) -> Program {
    Program {
        comm: comm.to_owned(),
        exe: Some(format!("/bin/{comm}")),
        ..Program::default()
    }
}

fn reading(pid: u32, start: u64, comm: &str, cpu_ns: u64) -> Reading {
    Reading {
        pid,
        ppid: 1,
        start_boot_ns: start,
        state: 'S',
        cpu_ns,
        thread_count: 1,
        identity: Some(Identity {
            program: program(comm),
            ..Identity::default()
        }),
        storage_bytes: Some((100, 200)),
        ..Reading::default()
    }
}

fn exec(key: ProcessKey, parent: ProcessKey, comm: &str) -> Exec {
    Exec {
        key,
        parent,
        program: Arc::new(program(comm)),
        placement: None,
        uid: 0,
        gid: 0,
    }
}

#[test]
fn child_begins_with_its_parents_program_and_place() {
    let mut table = Table::new(&ProcessConfig::default());
    let (shell, child) = (ProcessKey::new(10, SECOND), ProcessKey::new(11, 2 * SECOND));
    let placement = Some(Arc::new(Placement::from_path("/system.slice/cron.service")));
    table.executed(Exec {
        placement,
        ..exec(shell, ProcessKey::new(1, 0), "sh")
    });
    let forked = table.forked(child, shell, "sh", 0, 0);
    assert_eq!(forked.program.exe.as_deref(), Some("/bin/sh"));
    assert_eq!(
        forked
            .placement
            .as_deref()
            .and_then(|place| place.unit.as_deref()),
        Some("cron.service")
    );
    let executed = table.executed(exec(child, shell, "ls"));
    assert_eq!(executed.program.exe.as_deref(), Some("/bin/ls"));
    assert!(executed.placement.is_some(), "an exec does not move a process");
}

#[test]
fn parent_that_ended_is_still_named() {
    let mut table = Table::new(&ProcessConfig::default());
    let (shell, child) = (ProcessKey::new(10, SECOND), ProcessKey::new(11, 2 * SECOND));
    table.executed(exec(shell, ProcessKey::new(1, 0), "sh"));
    table.forked(child, shell, "sh", 0, 0);
    assert!(table.exited(shell).is_some());
    assert_eq!(table.ancestors(child, 8).len(), 1);
    assert!(table.running(10).is_none());
}

#[test]
fn pid_that_comes_again_is_another_process() {
    let mut table = Table::new(&ProcessConfig::default());
    let (first, second) = (ProcessKey::new(10, SECOND), ProcessKey::new(10, 3 * SECOND));
    table.executed(exec(first, ProcessKey::new(1, 0), "a"));
    let changes = table.observed(vec![reading(10, 3 * SECOND, "b", 0)], 4 * SECOND, 4 * SECOND);
    assert_eq!(
        changes
            .ended
            .iter()
            .map(|process| process.key)
            .collect::<Vec<_>>(),
        [first]
    );
    assert_eq!(
        changes
            .began
            .iter()
            .map(|process| process.key)
            .collect::<Vec<_>>(),
        [second]
    );
    assert_eq!(table.get(first).map(|process| process.ended), Some(true));
}

#[test]
fn late_exit_event_of_an_earlier_process_ends_nothing() {
    let mut table = Table::new(&ProcessConfig::default());
    let (first, second) = (ProcessKey::new(10, SECOND), ProcessKey::new(10, 3 * SECOND));
    table.executed(exec(second, ProcessKey::new(1, 0), "b"));
    assert!(table.exited(first).is_none());
    assert!(table.running(10).is_some());
}

#[test]
fn what_began_during_a_reading_has_not_ended_by_missing_in_it() {
    let mut table = Table::new(&ProcessConfig::default());
    table.executed(exec(
        ProcessKey::new(10, 5 * SECOND),
        ProcessKey::new(1, 0),
        "new",
    ));
    let changes = table.observed(Vec::new(), 5 * SECOND - 1, 6 * SECOND);
    assert!(changes.ended.is_empty());
    let changes = table.observed(Vec::new(), 8 * SECOND, 8 * SECOND);
    assert_eq!(changes.ended.len(), 1);
}

#[test]
fn use_of_a_core_is_measured_between_two_readings() {
    let mut table = Table::new(&ProcessConfig::default());
    table.observed(vec![reading(10, SECOND, "hog", 0)], 10 * SECOND, 10 * SECOND);
    table.snapshot(TimeMicros(1), false);
    let mut second = reading(10, SECOND, "hog", 4 * SECOND);
    second.storage_bytes = Some((150, 200));
    table.observed(vec![second], 15 * SECOND, 15 * SECOND);
    let rows = table.snapshot(TimeMicros(2), false);
    assert_eq!(
        (rows[0].cpu_core_pct, rows[0].read_bytes, rows[0].write_bytes),
        (80.0, 50, 0)
    );
}

#[test]
fn snapshot_tells_new_and_busy_ones_and_the_end_of_those_it_told() {
    let mut table = Table::new(&ProcessConfig::default());
    let round = |table: &mut Table, pids: &[u32], now: u64| {
        let readings = pids.iter().map(|pid| reading(*pid, SECOND, "idle", 0)).collect();
        table.observed(readings, now, now);
    };
    round(&mut table, &[10, 11], 10 * SECOND);
    assert_eq!(table.snapshot(TimeMicros(1), false).len(), 2, "both are new");
    round(&mut table, &[10, 11], 15 * SECOND);
    assert!(table.snapshot(TimeMicros(2), false).is_empty(), "nothing changed");
    round(&mut table, &[11], 20 * SECOND);
    let rows = table.snapshot(TimeMicros(3), false);
    assert_eq!((rows.len(), rows[0].pid, rows[0].state.as_str()), (1, 10, "X"));
    assert_eq!(table.snapshot(TimeMicros(4), true).len(), 1, "all that run");
}

#[test]
fn what_the_bounds_leave_out_is_counted() {
    let mut table = Table::new(&small());
    for pid in 10..16 {
        table.executed(exec(ProcessKey::new(pid, SECOND), ProcessKey::new(1, 0), "x"));
    }
    assert_eq!((table.len(), table.take_dropped()), (4, 2));
    let readings = (10..14).map(|pid| reading(pid, SECOND, "x", 0)).collect();
    table.observed(readings, 5 * SECOND, 5 * SECOND);
    assert_eq!(
        (table.snapshot(TimeMicros(1), true).len(), table.take_dropped()),
        (3, 1)
    );
}

proptest! {
    /// Whatever comes in whatever order, the bounds hold and no process is both running and ended.
    #[test]
    fn bounds_hold_under_any_events(events in prop::collection::vec((0_u8..4, 1_u32..9, 0_u64..4), 0..200)) {
        let mut table = Table::new(&small());
        let mut keys = HashSet::new();
        for (index, (what, pid, start)) in events.into_iter().enumerate() {
            let key = ProcessKey::new(pid, start * SECOND);
            keys.insert(key);
            let parent = ProcessKey::new(pid / 2, start * SECOND);
            let now = (index as u64 + 10) * SECOND;
            match what {
                0 => drop(table.forked(key, parent, "f", 0, 0)),
                1 => drop(table.executed(exec(key, parent, "e"))),
                2 => drop(table.exited(key)),
                _ => drop(table.observed(vec![reading(pid, start * SECOND, "o", 0)], now, now)),
            }
            prop_assert!(table.len() <= 4);
            prop_assert!(table.snapshot(TimeMicros(1), true).len() <= 3);
            prop_assert!(table.ancestors(key, 5).len() <= 5);
        }
        let ended = keys.iter().filter(|key| table.get(**key).is_some_and(|process| process.ended)).count();
        prop_assert!(ended <= 3);
    }
}
