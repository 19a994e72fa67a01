//! Accounts and groups: what shadow's programs log. Names come from `/etc/passwd` rules and hold neither quotes nor
//! spaces; a line that has them there is no event.

use fleetmend_event::table::{AuthEventKind, AuthOutcome};

use super::Told;

fn account(method: &str, user: &str) -> Option<Told> {
    let harmless = !user.is_empty() && !user.contains([' ', '\'', '"', ':', ',']);
    harmless.then(|| Told::new(AuthEventKind::Account, AuthOutcome::Success, user).method(method))
}

/// useradd: `new user: name=bob, UID=1001, GID=1001, home=/home/bob, shell=/bin/sh, from=/dev/pts/0`.
pub(super) fn added(message: &str) -> Option<Told> {
    if let Some(rest) = message.strip_prefix("new user: name=") {
        let (user, rest) = rest.split_once(", ")?;
        let (values, from) = rest.rsplit_once(", from=").unwrap_or((rest, ""));
        let told = account("create_user", user)?.command(values);
        return Some(told.terminal(from.trim_start_matches("/dev/")));
    }
    changed(message)
}

/// Everything else that shadow's programs log of accounts.
pub(super) fn changed(message: &str) -> Option<Told> {
    new_group(message)
        .or_else(|| membership(message))
        .or_else(|| values(message))
        .or_else(|| removed(message))
}

fn new_group(message: &str) -> Option<Told> {
    let rest = message
        .strip_prefix("new group: name=")
        .or_else(|| message.strip_prefix("group added to /etc/group: name="))?;
    let (group, values) = rest.split_once(", ").unwrap_or((rest, ""));
    Some(account("create_group", group)?.command(values))
}

/// `add 'bob' to group 'sudo'`, `delete 'bob' from group 'sudo'`, and what gpasswd says.
fn membership(message: &str) -> Option<Told> {
    let quoted = |text: &str| text.trim_matches('\'').to_owned();
    if let Some((user, group)) = message
        .strip_prefix("add '")
        .and_then(|rest| rest.split_once("' to group "))
    {
        return Some(account("add_to_group", user)?.target(&quoted(group)));
    }
    // The shadow file has the same members.
    if message.starts_with("add '") || message.contains("' from shadow group '") {
        return None;
    }
    if let Some((user, group)) = message
        .strip_prefix("delete '")
        .and_then(|rest| rest.split_once("' from group "))
    {
        return Some(account("remove_from_group", user)?.target(&quoted(group)));
    }
    // `user bob added by root to group sudo`, `user bob removed by root from group sudo`.
    if let Some((user, rest)) = message
        .strip_prefix("user ")
        .and_then(|rest| rest.split_once(' '))
    {
        if let Some((_, group)) = rest
            .strip_prefix("added by ")
            .and_then(|rest| rest.split_once(" to group "))
        {
            return Some(account("add_to_group", user)?.target(group));
        }
        if let Some((_, group)) = rest
            .strip_prefix("removed by ")
            .and_then(|rest| rest.split_once(" from group "))
        {
            return Some(account("remove_from_group", user)?.target(group));
        }
    }
    // `members of group sudo set by root to bob,alice`.
    let (group, rest) = message
        .strip_prefix("members of group ")?
        .split_once(" set by ")?;
    let (_, members) = rest.split_once(" to ")?;
    let told = Told::new(AuthEventKind::Account, AuthOutcome::Success, members).method("add_to_group");
    Some(told.target(group))
}

/// `change user 'bob' UID from '1001' to '0'`, and the like.
fn values(message: &str) -> Option<Told> {
    if let Some((user, rest)) = message
        .strip_prefix("change user '")
        .and_then(|rest| rest.split_once("' "))
    {
        let what = rest.split(' ').next().unwrap_or_default();
        if what == "password" {
            return Some(Told::new(AuthEventKind::Secret, AuthOutcome::Success, user).method("password"));
        }
        let method = match what {
            "UID" => "change_uid",
            "GID" => "change_gid",
            "shell" => "change_shell",
            "home" => "change_home",
            "name" => "rename_user",
            _ => "change_user",
        };
        return Some(account(method, user)?.command(rest));
    }
    let forms = [
        ("lock user '", "' password", "lock_user"),
        ("unlock user '", "' password", "unlock_user"),
        ("change expiration of user '", "'", "change_user"),
    ];
    let form = forms.into_iter().find_map(|(before, behind, method)| {
        let rest = message.strip_prefix(before)?;
        let (user, _) = rest.split_once(behind)?;
        account(method, user)
    });
    form.or_else(|| {
        let user = message
            .strip_prefix("changed user '")
            .and_then(|rest| rest.split_once("' shell to "));
        let (user, shell) = user?;
        Some(account("change_shell", user)?.command(shell))
    })
}

fn removed(message: &str) -> Option<Told> {
    if let Some(user) = message.strip_prefix("delete user '") {
        return account("remove_user", user.strip_suffix('\'')?);
    }
    let rest = message
        .strip_prefix("group '")
        .or_else(|| message.strip_prefix("removed group '"))?;
    let (group, rest) = rest.split_once('\'')?;
    (rest.starts_with(" removed") || rest.starts_with(" owned by")).then(|| account("remove_group", group))?
}
