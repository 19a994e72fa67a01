//! The socket: who may connect, and what a connection may cost.
//!
//! A client is known by its uid (SO_PEERCRED), not by what it says. Each connection is a task of its own with a
//! bounded queue of answers; bytes that are no message close that connection and nothing else.

mod connection;

use std::convert::Infallible;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleetmend_shutdown::{TaskKind, Tasks};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::engine::Healer;
use crate::error::OpenError;
use crate::metrics;

/// Connections at once: the agent, a few command lines.
pub const CONNECTIONS_MAX: usize = 16;
/// Of these, connections that only root may have: whoever else may connect must not keep it out.
const CONNECTIONS_OF_ROOT: usize = 4;
/// How often standing effects and the stop file are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Uids that may connect.
#[derive(Debug, Clone)]
pub struct Access {
    uids: Vec<u32>,
}

impl Access {
    /// Resolves the names of the configuration.
    ///
    /// # Errors
    /// When a user is not known.
    pub fn of(config: &Config) -> Result<Self, OpenError> {
        let mut uids = config.allowed_uids.clone();
        // Root may, and so may whoever runs the healer where that is not root: it can do no more by it.
        uids.extend([0, rustix::process::geteuid().as_raw()]);
        for name in &config.allowed_users {
            uids.push(user_id(name)?);
        }
        Ok(Self { uids })
    }

    /// Every user of the configuration that is not known, where [`Access::of`] stops at the first.
    pub(crate) fn obstacles(config: &Config) -> Vec<OpenError> {
        config
            .allowed_users
            .iter()
            .filter_map(|name| user_id(name).err())
            .collect()
    }

    /// Exactly these.
    pub fn only(uids: Vec<u32>) -> Self {
        Self { uids }
    }

    fn allows(&self, uid: u32) -> bool {
        self.uids.contains(&uid)
    }
}

/// Binds the socket with mode 0660 and the group of the configuration.
///
/// # Errors
/// When it cannot be bound, or the group is not known.
pub fn bind(socket: &Path, group: &str) -> Result<UnixListener, OpenError> {
    let fault = |action, source| OpenError::File {
        action,
        path: socket.to_owned(),
        source,
    };
    let gid = group_id(group)?;
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(|source| fault("make the folder of", source))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault("replace", error)),
        _ => {}
    }
    // Born unreachable: between bind and chmod nobody else may slip in.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(socket);
    rustix::process::umask(before);
    let listener = bound.map_err(|source| fault("bind", source))?;
    if gid.is_some() && rustix::process::geteuid().is_root() {
        chown(socket, None, gid).map_err(|source| fault("give to its group", source))?;
    }
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(socket, mode).map_err(|source| fault("set the mode of", source))?;
    Ok(listener)
}

fn user_id(name: &str) -> Result<u32, OpenError> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(OpenError::NoSuch {
            what: "user",
            name: name.to_owned(),
        }),
    }
}

/// A group by its name, or by its number on hosts that have no name for it; none when empty.
pub(crate) fn group_id(group: &str) -> Result<Option<u32>, OpenError> {
    if group.is_empty() {
        return Ok(None);
    }
    if let Ok(gid) = group.parse::<u32>() {
        return Ok(Some(gid));
    }
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(Some(found.gid.as_raw())),
        _ => Err(OpenError::NoSuch {
            what: "group",
            name: group.to_owned(),
        }),
    }
}

/// Starts `accept`, one `connection` each with its `follow`, `upkeep`, and a thread for each transaction.
pub fn serve(listener: UnixListener, healer: Healer, access: Access, tasks: &Tasks) {
    let owner = tasks.clone();
    let upkeep = healer.clone();
    let token = tasks.token();
    tasks.spawn("accept", TaskKind::Critical, async move {
        let slots = Slots::new();
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => return Ok::<(), Infallible>(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => admit(stream, &healer, &access, &slots, &owner),
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    let token = tasks.token();
    tasks.spawn("upkeep", TaskKind::Critical, async move {
        loop {
            tokio::select! {
                () = token.cancelled() => {
                    upkeep.close();
                    return Ok::<(), Infallible>(());
                }
                () = tokio::time::sleep(TICK) => {}
            }
            let healer = upkeep.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || healer.tick()).await {
                tracing::error!(%error, "upkeep failed");
            }
        }
    });
}

/// Room for connections.
struct Slots {
    of_all: Arc<Semaphore>,
    of_root: Arc<Semaphore>,
}

impl Slots {
    fn new() -> Self {
        Self {
            of_all: Arc::new(Semaphore::new(CONNECTIONS_MAX - CONNECTIONS_OF_ROOT)),
            of_root: Arc::new(Semaphore::new(CONNECTIONS_OF_ROOT)),
        }
    }

    /// A slot until it is dropped; none when all that this user may have are taken.
    fn take(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        let of_all = || self.of_all.clone().try_acquire_owned().ok();
        let of_root = self.of_root.clone();
        of_all().or_else(|| (uid == 0).then(|| of_root.try_acquire_owned().ok())?)
    }
}

/// A peer, never a target while it is connected; until dropped.
struct Protected {
    healer: Healer,
    pid: u32,
}

impl Protected {
    fn new(healer: &Healer, pid: u32) -> Self {
        healer.protect(pid);
        Self {
            healer: healer.clone(),
            pid,
        }
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        self.healer.unprotect(self.pid);
    }
}

fn admit(stream: UnixStream, healer: &Healer, access: &Access, slots: &Slots, tasks: &Tasks) {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => {
            metrics::connection_closed("peer");
            return tracing::warn!(%error, "peer of a connection cannot be told");
        }
    };
    let Some(slot) = slots.take(peer.uid()) else {
        metrics::connection_closed("full");
        return tracing::warn!(
            uid = peer.uid(),
            max = CONNECTIONS_MAX,
            "connection refused: too many are open"
        );
    };
    let allowed = access.allows(peer.uid());
    let pid = peer
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|_| allowed);
    let protected = pid.map(|pid| Protected::new(healer, pid));
    let connection = connection::Connection {
        healer: healer.clone(),
        tasks: tasks.clone(),
        uid: peer.uid(),
    };
    tasks.spawn("connection", TaskKind::BestEffort, async move {
        if allowed {
            connection.run(stream).await;
        } else {
            metrics::connection_closed("peer");
            tracing::warn!(
                uid = connection.uid,
                "connection refused: this user may not talk to the healer"
            );
            connection.turn_away(stream).await;
        }
        drop((slot, protected));
        Ok::<(), Infallible>(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_never_take_the_last_slots_from_root() {
        let slots = Slots::new();
        let taken: Vec<_> = std::iter::from_fn(|| slots.take(1000)).collect();
        assert_eq!(taken.len(), CONNECTIONS_MAX - CONNECTIONS_OF_ROOT);
        let of_root: Vec<_> = std::iter::from_fn(|| slots.take(0)).collect();
        assert_eq!(of_root.len(), CONNECTIONS_OF_ROOT);
        drop(taken);
        assert!(slots.take(1000).is_some());
    }
}
