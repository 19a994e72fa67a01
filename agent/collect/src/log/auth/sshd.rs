//! OpenSSH 7 to 10: `sshd`, and `sshd-session` since 9.8.
//!
//! What follows the last ` from ` (or, in lines of closed connections, the last two words before the end) is
//! sshd's own; everything before it may have been chosen by the client.

use std::net::IpAddr;

use fleetmend_event::table::{AuthEventKind, AuthOutcome};

use super::Told;

/// Forms of `WHAT user ADDRESS port N`, without how it was tried.
const ENDED: [&str; 4] = [
    "Connection closed by ",
    "Connection reset by ",
    "Disconnected from ",
    "Disconnecting ",
];

pub(super) fn parse(message: &str) -> Option<Told> {
    if let Some(rest) = message.strip_prefix("Accepted ") {
        return attempt(rest, AuthOutcome::Success);
    }
    if let Some(rest) = message.strip_prefix("Failed ") {
        return attempt(rest, AuthOutcome::Failure).filter(asks_for_something);
    }
    if let Some(rest) = message
        .strip_prefix("Invalid user ")
        .or_else(|| message.strip_prefix("Illegal user "))
    {
        // sshd of 7.2 and older ends without a port.
        let (user, peer) = split_peer(rest)?;
        return Some(failed(user, Some(false), peer));
    }
    let counted = message.strip_prefix("error: ").unwrap_or(message);
    if let Some(rest) = counted.strip_prefix("maximum authentication attempts exceeded for ") {
        let (user, valid) = valid(rest);
        let (user, peer) = split_peer(user)?;
        return Some(failed(user, valid, peer));
    }
    if message.starts_with("User ") && message.contains(" not allowed because ") {
        return not_allowed(message);
    }
    if let Some(rest) = message.strip_prefix("ROOT LOGIN REFUSED FROM ") {
        let peer = peer(rest)?;
        return Some(failed("root", Some(true), peer));
    }
    ENDED.iter().find_map(|form| ended(message.strip_prefix(form)?))
}

/// A client asks with `none` first, to learn what is allowed: that is no attempt.
fn asks_for_something(told: &Told) -> bool {
    told.method.as_deref() != Some("none")
}

/// Who is at the other end.
struct Peer<'a> {
    address: &'a str,
    port: Option<u32>,
    key: Option<&'a str>,
}

fn attempt(rest: &str, outcome: AuthOutcome) -> Option<Told> {
    let (method, rest) = rest.split_once(" for ")?;
    if method.contains(' ') {
        return None;
    }
    let (rest, user_valid) = valid(rest);
    let (user, peer) = split_peer(rest)?;
    // Every version ends these with the port.
    peer.port?;
    let mut told = Told::new(AuthEventKind::Login, outcome, user).method(method);
    told.user_valid = if outcome == AuthOutcome::Success {
        Some(true)
    } else {
        user_valid
    };
    told.key_fingerprint = peer.key.and_then(fingerprint);
    with_peer(&mut told, &peer);
    Some(told)
}

/// `invalid user NAME` and `illegal user NAME`; without that the account exists.
fn valid(rest: &str) -> (&str, Option<bool>) {
    let named = ["invalid user ", "illegal user "];
    match named.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        Some(user) => (user, Some(false)),
        None => (rest, Some(true)),
    }
}

/// Splits `NAME from ADDRESS port N ssh2`, at the last place where what follows is all that sshd writes.
fn split_peer(text: &str) -> Option<(&str, Peer<'_>)> {
    text.rmatch_indices(" from ").find_map(|(at, separator)| {
        let user = text.get(..at)?;
        let found = peer(text.get(at + separator.len()..)?)?;
        Some((user, found))
    })
}

/// `ADDRESS[ port N][ ssh2[: KEY]][ [preauth]]`, and nothing else.
fn peer(text: &str) -> Option<Peer<'_>> {
    let text = text.strip_suffix(" [preauth]").unwrap_or(text);
    let (address, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !is_address(address) {
        return None;
    }
    let (port, rest) = match rest.strip_prefix("port ") {
        Some(rest) => {
            let (port, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (Some(port.parse::<u16>().ok()?.into()), rest)
        }
        None => (None, rest),
    };
    let (protocol, key) = match rest.split_once(": ") {
        Some((protocol, key)) => (protocol, Some(key)),
        None => (rest, None),
    };
    if !matches!(protocol, "" | "ssh2" | "ssh1") || (protocol.is_empty() && key.is_some()) {
        return None;
    }
    // A key's text does not end as the line of another attempt does.
    if key.is_some_and(|key| key.contains(" port ")) {
        return None;
    }
    Some(Peer { address, port, key })
}

/// With `UseDNS yes` it may be a name; `UNKNOWN` when the connection was gone.
fn is_address(text: &str) -> bool {
    let bare = text.split('%').next().unwrap_or(text);
    let named = || {
        !text.is_empty()
            && text.len() <= 255
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            && (text.contains('.') || text == "UNKNOWN" || text == "localhost")
    };
    bare.parse::<IpAddr>().is_ok() || named()
}

/// `ED25519 SHA256:…`, and of a certificate the key that it certifies.
fn fingerprint(key: &str) -> Option<String> {
    let of = |word: &&str| word.starts_with("SHA256:") || word.starts_with("MD5:");
    key.split(' ').find(of).map(str::to_owned)
}

/// `authenticating user NAME ADDRESS port N` or `invalid user NAME ADDRESS port N`, perhaps with a reason behind.
fn ended(rest: &str) -> Option<Told> {
    let (rest, user_valid) = match rest.strip_prefix("authenticating user ") {
        Some(rest) => (rest, Some(true)),
        None => (rest.strip_prefix("invalid user ")?, Some(false)),
    };
    rest.rmatch_indices(" port ").find_map(|(at, separator)| {
        let (user, address) = rest.get(..at)?.rsplit_once(' ')?;
        let tail = rest.get(at + separator.len()..)?;
        let end = tail.find([' ', ':']).unwrap_or(tail.len());
        let port = tail.get(..end)?.parse::<u16>().ok()?;
        let behind = tail.get(end..)?;
        let reason = behind.is_empty() || behind == " [preauth]" || behind.starts_with(": ");
        (is_address(address) && reason).then(|| {
            failed(
                user,
                user_valid,
                Peer {
                    address,
                    port: Some(port.into()),
                    key: None,
                },
            )
        })
    })
}

/// `User NAME from ADDRESS not allowed because …`.
fn not_allowed(message: &str) -> Option<Told> {
    let rest = message.strip_prefix("User ")?;
    let (who, _) = rest.rsplit_once(" not allowed because ")?;
    let (user, address) = who.rsplit_once(" from ")?;
    is_address(address).then(|| {
        failed(
            user,
            Some(true),
            Peer {
                address,
                port: None,
                key: None,
            },
        )
    })
}

/// A failure that does not say how it was tried.
fn failed(user: &str, user_valid: Option<bool>, peer: Peer<'_>) -> Told {
    let mut told = Told::new(AuthEventKind::Login, AuthOutcome::Failure, user);
    told.user_valid = user_valid;
    with_peer(&mut told, &peer);
    told
}

fn with_peer(told: &mut Told, peer: &Peer<'_>) {
    // The same host by either protocol is one address.
    let mapped = peer
        .address
        .strip_prefix("::ffff:")
        .filter(|rest| rest.parse::<IpAddr>().is_ok());
    told.remote_address = Some(mapped.unwrap_or(peer.address).to_owned());
    told.remote_port = peer.port;
}
