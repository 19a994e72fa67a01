//! What lines say of authentication: logins, sessions, elevations, changes of accounts.
//!
//! Most of such a line is chosen by whoever is at the other end: a name may hold spaces, or `from 192.0.2.1 port 22`.
//! So each form is read from the end where the daemon writes what it knows itself (OpenSSH: address and port are
//! last), and a line that does not end as its daemon ends it is no event.
//!
//! One attempt is one event where that can be told: what PAM says besides a daemon that tells it itself is left
//! out (`pam_unix(sshd:auth)` beside `Failed password`).

mod account;
mod elevation;
mod login;
mod sshd;

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use fleetmend_event::table::{AuthEvent, AuthEventKind, AuthOutcome};

use super::line::{Line, Origin};
use crate::masking::mask_text;

/// Longest name, address or terminal that is kept.
const WORD_BYTES_MAX: usize = 256;
/// `LOG_AUTH` and `LOG_AUTHPRIV`, under which PAM logs.
const PAM_FACILITIES: [u32; 2] = [4, 10];
/// Longest command that is kept.
const COMMAND_BYTES_MAX: usize = 4_096;

/// What a message tells, without when and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was tried.
    pub kind: AuthEventKind,
    /// How it ended.
    pub outcome: AuthOutcome,
    /// How; for accounts, what was changed.
    pub method: Option<String>,
    /// Account.
    pub user: String,
    /// Whether it exists.
    pub user_valid: Option<bool>,
    /// Account whose rights were taken.
    pub target_user: Option<String>,
    /// Command run; for accounts, the new values.
    pub command: Option<String>,
    /// Terminal.
    pub terminal: Option<String>,
    /// Address it came from.
    pub remote_address: Option<String>,
    /// Port it came from.
    pub remote_port: Option<u32>,
    /// Fingerprint of the key.
    pub key_fingerprint: Option<String>,
    /// Attempts that the message counts.
    pub attempts: u64,
}

impl Told {
    fn new(kind: AuthEventKind, outcome: AuthOutcome, user: &str) -> Self {
        Self {
            kind,
            outcome,
            method: None,
            user: user.to_owned(),
            user_valid: None,
            target_user: None,
            command: None,
            terminal: None,
            remote_address: None,
            remote_port: None,
            key_fingerprint: None,
            attempts: 1,
        }
    }

    fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    fn target(mut self, user: &str) -> Self {
        self.target_user = Some(user.to_owned());
        self
    }

    fn command(mut self, command: &str) -> Self {
        self.command = Some(command.to_owned());
        self
    }

    fn terminal(mut self, terminal: &str) -> Self {
        self.terminal = (!terminal.is_empty() && terminal != "unknown").then(|| terminal.to_owned());
        self
    }
}

/// What a line is to authentication.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing.
    Nothing,
    /// It tells an event.
    Event(Box<AuthEvent>),
    /// It looks as if, and the kernel says that somebody else logged it.
    Forged,
}

/// Reads a line.
pub fn read(line: &Line) -> Verdict {
    let Some(told) = parse(&line.identifier, &line.message) else {
        return Verdict::Nothing;
    };
    // What a service prints comes under the facility of services, and may be its client's words.
    let printed = line
        .facility
        .is_some_and(|facility| !PAM_FACILITIES.contains(&facility));
    if printed && line.message.starts_with("pam_") {
        return Verdict::Nothing;
    }
    if line.origin == Origin::Forged {
        return Verdict::Forged;
    }
    Verdict::Event(Box::new(AuthEvent {
        time: line.time,
        kind: told.kind,
        outcome: told.outcome,
        service: service(&line.identifier, &line.message).to_owned(),
        method: told.method.map(|method| cut(&method, WORD_BYTES_MAX)),
        user: cut(&told.user, WORD_BYTES_MAX),
        user_valid: told.user_valid,
        target_user: told.target_user.map(|user| cut(&user, WORD_BYTES_MAX)),
        command: told
            .command
            .map(|command| cut(&mask_text(&cut(&command, COMMAND_BYTES_MAX)), COMMAND_BYTES_MAX)),
        terminal: told.terminal.map(|terminal| cut(&terminal, WORD_BYTES_MAX)),
        remote_address: told.remote_address.map(|address| cut(&address, WORD_BYTES_MAX)),
        remote_port: told.remote_port,
        key_fingerprint: told.key_fingerprint.map(|key| cut(&key, WORD_BYTES_MAX)),
        pid: line.pid,
        source: line.source.to_string(),
        repeats: told.attempts.saturating_mul(line.repeats).clamp(1, 1_000_000),
    }))
}

/// What a message of a program tells; `None` when it tells nothing of authentication.
pub fn parse(identifier: &str, message: &str) -> Option<Told> {
    let message = message.trim_end();
    if let Some(told) = login::pam(message) {
        return told;
    }
    match daemon(identifier) {
        "sshd" => sshd::parse(message),
        "sudo" => elevation::sudo(message),
        "su" | "su-l" | "runuser" => elevation::su(message),
        "doas" => elevation::doas(message),
        "pkexec" => elevation::pkexec(message),
        "login" | "agetty" => login::login(message),
        "systemd-logind" => login::logind(message),
        "useradd" | "adduser" | "newusers" => account::added(message),
        "usermod" | "userdel" | "deluser" | "groupadd" | "groupdel" | "groupmod" | "gpasswd" | "chage"
        | "passwd" | "chpasswd" | "chsh" | "chfn" => account::changed(message),
        _ => None,
    }
}

/// Whether bytes may be a line that [`read`] would make an event of: looked at before a line is taken apart.
pub fn may_concern(bytes: &[u8]) -> bool {
    const HINTS: [&str; 17] = [
        "sshd", "sudo", "pam_", "su[", "su:", "su-l", "doas", "pkexec", "login", "useradd", "usermod",
        "userdel", "group", "passwd", "chage", "gpasswd", "newusers",
    ];
    static FINDER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| AhoCorasick::new(HINTS).ok());
    FINDER.as_ref().is_none_or(|finder| finder.is_match(bytes))
}

/// OpenSSH 9.8 and newer split their daemon: each part is `sshd` here.
fn daemon(identifier: &str) -> &str {
    match identifier {
        "sshd-session" | "sshd-auth" => "sshd",
        other => other.rsplit('/').next().unwrap_or(other),
    }
}

/// The service: what PAM names, where PAM speaks.
fn service<'a>(identifier: &'a str, message: &'a str) -> &'a str {
    let of_pam = message.strip_prefix("pam_").and_then(|rest| rest.split_once('('));
    let named = of_pam
        .and_then(|(_, rest)| rest.split_once(':'))
        .map(|(service, _)| service);
    match named.unwrap_or_else(|| daemon(identifier)) {
        "su-l" => "su",
        "sudo-i" => "sudo",
        other => other,
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
