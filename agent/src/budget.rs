//! The agent's budget of itself: how much it may take of the host, and what it leaves out before it takes more.
//!
//! Declared are processor time, memory, disk and egress ([`BudgetConfig`]). The spool keeps to the disk and the
//! stream to the egress by themselves, each with gaps for what they give up. For processor time and memory a
//! thread, [`keeper`], measures the agent every second and moves on a ladder:
//!
//! | step | what is left out, besides what the steps before leave out | told by |
//! |---|---|---|
//! | `everything` | nothing | |
//! | `unhurried` | processes are read and units are listed 6 times rarer | DEGRADED probes |
//! | `thin` | host metrics every tenth time; the host-anomaly model is paused, as its windows would be of another kind | gaps of `metrics` |
//! | `executions` | of kernel events only executions become rows; forks, exits and connections are counted | gaps of `process_events`, `network_events` |
//! | `critical` | only findings, actions, ledger, gaps and states are stored; rules and limits still see every fact that is collected | gaps of each table |
//!
//! Findings and actions are never left out, on no step. Gaps have the stage `collect` and the reason `budget`.
//!
//! # Invariants
//! - Memory over the budget goes a step down every 3 s, memory a tenth above it at once to the last one.
//!   Resident memory is judged by the declared budget, what the cgroup holds by 80 % of its limit ([`cgroup`]), so
//!   that the ladder is at work before the limit is. Processor time over the budget for a minute goes a step down, never to the last: that one gives
//!   back memory, and rules cost the same.
//! - A step up needs room for 2 minutes. When it was too early, the next one needs twice as long, up to half an
//!   hour ([`ladder`]).
//! - What could not be measured moves nothing, and the probe `agent.budget` says so.
//! - A start after an OOM kill begins a step down for each such end in a row, and after the second waits before
//!   it loads anything ([`last_run`]): the agent never loops on OOM.
//!
//! # Tasks and channels
//! [`Keeper::spawn`]: thread `budget`, best effort (without it the agent works on the step it had). It sets the
//! [`StepHandle`] that the hub's [`gate`] reads and the pace that collect follows, and publishes a [`BudgetState`]
//! in a `watch` for `status`.
//!
//! # Limits
//! The healer is not part of it: its own unit bounds it. Memory that the kernel holds for BPF maps counts against
//! the cgroup's limit only, not against the declared memory. Of a cgroup shared with others, theirs counts too.

mod cgroup;
mod config;
mod files;
pub(crate) mod gate;
mod keeper;
mod ladder;
pub(crate) mod last_run;
mod meter;
pub(crate) mod metrics;
mod pages;

#[cfg(test)]
mod tests;

use std::path::Path;

use tracing::warn;

pub(crate) use config::{BudgetConfig, disk_needed};
pub(crate) use keeper::{BudgetState, Keeper};
pub(crate) use ladder::Step;

use cgroup::Cgroup;
use last_run::{Beginning, Evidence, RunMark};

/// What is known before anything is loaded.
pub(crate) struct Begun {
    cgroup: Option<Cgroup>,
    run: RunMark,
    beginning: Beginning,
}

/// Looks at how the last run ended, by the mark in `path`, and waits when runs in a row were ended by the OOM killer.
pub(crate) fn begin(path: &Path) -> Begun {
    let cgroup = Cgroup::of_self();
    let (run, beginning) = RunMark::begin(path, Evidence::gather(cgroup.as_ref()));
    if let Some(why) = &beginning.why {
        let (step, wait_s) = (beginning.step().name(), beginning.wait().as_secs());
        let in_a_row = beginning.oom_ends;
        warn!(
            step,
            in_a_row, wait_s, why, "the last run ended for want of memory, this one collects less"
        );
    }
    // Nothing runs yet that would have to be ended in order: a signal ends the wait.
    std::thread::sleep(beginning.wait());
    Begun {
        cgroup,
        run,
        beginning,
    }
}
