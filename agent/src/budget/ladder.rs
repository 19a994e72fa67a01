//! Where the agent stands between collecting everything and only what is critical, and when it moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use agent_collect::Pace;

use super::meter::Load;

/// Time between two steps down for memory: what the last one gives back is seen by then.
const MEMORY_SETTLES: Duration = Duration::from_secs(3);
/// Memory this far over its budget goes to the last step at once.
const MEMORY_URGENT: f64 = 1.1;
/// Load below which there is room for a step up.
const MEMORY_ROOM: f64 = 0.9;
const CPU_ROOM: f64 = 0.7;
/// How long there has to be room before a step up.
const ROOM_FIRST: Duration = Duration::from_secs(120);
/// The same after an OOM kill.
const ROOM_AFTER_OOM: Duration = Duration::from_secs(300);
/// Longest that a step up is put off because earlier ones came too early.
const ROOM_MAX: Duration = Duration::from_secs(1_800);
/// A step down so soon after a step up shows that the step up came too early.
const RELAPSE: Duration = Duration::from_secs(600);

/// A step of the ladder; see the room's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Step {
    /// Nothing is left out.
    #[default]
    Everything,
    /// Processes and units are read rarer.
    Unhurried,
    /// Host metrics are sampled rarer, the model is paused.
    Thin,
    /// Of kernel events only executions become rows.
    Executions,
    /// Only the critical lane and states are stored.
    Critical,
}

/// The step as the rest of the agent sees it; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepHandle(Arc<AtomicU8>);

/// Why a step was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Memory is over its budget.
    Memory,
    /// Processor time is over its budget.
    Cpu,
    /// There was room for a while.
    Room,
}

impl Cause {
    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Room => "room",
        }
    }
}

/// A step that was just taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    /// From where.
    pub(crate) from: Step,
    /// To where.
    pub(crate) to: Step,
    /// Why.
    pub(crate) cause: Cause,
}

/// Decides on the steps. It reads no clock and measures nothing.
#[derive(Debug)]
pub(crate) struct Ladder {
    step: Step,
    moved_at: Option<Duration>,
    climbed_at: Option<Duration>,
    room_since: Option<Duration>,
    room_needed: Duration,
}

impl Step {
    /// All of them, from the top.
    pub(crate) const ALL: [Self; 5] = [
        Self::Everything,
        Self::Unhurried,
        Self::Thin,
        Self::Executions,
        Self::Critical,
    ];

    /// Its number: 0 is everything.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The step of a number; above the last one it is that.
    pub(crate) fn of(number: u8) -> Self {
        let step = Self::ALL.into_iter().find(|step| step.number() == number);
        step.unwrap_or(Self::Critical)
    }

    /// Its name in status, logs and documents.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Unhurried => "unhurried",
            Self::Thin => "thin",
            Self::Executions => "executions",
            Self::Critical => "critical",
        }
    }

    /// What this step leaves out, alone.
    pub(crate) const fn leaves_out(self) -> &'static str {
        match self {
            Self::Everything => "nothing",
            Self::Unhurried => "processes are read and units are listed 6 times rarer",
            Self::Thin => "host metrics are sampled 10 times rarer and the host-anomaly model is paused",
            Self::Executions => "forks, exits and connections are counted only",
            Self::Critical => "nothing but findings, actions, gaps and states is stored",
        }
    }

    /// What collect is asked for.
    pub(crate) const fn pace(self) -> Pace {
        match self {
            Self::Everything => Pace::Full,
            Self::Unhurried => Pace::Unhurried,
            Self::Thin => Pace::Thin,
            Self::Executions | Self::Critical => Pace::Executions,
        }
    }

    fn down(self) -> Self {
        Self::of(self.number().saturating_add(1))
    }

    fn up(self) -> Self {
        Self::of(self.number().saturating_sub(1))
    }
}

impl StepHandle {
    /// The present step.
    pub(crate) fn get(&self) -> Step {
        Step::of(self.0.load(Ordering::Relaxed))
    }

    /// Moves everyone who looks.
    pub(crate) fn set(&self, step: Step) {
        self.0.store(step.number(), Ordering::Relaxed);
    }
}

impl Ladder {
    /// Begins on a step: the top, or below it after an OOM kill.
    pub(crate) fn new(step: Step) -> Self {
        let room_needed = if step == Step::Everything {
            ROOM_FIRST
        } else {
            ROOM_AFTER_OOM
        };
        Self {
            step,
            moved_at: None,
            climbed_at: None,
            room_since: None,
            room_needed,
        }
    }

    /// Where it stands.
    pub(crate) const fn step(&self) -> Step {
        self.step
    }

    /// How long it has been on the top step; none when it is on another.
    pub(crate) fn on_top_for(&self, now: Duration) -> Option<Duration> {
        let since = self.climbed_at.unwrap_or(Duration::ZERO);
        (self.step == Step::Everything).then(|| now.saturating_sub(since))
    }

    /// Looks at the load at `now` of the boot clock; says which step was taken, if one was.
    pub(crate) fn look(&mut self, now: Duration, load: Load) -> Option<Move> {
        let (to, cause) = self.decide(now, load)?;
        let from = std::mem::replace(&mut self.step, to);
        self.room_since = None;
        self.moved_at = Some(now);
        if cause == Cause::Room {
            self.climbed_at = Some(now);
        } else if self
            .climbed_at
            .is_some_and(|climbed| now.saturating_sub(climbed) < RELAPSE)
        {
            self.room_needed = (self.room_needed * 2).min(ROOM_MAX);
            self.climbed_at = None;
        }
        Some(Move { from, to, cause })
    }

    fn decide(&mut self, now: Duration, load: Load) -> Option<(Step, Cause)> {
        let over = |load: Option<f64>, bound: f64| load.is_some_and(|load| load >= bound);
        if over(load.memory, 1.0) {
            self.room_since = None;
            let settled = self
                .moved_at
                .is_none_or(|moved| now.saturating_sub(moved) >= MEMORY_SETTLES);
            let urgent = over(load.memory, MEMORY_URGENT);
            let to = if urgent { Step::Critical } else { self.step.down() };
            return (to > self.step && (settled || urgent)).then_some((to, Cause::Memory));
        }
        if over(load.cpu, 1.0) {
            self.room_since = None;
            return (self.step < Step::Executions).then(|| (self.step.down(), Cause::Cpu));
        }
        let tight = over(load.memory, MEMORY_ROOM) || over(load.cpu, CPU_ROOM) || load.memory.is_none();
        if tight || self.step == Step::Everything {
            self.room_since = None;
            self.forgive(now);
            return None;
        }
        let since = *self.room_since.get_or_insert(now);
        (now.saturating_sub(since) >= self.room_needed).then(|| (self.step.up(), Cause::Room))
    }

    /// After a while on the top step without a relapse earlier ones no longer count.
    fn forgive(&mut self, now: Duration) {
        let calm = |climbed| now.saturating_sub(climbed) >= RELAPSE;
        if self.step == Step::Everything && self.climbed_at.is_some_and(calm) {
            self.room_needed = ROOM_FIRST;
        }
    }
}
