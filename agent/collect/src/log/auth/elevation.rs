//! Commands as another user: sudo, su, doas, pkexec.

use fleetmend_event::table::{AuthEventKind, AuthOutcome};

use super::Told;

fn elevation(outcome: AuthOutcome, user: &str, target: &str) -> Told {
    Told::new(AuthEventKind::Elevation, outcome, user).target(target)
}

/// `alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/id`, with a reason behind the name when it
/// was refused.
///
/// Both the folder and the command are the user's own text, and either may hold ` ; USER=nobody`. Where more than
/// one such part stands, the one that matters most counts: root.
pub(super) fn sudo(message: &str) -> Option<Told> {
    let (user, rest) = message.trim_start().split_once(" : ")?;
    if user.is_empty() || user.contains(' ') {
        return None;
    }
    let (reason, fields) = match rest.find("TTY=").or_else(|| rest.find("PWD=")) {
        Some(0) => ("", rest),
        Some(at) => (rest.get(..at)?.trim_end_matches([' ', ';']), rest.get(at..)?),
        None => return None,
    };
    let field = |name: &str| {
        let value = fields.split(" ; ").find_map(|part| part.strip_prefix(name));
        value.map(str::trim)
    };
    let mut targets = fields.split(" ; ").filter_map(|part| part.strip_prefix("USER="));
    let first = targets.clone().next();
    let target = if targets.any(|target| target == "root") {
        Some("root")
    } else {
        first
    };
    let command = fields.find("COMMAND=").and_then(|at| fields.get(at + 8..));
    if target.is_none() && command.is_none() {
        return None;
    }
    let outcome = if reason.is_empty() {
        AuthOutcome::Success
    } else {
        AuthOutcome::Failure
    };
    let mut told = elevation(outcome, user, target.unwrap_or("root"));
    told.terminal = field("TTY=").filter(|tty| *tty != "unknown").map(str::to_owned);
    told.command = command.map(str::to_owned);
    if let Some((count, "incorrect password attempt" | "incorrect password attempts")) =
        reason.split_once(' ')
    {
        told.attempts = count.parse().unwrap_or(1).clamp(1, 100);
        told.method = Some("password".to_owned());
    } else if !reason.is_empty() {
        told.method = Some(reason.to_owned());
    }
    Some(told)
}

/// util-linux and shadow say it differently.
pub(super) fn su(message: &str) -> Option<Told> {
    // util-linux: `(to root) alice on pts/0`, `FAILED SU (to root) alice on pts/0`.
    let (outcome, rest) = match message.strip_prefix("FAILED SU ") {
        Some(rest) => (AuthOutcome::Failure, rest),
        None => (AuthOutcome::Success, message),
    };
    if let Some((target, rest)) = rest.strip_prefix("(to ").and_then(|rest| rest.split_once(") ")) {
        let (user, terminal) = rest.rsplit_once(" on ")?;
        return Some(elevation(outcome, user, target).terminal(terminal));
    }
    // shadow: `Successful su for root by alice`, `FAILED su for root by alice`.
    let forms = [
        ("Successful su for ", AuthOutcome::Success),
        ("FAILED su for ", AuthOutcome::Failure),
    ];
    forms.into_iter().find_map(|(form, outcome)| {
        let (target, user) = message.strip_prefix(form)?.rsplit_once(" by ")?;
        Some(elevation(outcome, user, target))
    })
}

pub(super) fn doas(message: &str) -> Option<Told> {
    if let Some(user) = message.strip_prefix("failed auth for ") {
        return Some(elevation(AuthOutcome::Failure, user, "root").method("password"));
    }
    if let Some((user, command)) = message
        .strip_prefix("command not permitted for ")
        .and_then(|rest| rest.split_once(": "))
    {
        return Some(
            elevation(AuthOutcome::Failure, user, "root")
                .method("not permitted")
                .command(command),
        );
    }
    // `alice ran command /usr/bin/id as root from /home/alice`: the command and the folder are the user's own text, and
    // either may hold ` as nobody`. As of sudo's, the one that matters most counts.
    let (user, rest) = message.split_once(" ran command ")?;
    let mut places = rest.rmatch_indices(" as ").filter_map(|(at, word)| {
        let behind = rest.get(at.saturating_add(word.len())..)?;
        Some((rest.get(..at)?, behind.split(' ').next().unwrap_or(behind)))
    });
    let last = places.clone().next();
    let of_root = places.find(|(_, target)| *target == "root");
    let (command, target) = of_root.or(last).unwrap_or((rest, "root"));
    Some(elevation(AuthOutcome::Success, user, target).command(command))
}

/// `alice: Executing command [USER=root] [TTY=/dev/pts/0] [CWD=/home/alice] [COMMAND=/usr/bin/id]`.
pub(super) fn pkexec(message: &str) -> Option<Told> {
    let (user, rest) = message.split_once(": ")?;
    let outcome = if rest.starts_with("Executing command ") {
        AuthOutcome::Success
    } else if rest.starts_with("Error executing command as another user") {
        AuthOutcome::Failure
    } else {
        return None;
    };
    let field = |name: &str| {
        let (_, rest) = rest.split_once(name)?;
        rest.split_once(']').map(|(value, _)| value)
    };
    let mut told = elevation(outcome, user, field("[USER=").unwrap_or("root"));
    told.terminal = field("[TTY=").map(|tty| tty.trim_start_matches("/dev/").to_owned());
    told.command = rest
        .split_once("[COMMAND=")
        .map(|(_, command)| command.trim_end_matches(']').to_owned());
    Some(told)
}
