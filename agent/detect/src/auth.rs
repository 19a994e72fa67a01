//! Attacks on accounts, seen in `auth_events`.
//!
//! | rule | about | when | ATT&CK |
//! |---|---|---|---|
//! | `auth-brute-force` | address | `failures` in `window_s` | T1110.001 |
//! | `auth-slow-brute-force` | address | `slow_failures` in `slow_window_s`, and no faster one | T1110.001 |
//! | `auth-password-spray` | address | `spray_users` accounts in `window_s` | T1110.003, T1110.004 |
//! | `auth-distributed-brute-force` | user | `distributed_failures` from `distributed_addresses` in twice `window_s` | T1110.001 |
//! | `auth-success-after-failures` | address | a password accepted within an hour of `failures` refused | T1110, T1078 |
//! | `auth-root-password` | address | root, from elsewhere, by password | T1078.003 |
//! | `auth-new-source`, `auth-new-key` | user | a network or key that the account never used, after `learn_s` | T1078, T1098.004 |
//! | `auth-elevation-failures` | user | `elevation_failures` of sudo, su, doas in `window_s` | T1548.003 |
//! | `auth-first-elevation` | user | the first one of an account, after `learn_s` | T1548.003 |
//! | `auth-uid-zero` | user | an account that is root by its number | T1136.001 |
//! | `auth-privileged-group` | user | added to a group that may become root | T1098 |
//!
//! One attacker is one finding: a spray takes over from a brute force of the same address, and both are counted up
//! while they go on. A key that is accepted is no guess that succeeded. Every map is bounded: the one that was
//! quiet longest makes room, and is counted.

mod attempts;
mod config;
mod known;
mod words;

use std::collections::HashMap;

use fleetmend_event::TimeMicros;
use fleetmend_event::table::{AuthEvent, AuthEventKind, AuthOutcome, Finding, Severity, SubjectKind};

use crate::tracker::{FindingTracker, Notice, Subject};
use attempts::{Bounded, Source, Target, Times};
pub use config::AuthConfig;
pub(crate) use known::KnownUsers;
use words::{Words, notice};

/// Addresses, and accounts, whose failures are remembered.
const TRACKED_MAX: usize = 4_096;
/// Findings that are followed: twice as many as the tracker keeps open.
const OPEN_MAX: usize = 8_192;
/// A password that is accepted so long after failures may be one that was guessed, in microseconds.
const GUESSED_US: i64 = 3_600_000_000;
/// Findings about one deed hold so long, in microseconds.
const DEED_US: i64 = 24 * 3_600_000_000;
/// A clock in a log that is ahead of ours by more is not believed, in microseconds.
const AHEAD_US: i64 = 60_000_000;

/// Watches authentications.
pub(crate) struct Auth {
    config: AuthConfig,
    sources: Bounded<Source>,
    targets: Bounded<Target>,
    elevations: Bounded<Times>,
    known: KnownUsers,
    /// Findings of ours, and until when they hold without a new notice.
    open: HashMap<(&'static str, Subject), TimeMicros>,
}

impl Auth {
    /// A detector that goes on from what was learnt.
    pub(crate) fn new(config: AuthConfig, known: KnownUsers) -> Self {
        Self {
            config,
            sources: Bounded::new(TRACKED_MAX),
            targets: Bounded::new(TRACKED_MAX),
            elevations: Bounded::new(TRACKED_MAX),
            known,
            open: HashMap::new(),
        }
    }

    /// What is known of accounts, to be kept.
    pub(crate) fn known(&self) -> &KnownUsers {
        &self.known
    }

    /// Accounts and addresses that made room for others since this was asked last.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        self.sources.take_evicted()
            + self.targets.take_evicted()
            + self.elevations.take_evicted()
            + self.known.take_evicted()
    }

    /// Looks at one event; returns the rows that follow from it.
    pub(crate) fn observe(
        &mut self,
        event: &AuthEvent,
        now: TimeMicros,
        tracker: &mut FindingTracker,
    ) -> Vec<Finding> {
        if !self.config.enabled {
            return Vec::new();
        }
        let time = if event.time.micros_since(now) > AHEAD_US {
            now
        } else {
            event.time
        };
        let mut rows = Rows {
            rows: Vec::new(),
            time,
            event,
            tracker,
            open: &mut self.open,
        };
        match (event.kind, event.outcome) {
            (AuthEventKind::Login, AuthOutcome::Failure) => {
                failure(&self.config, &mut self.sources, &mut self.targets, &mut rows);
            }
            (AuthEventKind::Login, AuthOutcome::Success) => {
                success(
                    &self.config,
                    &mut self.sources,
                    &mut self.targets,
                    &mut self.known,
                    &mut rows,
                );
            }
            (AuthEventKind::Elevation, outcome) => {
                elevation(
                    &self.config,
                    outcome,
                    &mut self.elevations,
                    &mut self.known,
                    &mut rows,
                );
            }
            (AuthEventKind::Account, AuthOutcome::Success) => account(&self.config, &mut rows),
            _ => {}
        }
        rows.rows
    }

    /// Learns that events until `to` may be missing: what is open was not quiet then, as far as anybody knows.
    pub(crate) fn miss(&mut self, to: TimeMicros) {
        let until = to.plus_micros(self.config.quiet_us());
        for held in self.open.values_mut() {
            *held = (*held).max(until);
        }
    }

    /// Resolves what has been quiet long enough.
    pub(crate) fn tick(&mut self, now: TimeMicros, tracker: &mut FindingTracker) -> Vec<Finding> {
        let hold = DEED_US
            .max(self.config.slow_window_us())
            .max(self.config.quiet_us());
        let quiet = self.open.extract_if(|_, until| {
            // A clock that was ahead holds nothing for longer than the right one would.
            *until = (*until).min(now.plus_micros(hold));
            *until < now
        });
        quiet
            .filter_map(|((rule, subject), _)| tracker.resolve(now, rule, &subject))
            .collect()
    }
}

/// Rows of one event on their way.
struct Rows<'a> {
    rows: Vec<Finding>,
    time: TimeMicros,
    event: &'a AuthEvent,
    tracker: &'a mut FindingTracker,
    open: &'a mut HashMap<(&'static str, Subject), TimeMicros>,
}

impl Rows<'_> {
    fn raise(&mut self, rule: &'static str, subject: Subject, hold_us: i64, times: u64, words: &Words) {
        let notice: Notice = notice(rule, subject.clone(), self.event, words);
        self.rows
            .extend(self.tracker.notice_times(self.time, notice, times));
        if self.open.len() >= OPEN_MAX {
            // The tracker has given up the others, and said so.
            let tracker = &*self.tracker;
            self.open
                .retain(|(rule, subject), _| tracker.is_open(rule, subject));
        }
        self.open.insert((rule, subject), self.time.plus_micros(hold_us));
    }

    fn is_open(&self, rule: &'static str, subject: &Subject) -> bool {
        self.tracker.is_open(rule, subject)
    }

    fn end(&mut self, rule: &'static str, subject: &Subject) {
        self.open.remove(&(rule, subject.clone()));
        self.rows.extend(self.tracker.resolve(self.time, rule, subject));
    }
}

const BRUTE: &str = "auth-brute-force";
const SLOW: &str = "auth-slow-brute-force";
const SPRAY: &str = "auth-password-spray";
const DISTRIBUTED: &str = "auth-distributed-brute-force";

fn failure(
    config: &AuthConfig,
    sources: &mut Bounded<Source>,
    targets: &mut Bounded<Target>,
    rows: &mut Rows<'_>,
) {
    let event = rows.event;
    let Some(address) = event.remote_address.as_deref() else {
        return;
    };
    let (time, window) = (rows.time, config.window_us());
    let source = sources.at(address, time);
    let attempts = source.attempts(event);
    if attempts == 0 {
        return;
    }
    source.fail(time, &event.user, attempts);
    let subject = Subject::named(SubjectKind::Address, address);
    let users = source.users_since(time.plus_micros(-window));
    if users >= config.spray_users || rows.is_open(SPRAY, &subject) {
        for lesser in [BRUTE, SLOW] {
            rows.end(lesser, &subject);
        }
        let title = format!("{users} accounts tried from {address}");
        let words = Words::new(
            title,
            Severity::High,
            &["T1110.003", "T1110.004"],
            "credential-access",
        )
        .because("accounts tried", users, config.spray_users);
        rows.raise(SPRAY, subject, config.quiet_us(), attempts, &words);
    } else if source.failures.within(config.failures, window, time) || rows.is_open(BRUTE, &subject) {
        rows.end(SLOW, &subject);
        let words = Words::new(
            format!("passwords guessed from {address}"),
            Severity::Medium,
            &["T1110.001"],
            "credential-access",
        )
        .because(
            "failed logins",
            source.failures.count_since(time.plus_micros(-window)),
            config.failures,
        );
        rows.raise(BRUTE, subject, config.quiet_us(), attempts, &words);
    } else if source
        .failures
        .within(config.slow_failures, config.slow_window_us(), time)
    {
        let since = time.plus_micros(-config.slow_window_us());
        let words = Words::new(
            format!("passwords guessed slowly from {address}"),
            Severity::Medium,
            &["T1110.001"],
            "credential-access",
        )
        .because(
            "failed logins",
            source.failures.count_since(since),
            config.slow_failures,
        );
        rows.raise(SLOW, subject, config.slow_window_us(), attempts, &words);
    }
    let target = targets.at(&event.user, time);
    target.fail(time, address, attempts);
    let (failures, addresses) = target.since(time.plus_micros(-2 * window));
    if failures >= config.distributed_failures && addresses >= config.distributed_addresses {
        let subject = Subject::named(SubjectKind::User, &event.user);
        let title = format!("passwords of {} guessed from {addresses} addresses", event.user);
        let words = Words::new(title, Severity::Medium, &["T1110.001"], "credential-access")
            .because("failed logins", failures, config.distributed_failures)
            .because("addresses", addresses, config.distributed_addresses);
        rows.raise(DISTRIBUTED, subject, config.quiet_us(), attempts, &words);
    }
}

fn success(
    config: &AuthConfig,
    sources: &mut Bounded<Source>,
    targets: &mut Bounded<Target>,
    known: &mut KnownUsers,
    rows: &mut Rows<'_>,
) {
    let (event, time) = (rows.event, rows.time);
    // A key cannot be guessed: that one was refused before and another accepted is how agents offer keys.
    let by_key = event
        .method
        .as_deref()
        .is_some_and(|method| method.starts_with("publickey"));
    if let Some(address) = event.remote_address.as_deref() {
        let failed = sources
            .get(address)
            .is_some_and(|source| source.failures.within(config.failures, GUESSED_US, time));
        let among_many = rows.is_open(DISTRIBUTED, &Subject::named(SubjectKind::User, &event.user))
            && targets.get(&event.user).is_some_and(|target| target.has(address));
        if !by_key && (failed || among_many) {
            let title = format!("{} logged in from {address} after failed logins", event.user);
            let words = Words::new(title, Severity::High, &["T1110", "T1078"], "initial-access").because(
                "failed logins before",
                config.failures,
                config.failures,
            );
            rows.raise(
                "auth-success-after-failures",
                Subject::named(SubjectKind::Address, address),
                DEED_US,
                1,
                &words,
            );
        }
        if event.user == "root" && !by_key && is_elsewhere(address) {
            let title = format!("root logged in from {address} with a password");
            let words = Words::new(title, Severity::Medium, &["T1078.003"], "initial-access");
            rows.raise(
                "auth-root-password",
                Subject::named(SubjectKind::Address, address),
                DEED_US,
                1,
                &words,
            );
        }
    }
    let fresh = known.login(event, time, config.learn_us());
    let subject = Subject::named(SubjectKind::User, &event.user);
    if let Some(network) = fresh.network {
        let title = format!("{} logged in from {network}, which it never did", event.user);
        let words = Words::new(title, Severity::Low, &["T1078"], "initial-access");
        rows.raise("auth-new-source", subject.clone(), DEED_US, 1, &words);
    }
    if let Some(key) = fresh.key {
        let title = format!("{} logged in with the key {key}, which it never did", event.user);
        let words = Words::new(title, Severity::Low, &["T1078", "T1098.004"], "persistence");
        rows.raise("auth-new-key", subject, DEED_US, 1, &words);
    }
}

fn elevation(
    config: &AuthConfig,
    outcome: AuthOutcome,
    elevations: &mut Bounded<Times>,
    known: &mut KnownUsers,
    rows: &mut Rows<'_>,
) {
    let (event, time) = (rows.event, rows.time);
    let subject = Subject::named(SubjectKind::User, &event.user);
    if outcome == AuthOutcome::Failure {
        let failures = elevations.at(&event.user, time);
        failures.add(time, event.repeats);
        if failures.within(config.elevation_failures, config.window_us(), time) {
            let title = format!(
                "{} was refused the rights of another user again and again",
                event.user
            );
            let words = Words::new(title, Severity::Medium, &["T1548.003"], "privilege-escalation").because(
                "refusals",
                failures.count_since(time.plus_micros(-config.window_us())),
                config.elevation_failures,
            );
            rows.raise(
                "auth-elevation-failures",
                subject,
                config.quiet_us(),
                event.repeats,
                &words,
            );
        }
        return;
    }
    if known.elevates(&event.user, time, config.learn_us()) {
        let title = format!("{} used {} for the first time", event.user, event.service);
        let words = Words::new(title, Severity::Low, &["T1548.003"], "privilege-escalation");
        rows.raise("auth-first-elevation", subject, DEED_US, 1, &words);
    }
}

fn account(config: &AuthConfig, rows: &mut Rows<'_>) {
    let event = rows.event;
    let method = event.method.as_deref().unwrap_or_default();
    let values = event.command.as_deref().unwrap_or_default();
    let is_root = match method {
        "create_user" => values.split(", ").any(|value| value == "UID=0") && event.user != "root",
        "change_uid" => values.ends_with(" to '0'") && event.user != "root",
        _ => false,
    };
    let subject = Subject::named(SubjectKind::User, &event.user);
    if is_root {
        let title = format!("{} was made an account with the rights of root", event.user);
        let words = Words::new(title, Severity::High, &["T1136.001"], "persistence");
        rows.raise("auth-uid-zero", subject.clone(), DEED_US, 1, &words);
    }
    let group = event.target_user.as_deref().unwrap_or_default();
    if method == "add_to_group"
        && config
            .privileged_groups
            .iter()
            .any(|privileged| privileged == group)
    {
        let title = format!("{} was added to the group {group}", event.user);
        let words = Words::new(title, Severity::High, &["T1098"], "persistence");
        rows.raise("auth-privileged-group", subject, DEED_US, 1, &words);
    }
}

/// Whether an address is not this host itself.
fn is_elsewhere(address: &str) -> bool {
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => !address.is_loopback(),
        Err(_) => address != "localhost",
    }
}

#[cfg(test)]
mod tests;
