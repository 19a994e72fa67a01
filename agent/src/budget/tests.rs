//! The ladder under simulated loads, and the keeper and the gate under simulated measurements.

use std::time::Duration;

use agent_collect::{FactSink, Pace};
use fleetmend_event::table::{Gap, ProbeState, ProbeStatus, UnitState};
use fleetmend_event::{Fact, Lane, MetricFrame, SeriesKey, TimeMicros};
use tokio::sync::mpsc;

use super::gate::Gate;
use super::ladder::{Cause, Ladder, Step, StepHandle};
use super::last_run::{Evidence, RunMark};
use super::meter::{Load, Sample};
use super::{Begun, BudgetConfig, Keeper};

const fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn memory(load: f64) -> Load {
    Load {
        memory: Some(load),
        cpu: Some(0.1),
    }
}

fn cpu(load: f64) -> Load {
    Load {
        memory: Some(0.3),
        cpu: Some(load),
    }
}

/// Looks every second of a range and returns the steps that were taken, with their seconds.
fn walk(ladder: &mut Ladder, seconds: std::ops::Range<u64>, load: Load) -> Vec<(u64, Step)> {
    seconds
        .filter_map(|second| Some((second, ladder.look(at(second), load)?.to)))
        .collect()
}

#[test]
fn memory_over_the_budget_goes_down_step_by_step_in_the_published_order() {
    let mut ladder = Ladder::new(Step::Everything);
    assert_eq!(walk(&mut ladder, 0..100, memory(0.99)), []);
    let taken = walk(&mut ladder, 100..130, memory(1.02));
    let wanted = [
        (100, Step::Unhurried),
        (103, Step::Thin),
        (106, Step::Executions),
        (109, Step::Critical),
    ];
    assert_eq!(taken, wanted);
}

#[test]
fn memory_a_tenth_over_the_budget_goes_to_the_last_step_at_once() {
    let mut ladder = Ladder::new(Step::Everything);
    let first = ladder.look(at(5), memory(1.0)).unwrap();
    assert_eq!((first.to, first.cause), (Step::Unhurried, Cause::Memory));
    let urgent = ladder.look(at(6), memory(1.1)).unwrap();
    assert_eq!(urgent.to, Step::Critical);
    assert_eq!(ladder.look(at(7), memory(1.3)), None);
}

#[test]
fn processor_time_never_reaches_the_last_step() {
    let mut ladder = Ladder::new(Step::Everything);
    let taken = walk(&mut ladder, 0..100, cpu(3.0));
    assert_eq!(taken.last(), Some(&(2, Step::Executions)));
    assert_eq!(taken.len(), 3);
}

#[test]
fn steps_up_need_room_without_interruption() {
    let mut ladder = Ladder::new(Step::Everything);
    walk(&mut ladder, 0..2, memory(1.0));
    assert_eq!(ladder.step(), Step::Unhurried);
    assert_eq!(walk(&mut ladder, 2..100, memory(0.5)), []);
    assert_eq!(ladder.look(at(100), memory(0.95)), None, "not enough room");
    assert_eq!(walk(&mut ladder, 101..221, memory(0.5)), []);
    assert_eq!(
        walk(&mut ladder, 221..300, memory(0.5)),
        [(221, Step::Everything)]
    );
}

#[test]
fn steps_up_that_came_too_early_are_put_off_longer_each_time() {
    let mut ladder = Ladder::new(Step::Everything);
    let mut waits = Vec::new();
    let mut second = 0;
    for _ in 0..8 {
        ladder.look(at(second), memory(1.0)).unwrap();
        let fell = second;
        while ladder.look(at(second), memory(0.5)).is_none() {
            second += 1;
        }
        waits.push(second - fell);
        second += 10;
    }
    assert_eq!(waits, [120, 240, 480, 960, 1_800, 1_800, 1_800, 1_800]);
    // Long on the top without a relapse, and it begins anew.
    walk(&mut ladder, second..second + 700, memory(0.5));
    ladder.look(at(second + 700), memory(1.0)).unwrap();
    let climbed = walk(&mut ladder, second + 701..second + 900, memory(0.5));
    assert_eq!(climbed, [(second + 821, Step::Everything)]);
}

#[test]
fn what_could_not_be_measured_moves_nothing() {
    let unknown = Load::default();
    let mut ladder = Ladder::new(Step::Thin);
    assert_eq!(walk(&mut ladder, 0..5_000, unknown), []);
    assert_eq!(ladder.step(), Step::Thin);
}

#[test]
fn ladder_ends_where_the_load_wants_it_whatever_came_before() {
    let seed = std::env::var("FLEETMEND_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut state: u64 = seed.unwrap_or(42);
    println!("seed {state}; another by FLEETMEND_TEST_SEED");
    let mut below = move |bound: u32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap() % bound
    };
    for _ in 0..200 {
        let mut ladder = Ladder::new(Step::of(u8::try_from(below(5)).unwrap()));
        let mut second = 0;
        for _ in 0..300 {
            let (before, load) = (ladder.step(), memory(f64::from(below(1_300)) / 1_000.0));
            let moved = ladder.look(at(second), load);
            assert_eq!(moved.is_none(), before == ladder.step());
            assert!(moved.is_none_or(|step| step.to < step.from) || load.memory >= Some(1.0));
            second += 1;
        }
        walk(&mut ladder, second..second + 20, memory(1.05));
        assert_eq!(ladder.step(), Step::Critical, "memory stays over the budget");
        walk(&mut ladder, second + 20..second + 20 + 5 * 1_801, memory(0.5));
        assert_eq!(ladder.step(), Step::Everything, "there is room for hours");
    }
}

/// A finding as the detector makes it.
fn finding() -> Fact {
    let config = agent_detect::DetectConfig {
        rule_dirs: Vec::new(),
        ..agent_detect::DetectConfig::default()
    };
    let mut limits = agent_detect::limits::Limits::new(config.limits);
    let mut tracker = agent_detect::tracker::FindingTracker::default();
    let failed = Fact::from(UnitState {
        time: TimeMicros::now(),
        unit: "shop.service".to_owned(),
        description: String::new(),
        load_state: "loaded".to_owned(),
        active_state: "failed".to_owned(),
        sub_state: String::new(),
        main_pid: 0,
        restart_count: 0,
        result: "exit-code".to_owned(),
    });
    let found = limits.observe(&failed, &mut tracker);
    Fact::from(found.into_iter().next().unwrap())
}

fn keeper(folder: &tempfile::TempDir) -> (Keeper, mpsc::Receiver<Fact>) {
    let (sender, facts) = mpsc::channel(1_000);
    let (run, beginning) = RunMark::begin(&folder.path().join("run.json"), Evidence::default());
    let begun = Begun {
        cgroup: None,
        run,
        beginning,
    };
    let keeper = Keeper::new(BudgetConfig::default(), begun, FactSink::new(sender));
    (keeper, facts)
}

fn sample(resident_mib: u64) -> Sample {
    Sample {
        resident_bytes: Some(resident_mib << 20),
        cpu_core_pct: Some(1.0),
        ..Sample::default()
    }
}

fn probes(facts: &mut mpsc::Receiver<Fact>) -> Vec<ProbeStatus> {
    let mut rows = Vec::new();
    while let Ok(fact) = facts.try_recv() {
        if let Fact::ProbeStatus(row) = fact {
            rows.push(*row);
        }
    }
    rows
}

#[test]
fn every_step_is_followed_shown_and_told_as_a_degraded_probe() {
    let folder = tempfile::tempdir().unwrap();
    let (mut keeper, mut facts) = keeper(&folder);
    let (step, pace, states) = (keeper.step(), keeper.pace(), keeper.states());
    keeper.look(at(1), &sample(60));
    let first = probes(&mut facts);
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].probe.as_str(), first[0].state),
        ("agent.budget", ProbeState::Real)
    );
    keeper.look(at(2), &sample(61));
    assert_eq!(probes(&mut facts).len(), 0, "nothing changed");

    let mut seen = Vec::new();
    for second in [10, 13, 16, 19] {
        keeper.look(at(second), &sample(150));
        let rows = probes(&mut facts);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].state, ProbeState::Degraded);
        assert!(
            rows[0].reason.contains("150 MiB resident of 144 MiB"),
            "{}",
            rows[0].reason
        );
        assert!(
            rows[0].reason.contains(step.get().leaves_out()),
            "{}",
            rows[0].reason
        );
        let state = states.borrow().clone();
        assert_eq!(state.step, step.get().number());
        assert_eq!(state.left_out.len(), usize::from(state.step));
        seen.push((step.get(), pace.get()));
    }
    let wanted = [
        (Step::Unhurried, Pace::Unhurried),
        (Step::Thin, Pace::Thin),
        (Step::Executions, Pace::Executions),
        (Step::Critical, Pace::Executions),
    ];
    assert_eq!(seen, wanted);
    for second in 20..600 {
        keeper.look(at(second), &sample(60));
    }
    assert_eq!((step.get(), pace.get()), (Step::Everything, Pace::Full));
    assert_eq!(probes(&mut facts).last().unwrap().state, ProbeState::Real);
}

#[test]
fn start_after_an_oom_kill_is_a_step_down_says_so_and_climbs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    drop(RunMark::begin(&path, Evidence::default()));
    super::last_run::note_end(&path, "oom-kill").unwrap();
    let (mut keeper, mut facts) = keeper(&folder);
    let step = keeper.step();
    assert_eq!(step.get(), Step::Unhurried);
    keeper.look(at(1), &sample(60));
    let row = probes(&mut facts).remove(0);
    assert_eq!(row.state, ProbeState::Degraded);
    assert!(row.reason.contains("OOM killer"), "{}", row.reason);
    for second in 2..400 {
        keeper.look(at(second), &sample(60));
    }
    assert_eq!(step.get(), Step::Everything);
}

#[test]
fn last_step_stores_findings_gaps_and_states_and_counts_the_rest() {
    let step = StepHandle::default();
    let mut gate = Gate::new(step.clone());
    let frame = |second: i64| {
        Fact::from(MetricFrame {
            time: TimeMicros(second * 1_000_000),
            series: vec![SeriesKey::new("a", "1", []), SeriesKey::new("b", "1", [])].into(),
            values: vec![1.0, 2.0],
        })
    };
    step.set(Step::Executions);
    assert!(gate.admits(&frame(1)));
    step.set(Step::Critical);
    assert!(!gate.admits(&frame(2)) && !gate.admits(&frame(5)));
    let gaps = gate.gaps();
    let [Fact::Gap(gap)] = gaps.as_slice() else {
        panic!("{gaps:?}")
    };
    assert_eq!(
        (gap.table.as_str(), gap.lane, gap.count),
        ("metrics", Lane::Metrics, 4)
    );
    assert_eq!((gap.from_time.0, gap.to_time.0), (2_000_000, 5_000_000));
    assert_eq!(gap.reason, "budget");
    let gap: Gap = (**gap).clone();
    assert!(gate.admits(&gap.into()));
    assert!(gate.admits(&finding()));
    assert!(gate.finish().is_empty(), "each loss is told once");
}
