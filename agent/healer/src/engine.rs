//! The healer itself: what it knows, and what may be asked of it. Everything here blocks; the server calls it
//! from blocking threads.
//!
//! Lock order: `proposing` before `state`. `state` is held while an entry is synced to the ledger, and never
//! while something is measured, planned or done.

mod known;
mod record;
mod recover;
mod standing;
mod time;
mod transaction;
mod trust;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleetmend_event::TimeMicros;
use fleetmend_event::healer::{HealerReply, HealerStatus, PROTOCOL_VERSION, Proposal};
use fleetmend_event::table::ActionStage;
use tokio::sync::watch;

use crate::anchors;
use crate::clock::Clock;
use crate::error::{OpenError, Stop};
use crate::guard::{Decision, Guard, Situation, decide};
use crate::history::History;
use crate::interrupt::Interrupt;
use crate::journal::{Journal, Record, Step, boot_id};
use crate::ledger::{Kind, Ledger, LedgerError, Page};
use crate::metrics;
use crate::policy::{InstallError, Mode, PolicyStore};
use crate::protect::Protection;
use crate::remedy::{self, Host, Undone};

use known::{Known, ProposalRate};
use record::{Entry, remember};
pub use transaction::Job;

/// Transactions under way at once.
const IN_FLIGHT_MAX: usize = 4;
/// Entries that a follower is sent at a time.
const PAGE_ENTRIES: usize = 32;

/// Where the healer keeps and finds things.
#[derive(Debug, Clone)]
pub struct Options {
    /// Journal, ledger, policy, stop switch.
    pub state_dir: PathBuf,
    /// The fleet's trust bundle, a file of root's.
    pub trust_bundle: PathBuf,
    /// This host's id, a file of root's.
    pub host_file: Option<PathBuf>,
    /// Size of the ledger at which the healer stops acting.
    pub ledger_bytes_max: u64,
}

impl Options {
    /// A file that stops all acting while it exists.
    pub fn stop_file(&self) -> PathBuf {
        self.state_dir.join("stopped")
    }

    /// A file by which root says that the clock of the host is right.
    pub fn accept_clock_file(&self) -> PathBuf {
        self.state_dir.join("accept-clock")
    }

    /// The ledger.
    pub fn ledger_file(&self) -> PathBuf {
        self.state_dir.join("ledger.jsonl")
    }
}

/// The healer; clones are the same one.
#[derive(Clone)]
pub struct Healer {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    host: Host,
    clock: Arc<dyn Clock>,
    interrupt: Arc<dyn Interrupt>,
    boot_id: String,
    closing: AtomicBool,
    proposing: Mutex<ProposalRate>,
    state: Mutex<State>,
    next: watch::Sender<u64>,
    // Held for the life of the process.
    _lock: std::fs::File,
}

struct State {
    ledger: Result<Ledger, String>,
    policy: PolicyStore,
    history: History,
    known: Known,
    in_flight: Vec<String>,
    standing: Vec<Record>,
    // Taken off, which the ledger does not have yet.
    unrecorded: Vec<(Record, Undone)>,
    protection: Protection,
    stopped: bool,
    time_floor: TimeMicros,
    clock_behind: bool,
    journal: Journal,
}

impl Healer {
    /// Opens the state. A broken ledger does not keep the healer from opening: it then refuses everything and
    /// says why.
    ///
    /// # Errors
    /// When files cannot be opened, others may write to them, or another healer holds them.
    pub fn open(
        options: Options,
        host: Host,
        clock: Arc<dyn Clock>,
        interrupt: Arc<dyn Interrupt>,
    ) -> Result<Self, OpenError> {
        fleetmend_identity::files::private_folder(&options.state_dir)?;
        let lock = anchors::hold(&options.state_dir)?;
        let us = anchors::who_we_are(&options)?;
        let journal = Journal::open(&options.state_dir)?;
        let (mut history, mut known) = (History::default(), Known::default());
        let (mut floor, mut time_floor) = (0, TimeMicros(i64::MIN));
        let opened = Ledger::open(
            &options.ledger_file(),
            options.ledger_bytes_max,
            &mut |entry, body| {
                floor = floor.max(body.policy_version);
                time_floor = time::floor_after(time_floor, body.kind, entry.time);
                remember(&mut history, &mut known, entry.time, body);
            },
        );
        let ledger = match opened {
            Err(LedgerError::File { .. }) | Ok(_) => Ok(opened?),
            Err(error) => {
                tracing::error!(%error, "ledger is not to be believed: nothing will be done");
                Err(error.to_string())
            }
        };
        let policy = PolicyStore::open(&options.state_dir, us, floor);
        if let Some(fault) = policy.fault() {
            tracing::error!(fault, "installed policy is not in force");
        }
        let mut protection = Protection::default();
        protection.pids.extend(host.procfs.ancestors(std::process::id()));
        protection.folders.push(options.state_dir.clone());
        let next = watch::Sender::new(ledger.as_ref().map_or(0, Ledger::next_index));
        let state = State {
            ledger,
            policy,
            history,
            known,
            in_flight: Vec::new(),
            standing: Vec::new(),
            unrecorded: Vec::new(),
            protection,
            stopped: options.stop_file().exists(),
            time_floor,
            clock_behind: false,
            journal,
        };
        let inner = Inner {
            options,
            host,
            clock,
            interrupt,
            boot_id: boot_id(),
            closing: AtomicBool::new(false),
            proposing: Mutex::new(ProposalRate::default()),
            state: Mutex::new(state),
            next,
            _lock: lock,
        };
        let healer = Self {
            inner: Arc::new(inner),
        };
        healer.note(
            Kind::Start,
            format!("fleetmend-healer {} started", env!("CARGO_PKG_VERSION")),
        );
        Ok(healer)
    }

    /// Considers a proposal. When something is to follow, the job has to be run on a thread of its own.
    pub fn propose(&self, proposal: Proposal) -> (HealerReply, Option<Job>) {
        let mut rate = self
            .inner
            .proposing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let action_id = proposal.action_id;
        let decided = |accepted, reason: String| HealerReply::Decided {
            action_id,
            accepted,
            reason,
        };
        if let Err(reason) = &self.state().ledger {
            return (
                HealerReply::Refused {
                    reason: reason.clone(),
                },
                None,
            );
        }
        if let Some((accepted, reason)) = self.state().known.get(action_id) {
            metrics::proposal("known");
            return (decided(accepted, reason), None);
        }
        if let Some(reason) = rate.refuses(self.now()) {
            metrics::proposal("limited");
            return (decided(false, reason), None);
        }
        match self.consider(proposal) {
            Ok((accepted, reason, job)) => {
                self.state().known.insert(action_id, accepted, &reason);
                (decided(accepted, reason), job)
            }
            Err(stop) => {
                tracing::error!(error = %stop, "proposal could not be recorded");
                (
                    HealerReply::Refused {
                        reason: stop.to_string(),
                    },
                    None,
                )
            }
        }
    }

    fn consider(&self, proposal: Proposal) -> Result<(bool, String, Option<Job>), Stop> {
        let sight = remedy::see(&self.inner.host, &proposal.remedy);
        let key = sight.target_key();
        let decision = {
            let mut state = self.state();
            let entry = Entry::new(
                &proposal,
                &key,
                ActionStage::Proposed,
                proposal.finding.title.clone(),
            );
            self.record(&mut state, entry)?;
            let situation = Situation {
                now: self.now_of(&state),
                stopped: self.stopped_reason(&state),
                policy: state.policy.current(),
                proposal: &proposal,
                sight: &sight,
                protection: &state.protection,
                history: &state.history,
                in_flight: &state.in_flight,
            };
            match decide(&situation) {
                Decision::Act(_) | Decision::Observe { .. } if state.in_flight.len() >= IN_FLIGHT_MAX => {
                    let guard = Guard::InFlight;
                    Decision::Refuse {
                        guard,
                        reason: format!("{guard}: {IN_FLIGHT_MAX} actions are under way"),
                    }
                }
                decision => decision,
            }
        };
        let (grant, observe) = match decision {
            Decision::Act(grant) => (Some(grant), None),
            Decision::Observe { grant, reason } => (grant, Some(reason)),
            Decision::Refuse { reason, .. } => return self.refuse(&proposal, &key, reason),
        };
        let plan = match remedy::plan(&self.inner.host, &proposal, grant.as_ref(), &sight) {
            Ok(plan) => plan,
            Err(reason) => return self.refuse(&proposal, &key, format!("{}: {reason}", Guard::Plan)),
        };
        let record = Record {
            format: 1,
            proposal,
            plan,
            target_key: key.clone(),
            step: Step::Journalled,
            before: "{}".to_owned(),
            boot_id: self.inner.boot_id.clone(),
            verify_deadline_s: grant.map_or(0, |grant| grant.limits().verify_deadline_s),
            until: None,
            ending: None,
            outcome: String::new(),
        };
        let mut state = self.state();
        let described = record.plan.treatment().describe();
        if let Some(reason) = observe {
            state.in_flight.push(key);
            metrics::proposal("observe");
            return Ok((false, reason.clone(), Some(Job::observe(record, reason))));
        }
        state.journal.write(&record)?;
        let entry = Entry::new(
            &record.proposal,
            &record.target_key,
            ActionStage::Journalled,
            described.clone(),
        );
        if let Err(stop) = self.record(&mut state, entry) {
            // Nothing comes of it; a record that stays ends as no-op at the next start.
            if let Err(error) = state.journal.remove(record.proposal.action_id) {
                tracing::warn!(%error, "journal record of what is not done was not removed");
            }
            return Err(stop);
        }
        state.in_flight.push(key);
        metrics::proposal("act");
        Ok((true, described, Some(Job::act(record))))
    }

    fn refuse(
        &self,
        proposal: &Proposal,
        key: &str,
        reason: String,
    ) -> Result<(bool, String, Option<Job>), Stop> {
        metrics::proposal("refuse");
        tracing::info!(action_id = %proposal.action_id, remedy = proposal.remedy.name(), reason, "proposal refused");
        self.record(
            &mut self.state(),
            Entry::new(proposal, key, ActionStage::Refused, reason.clone()),
        )?;
        Ok((false, reason, None))
    }

    /// How things stand.
    pub fn status(&self) -> HealerStatus {
        let state = self.state();
        let policy = state.policy.current();
        let in_force = policy.filter(|policy| self.now_of(&state) < policy.not_after);
        HealerStatus {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: in_force.map_or(Mode::Observe, |policy| policy.mode).to_string(),
            policy_version: policy.map_or(0, |policy| policy.version),
            stopped: state.ledger.is_err() || self.stopped_reason(&state).is_some(),
            remedies: remedy::support(&self.inner.host),
            ledger_next: state.ledger.as_ref().map_or(0, Ledger::next_index),
            bundle_version: state.policy.bundle_version(),
        }
    }

    /// Installs a signed policy.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn install_policy(&self, envelope: &[u8]) -> Result<(), InstallError> {
        let outcome = match anchors::who_we_are(&self.inner.options) {
            Ok(us) => {
                let mut state = self.state();
                state.policy.know(us);
                state.policy.install(envelope)
            }
            Err(error) => Err(InstallError::Anchors(error.to_string())),
        };
        match &outcome {
            Ok(true) => {
                let version = self.state().policy.current().map_or(0, |policy| policy.version);
                tracing::info!(version, "policy installed");
                self.note(Kind::Policy, format!("policy {version} installed"));
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "policy refused");
                // Whoever sends rubbish without end must not fill the ledger with it.
                let mut rate = self
                    .inner
                    .proposing
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if rate.refuses(self.now()).is_none() {
                    self.note(Kind::Policy, error.to_string());
                }
            }
        }
        outcome.map(|_| ())
    }

    /// Stops all acting, or resumes it.
    ///
    /// # Errors
    /// When the file that says so could not be made or removed.
    pub fn set_stopped(&self, stopped: bool) -> std::io::Result<()> {
        set_stop_file(&self.inner.options.stop_file(), stopped)?;
        self.notice_stop();
        Ok(())
    }

    /// Never acts on this process while it is connected.
    pub fn protect(&self, pid: u32) {
        self.state().protection.peers.push(pid);
    }

    /// A connection of this process ended.
    pub fn unprotect(&self, pid: u32) {
        let mut state = self.state();
        if let Some(position) = state.protection.peers.iter().position(|peer| *peer == pid) {
            state.protection.peers.swap_remove(position);
        }
    }

    /// The next index of the ledger, whenever it changes.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.inner.next.subscribe()
    }

    /// A run of ledger entries; none when the ledger is broken.
    pub fn page(&self, from_index: u64) -> Option<Page> {
        self.state()
            .ledger
            .as_ref()
            .ok()
            .map(|ledger| ledger.page(from_index, PAGE_ENTRIES))
    }

    /// What is to be done now and then: takes standing effects back in time, and notices root's files.
    pub fn tick(&self) {
        self.notice_clock();
        self.notice_stop();
        self.release_standing();
    }

    /// Makes transactions come to a pause: what is under way is brought to its end at the next start.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::SeqCst);
    }

    fn notice_stop(&self) {
        let mut state = self.state();
        let stopped = self.stopped_reason(&state).is_some();
        if stopped != state.stopped {
            state.stopped = stopped;
            drop(state);
            tracing::warn!(stopped, "stop switch changed");
            self.note(
                Kind::KillSwitch,
                if stopped {
                    "acting is stopped"
                } else {
                    "acting is resumed"
                }
                .to_owned(),
            );
        }
    }

    fn stopped_reason(&self, state: &State) -> Option<String> {
        let of_policy = state
            .policy
            .current()
            .and_then(|policy| policy.kill_switch_path.clone());
        let mut files = [Some(self.inner.options.stop_file()), of_policy]
            .into_iter()
            .flatten();
        // What cannot be told counts as stopped.
        files
            .find(|file| file.try_exists().unwrap_or(true))
            .map(|file| format!("acting is stopped by {}", file.display()))
    }

    /// Why nothing may be done now, if nothing may: what cannot be recorded is not done.
    fn halted_reason(&self, state: &State) -> Option<String> {
        let unrecorded = state.ledger.as_ref().err().cloned();
        unrecorded.or_else(|| self.stopped_reason(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes or removes the file that stops all acting.
///
/// # Errors
/// When it could not be made or removed.
pub fn set_stop_file(path: &std::path::Path, stopped: bool) -> std::io::Result<()> {
    let changed = if stopped {
        std::fs::write(path, b"stopped\n")
    } else {
        std::fs::remove_file(path)
    };
    match changed {
        Err(error) if !stopped && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        changed => changed,
    }
}
