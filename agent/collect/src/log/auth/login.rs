//! Logins on a terminal, sessions, and what PAM says for services that do not tell it themselves.

use fleetmend_event::table::{AuthEventKind, AuthOutcome};

use super::Told;

/// Services that tell their failures themselves: PAM's line beside them would count an attempt twice.
const TELL_THEMSELVES: [&str; 9] = [
    "sshd", "sudo", "sudo-i", "su", "su-l", "runuser", "login", "doas", "remote",
];

/// `pam_unix(SERVICE:TYPE): …`; `None` when PAM does not speak, `Some(None)` when it says nothing of use.
#[expect(
    clippy::option_option,
    reason = "that PAM speaks and that it tells something are two questions"
)]
pub(super) fn pam(message: &str) -> Option<Option<Told>> {
    let (place, said) = message.strip_prefix("pam_")?.split_once("): ")?;
    let (_module, place) = place.split_once('(')?;
    let (service, stage) = place.split_once(':')?;
    Some(match stage {
        "session" => session(service, said),
        "auth" => failure(service, said),
        "chauthtok" => said
            .strip_prefix("password changed for ")
            .map(|user| Told::new(AuthEventKind::Secret, AuthOutcome::Success, user).method("password")),
        _ => None,
    })
}

/// `session opened for user root(uid=0) by alice(uid=1000)`, and older ones without the ids.
fn session(service: &str, said: &str) -> Option<Told> {
    let (kind, rest) = if let Some(rest) = said.strip_prefix("session opened for user ") {
        (AuthEventKind::SessionOpened, rest)
    } else {
        (
            AuthEventKind::SessionClosed,
            said.strip_prefix("session closed for user ")?,
        )
    };
    let (user, by) = match rest.rsplit_once(" by ") {
        Some((user, by)) => (user, by),
        None => (rest, ""),
    };
    let mut told = Told::new(kind, AuthOutcome::Success, name(user)).method("pam");
    // Whose rights were taken, where the service does that.
    if matches!(
        service,
        "sudo" | "sudo-i" | "su" | "su-l" | "doas" | "runuser" | "runuser-l" | "polkit-1"
    ) && !name(by).is_empty()
    {
        told.target_user = Some(std::mem::replace(&mut told.user, name(by).to_owned()));
    }
    Some(told)
}

/// `alice(uid=1000)` is alice.
fn name(text: &str) -> &str {
    let text = text.trim();
    text.rsplit_once("(uid=").map_or(text, |(name, _)| name)
}

/// `authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root`.
fn failure(service: &str, said: &str) -> Option<Told> {
    if TELL_THEMSELVES.contains(&service) {
        return None;
    }
    let (what, fields) = said.split_once("; ")?;
    let attempts = match what {
        "authentication failure" => 1,
        _ => what
            .strip_suffix(" more authentication failures")
            .or_else(|| what.strip_suffix(" more authentication failure"))?
            .parse()
            .ok()?,
    };
    // The user is last, and may hold spaces; the host is the client's only where it names itself.
    let (fields, user) = match fields.split_once(" user=") {
        Some((fields, user)) => (fields, user.trim()),
        None => (fields, ""),
    };
    let field = |name: &str| {
        let value = fields.split(' ').find_map(|part| part.strip_prefix(name));
        value.filter(|value| !value.is_empty())
    };
    let mut told = Told::new(AuthEventKind::Login, AuthOutcome::Failure, user).method("pam");
    told.user_valid = (!user.is_empty()).then_some(true);
    told.terminal = field("tty=").map(str::to_owned);
    told.remote_address = field("rhost=").map(str::to_owned);
    told.attempts = attempts;
    Some(told)
}

/// util-linux and shadow: `LOGIN ON tty1 BY alice[ FROM host]`, `ROOT LOGIN ON tty1`,
/// `FAILED LOGIN (1) on '/dev/tty1' FOR 'root', Authentication failure`.
pub(super) fn login(message: &str) -> Option<Told> {
    if let Some(rest) = message.strip_prefix("FAILED LOGIN ") {
        let (terminal, rest) = match rest.split_once("on '") {
            Some((_, rest)) => rest.split_once('\'')?,
            None => ("", rest),
        };
        let (_, rest) = rest.split_once("FOR ")?;
        let (user, _) = rest.rsplit_once(", ").unwrap_or((rest, ""));
        let user = user.trim_matches(['\'', '`', '"']);
        let told = Told::new(AuthEventKind::Login, AuthOutcome::Failure, user).method("password");
        return Some(told.terminal(short(terminal)));
    }
    let success = |user: &str, rest: &str| {
        let (terminal, host) = rest.split_once(" FROM ").unwrap_or((rest, ""));
        let terminal = terminal.trim().trim_matches('\'');
        let mut told = Told::new(AuthEventKind::Login, AuthOutcome::Success, user).method("password");
        told.user_valid = Some(true);
        told.remote_address = (!host.is_empty()).then(|| host.to_owned());
        told.terminal(short(terminal))
    };
    if let Some(rest) = message.strip_prefix("ROOT LOGIN ") {
        return Some(success("root", rest.trim_start().get(3..)?));
    }
    let (terminal, rest) = message.strip_prefix("LOGIN ON ")?.split_once(" BY ")?;
    let (user, host) = rest.rsplit_once(" FROM ").unwrap_or((rest, ""));
    let from = if host.is_empty() {
        terminal.to_owned()
    } else {
        format!("{terminal} FROM {host}")
    };
    Some(success(user, &from))
}

fn short(terminal: &str) -> &str {
    terminal.trim_start_matches("/dev/")
}

/// `New session 12 of user alice.`; since 258 ` with class …` may follow.
pub(super) fn logind(message: &str) -> Option<Told> {
    let (_, rest) = message.strip_prefix("New session ")?.split_once(" of user ")?;
    let user = rest.split(' ').next().unwrap_or(rest).trim_matches(['.', '\'']);
    Some(Told::new(AuthEventKind::SessionOpened, AuthOutcome::Success, user).method("logind"))
}
