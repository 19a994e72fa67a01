//! The guards: each a pure function of a [`Situation`], asked in order; the first that objects decides.
//!
//! Order: stop switch, policy, plan, grant, scope, protected set, cool-down, attempt limit, breaker, budget,
//! one action per target. The mode comes last of all: in observe mode every guard is asked all the same, so
//! that what "would be done" is what enforcing would do.

mod scope;

use fleetmend_event::TimeMicros;
use fleetmend_event::healer::Proposal;
use fleetmend_event::remedy::Remedy;
use fleetmend_event::table::{FindingState, SubjectKind};

use crate::history::History;
use crate::ledger::hash_text;
use crate::policy::{Grant, Mode, Policy};
use crate::procfs::ProcessSight;
use crate::protect::Protection;
use crate::remedy::units::UnitNames;
use crate::words::words;

pub use scope::places_for;

words! {
    /// Who objected; its name begins the reason of a refusal.
    pub enum Guard {
        /// The proposal does not hang together, or came too late.
        Plan = "plan",
        /// Acting is stopped on this host.
        KillSwitch = "kill-switch",
        /// The remedy cannot be carried out on this host.
        NotApplicable = "not-applicable",
        /// The target cannot be seen to be what it was said to be.
        Sight = "sight",
        /// The policy does not grant the remedy.
        Grant = "grant",
        /// The policy grants the remedy, but not on this target.
        Scope = "scope",
        /// The target is never touched.
        Protected = "protected",
        /// It was tried too recently.
        CoolDown = "cool-down",
        /// It was tried too often.
        Attempts = "attempts",
        /// Too much went wrong on this host.
        Breaker = "breaker",
        /// Too much was done on this host.
        Budget = "budget",
        /// Something is being done to the target.
        InFlight = "in-flight",
        /// What was measured is not what the finding says.
        Precondition = "precondition",
    }
}

/// The target, as the healer itself sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    /// A process, running.
    Process(Box<ProcessSight>),
    /// A folder, and the device of its filesystem.
    Folder {
        /// As it was named.
        path: std::path::PathBuf,
        /// Number of the device: the same for every name of every folder on it.
        device: u64,
    },
    /// A unit.
    Unit(UnitNames),
    /// Nothing that could be told to be the target.
    Unseen(String),
    /// The host cannot carry the remedy out.
    NotApplicable(String),
}

impl Sight {
    /// What cool-down and attempts are counted by, hashed as the ledger keeps it: nothing that whoever proposes
    /// could write in another way. A process is known by its program, since one that is started again and again
    /// must not get a new count each time; a folder by its filesystem, whose space is what is freed; a unit by
    /// the name that systemd gives it.
    pub fn target_key(&self) -> String {
        let name = match self {
            Sight::Process(process) => format!("process:{}", process.executable.as_deref().unwrap_or("-")),
            Sight::Folder { device, .. } => format!("filesystem:{device}"),
            Sight::Unit(unit) => format!("unit:{}", unit.id),
            Sight::Unseen(_) | Sight::NotApplicable(_) => "unseen".to_owned(),
        };
        hash_text(&name)
    }
}

/// All that a decision depends on.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The present moment.
    pub now: TimeMicros,
    /// Why acting is stopped, when it is.
    pub stopped: Option<String>,
    /// The policy installed, expired or not.
    pub policy: Option<&'a Policy>,
    /// What is asked.
    pub proposal: &'a Proposal,
    /// What is seen.
    pub sight: &'a Sight,
    /// What is never touched.
    pub protection: &'a Protection,
    /// What was tried before.
    pub history: &'a History,
    /// Targets something is being done to.
    pub in_flight: &'a [String],
}

/// What the guards say.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Do it under this grant.
    Act(Grant),
    /// Say what would be done; the grant, when a policy has one.
    Observe {
        /// The grant.
        grant: Option<Grant>,
        /// Why only that.
        reason: String,
    },
    /// Do nothing.
    Refuse {
        /// Who objects.
        guard: Guard,
        /// Why.
        reason: String,
    },
}

type Objection = (Guard, String);

const HOUR_S: u64 = 3600;

/// The decision.
pub fn decide(situation: &Situation<'_>) -> Decision {
    match weigh(situation) {
        Ok(decision) => decision,
        Err((guard, reason)) => Decision::Refuse {
            guard,
            reason: format!("{guard}: {reason}"),
        },
    }
}

fn weigh(s: &Situation<'_>) -> Result<Decision, Objection> {
    not_stopped(s)?;
    well_formed(s)?;
    seen(s)?;
    protected(s, None)?;
    let Some(policy) = s.policy else {
        in_flight(s)?;
        let reason = "no policy is installed: observe only".to_owned();
        return Ok(Decision::Observe { grant: None, reason });
    };
    let grant = granted(s, policy)?;
    protected(s, Some(grant))?;
    cooled_down(s, grant)?;
    attempts(s, grant)?;
    breaker(s, policy)?;
    budget(s, policy)?;
    in_flight(s)?;
    let grant = grant.clone();
    if s.now >= policy.not_after {
        let reason = format!(
            "policy {} expired at {}: observe only",
            policy.version, policy.not_after
        );
        return Ok(Decision::Observe {
            grant: Some(grant),
            reason,
        });
    }
    match policy.mode {
        Mode::Enforce => Ok(Decision::Act(grant)),
        Mode::Observe => {
            let reason = format!("policy {} says observe only", policy.version);
            Ok(Decision::Observe {
                grant: Some(grant),
                reason,
            })
        }
    }
}

fn object(guard: Guard, reason: impl Into<String>) -> Result<(), Objection> {
    Err((guard, reason.into()))
}

fn not_stopped(s: &Situation<'_>) -> Result<(), Objection> {
    match &s.stopped {
        Some(reason) => object(Guard::KillSwitch, reason.clone()),
        None => Ok(()),
    }
}

/// The agent is not trusted, but what it says has to hang together.
fn well_formed(s: &Situation<'_>) -> Result<(), Objection> {
    let finding = &s.proposal.finding;
    if s.now >= s.proposal.not_after {
        return object(
            Guard::Plan,
            format!("the proposal was good until {}", s.proposal.not_after),
        );
    }
    if finding.state != FindingState::Open {
        return object(Guard::Plan, "the finding is resolved");
    }
    let same_subject = match &s.proposal.remedy {
        Remedy::ThrottleProcess {
            process,
            cpu_core_pct,
        } => {
            if *cpu_core_pct == 0 {
                return object(Guard::Plan, "a limit of 0 % would stop the process");
            }
            finding.rule == "runaway-process"
                && finding.pid == Some(process.pid)
                && finding.start_boot_ns == Some(process.start_boot_ns)
        }
        Remedy::KillProcess { process } => {
            finding.rule == "runaway-process"
                && finding.pid == Some(process.pid)
                && finding.start_boot_ns == Some(process.start_boot_ns)
        }
        Remedy::FreeDisk {
            path,
            used_pct_target,
        } => {
            if *used_pct_target > 100 {
                return object(Guard::Plan, "the target is not a percentage");
            }
            finding.rule == "filesystem-full"
                && finding.subject_kind == SubjectKind::Filesystem
                && finding.subject == *path
        }
        Remedy::RestartUnit { unit } => {
            finding.rule == "unit-failed"
                && finding.subject_kind == SubjectKind::Unit
                && finding.subject == *unit
        }
    };
    if same_subject {
        Ok(())
    } else {
        object(Guard::Plan, "the remedy does not fit the finding")
    }
}

fn seen(s: &Situation<'_>) -> Result<(), Objection> {
    match s.sight {
        Sight::Unseen(reason) => object(Guard::Sight, reason.clone()),
        Sight::NotApplicable(reason) => object(Guard::NotApplicable, reason.clone()),
        Sight::Process(_) | Sight::Folder { .. } | Sight::Unit(_) => Ok(()),
    }
}

/// Of what policy allows nothing in the protected set is touched; without a policy the target itself counts.
fn protected(s: &Situation<'_>, grant: Option<&Grant>) -> Result<(), Objection> {
    let reason = match (s.sight, grant) {
        (Sight::Process(process), _) => s.protection.of_process(process),
        (Sight::Unit(unit), _) => unit.all().find_map(|name| s.protection.of_unit(name)),
        (Sight::Folder { path, .. }, Some(grant)) => places_for(grant, path)
            .iter()
            .find_map(|place| s.protection.of_folder(&place.path)),
        // A filesystem is named by its mount point, which may be `/`; what is deleted is decided by places.
        (Sight::Folder { .. }, None) | (Sight::Unseen(_) | Sight::NotApplicable(_), _) => None,
    };
    reason.map_or(Ok(()), |reason| object(Guard::Protected, reason))
}

fn granted<'p>(s: &Situation<'_>, policy: &'p Policy) -> Result<&'p Grant, Objection> {
    let name = s.proposal.remedy.name();
    let grants: Vec<&Grant> = policy
        .grants
        .iter()
        .filter(|grant| grant.remedy() == name)
        .collect();
    if grants.is_empty() {
        return Err((
            Guard::Grant,
            format!("policy {} does not grant {name}", policy.version),
        ));
    }
    let valid: Vec<&Grant> = grants.into_iter().filter(|grant| !grant.is_void()).collect();
    if valid.is_empty() {
        let reason = format!(
            "policy {} grants {name} without irreversible_allowed",
            policy.version
        );
        return Err((Guard::Grant, reason));
    }
    let fits = |grant: &&Grant| scope::covers(grant, s.sight);
    valid.into_iter().find(fits).ok_or_else(|| {
        let target = s.proposal.remedy.target();
        (
            Guard::Scope,
            format!("policy {} grants {name}, but not on {target}", policy.version),
        )
    })
}

fn cooled_down(s: &Situation<'_>, grant: &Grant) -> Result<(), Objection> {
    let cooldown_s = grant.limits().cooldown_s;
    let last = s.history.last(grant.remedy(), &s.sight.target_key());
    match last.filter(|last| last.time > before(s.now, cooldown_s)) {
        Some(last) => object(
            Guard::CoolDown,
            format!(
                "{} was tried on this target at {}; it waits {cooldown_s} s",
                grant.remedy(),
                last.time
            ),
        ),
        None => Ok(()),
    }
}

fn attempts(s: &Situation<'_>, grant: &Grant) -> Result<(), Objection> {
    let limits = grant.limits();
    let since = before(s.now, limits.attempts_window_s);
    let made = s.history.count(grant.remedy(), &s.sight.target_key(), since);
    if made < usize::try_from(limits.attempts_max).unwrap_or(usize::MAX) {
        return Ok(());
    }
    let reason = format!(
        "tried {made} times within {} s; {} are allowed",
        limits.attempts_window_s, limits.attempts_max
    );
    object(Guard::Attempts, reason)
}

fn breaker(s: &Situation<'_>, policy: &Policy) -> Result<(), Objection> {
    let breaker = &policy.breaker;
    // What opened it lies before the last failure, and must not fade while it is open.
    let Some((last, failures)) = s.history.failures(micros(breaker.window_s)) else {
        return Ok(());
    };
    let open = last > before(s.now, breaker.open_s);
    if !open || failures < usize::try_from(breaker.failures).unwrap_or(usize::MAX) {
        return Ok(());
    }
    object(
        Guard::Breaker,
        format!(
            "{failures} actions did not heal within {} s; a person should look",
            breaker.window_s
        ),
    )
}

fn budget(s: &Situation<'_>, policy: &Policy) -> Result<(), Objection> {
    let made = s.history.count_all(before(s.now, HOUR_S));
    if made < usize::try_from(policy.actions_per_hour_max).unwrap_or(usize::MAX) {
        return Ok(());
    }
    object(
        Guard::Budget,
        format!(
            "{made} actions within an hour; {} are allowed",
            policy.actions_per_hour_max
        ),
    )
}

fn in_flight(s: &Situation<'_>) -> Result<(), Objection> {
    let key = s.sight.target_key();
    if s.in_flight.contains(&key) {
        return object(Guard::InFlight, "another action on this target has not ended yet");
    }
    Ok(())
}

fn before(now: TimeMicros, seconds: u64) -> TimeMicros {
    now.plus_micros(micros(seconds).saturating_neg())
}

fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
