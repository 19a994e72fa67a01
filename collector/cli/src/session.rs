//! The session that `login` leaves behind: `~/.config/fleetmend/session.json`, readable by its owner only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longer than one request may take, which is what the lock is held for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(80);
const LOCK_RETRY: Duration = Duration::from_millis(50);

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) access_token: String,
    pub(crate) expires_at: String,
    pub(crate) refresh_token: String,
}

impl Session {
    /// Whether the access token still holds for a while.
    pub(crate) fn is_fresh(&self) -> bool {
        let until = self.expires_at.parse::<jiff::Timestamp>();
        until.is_ok_and(|until| until.as_second() > jiff::Timestamp::now().as_second() + 5)
    }
}

fn path() -> Option<PathBuf> {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")))?;
    Some(config.join("fleetmend").join("session.json"))
}

/// The path, in a folder that is there.
fn writable_path() -> Result<PathBuf, Failure> {
    let path = path()
        .ok_or_else(|| Failure::other("neither HOME nor XDG_CONFIG_HOME is set: cannot keep the session"))?;
    if let Some(folder) = path.parent() {
        let wrong =
            |error: std::io::Error| Failure::other(format!("cannot make {}: {error}", folder.display()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(wrong)?;
    }
    Ok(path)
}

/// The session that was left, if any.
pub(crate) fn load() -> Option<Session> {
    serde_json::from_slice(&fs::read(path()?).ok()?).ok()
}

/// Held by whoever changes the session; let go when it is dropped, or when the process ends however it does.
pub(crate) struct Lock {
    _file: fs::File,
}

/// Waits until no other process of this user changes the session.
pub(crate) async fn lock() -> Result<Lock, Failure> {
    let path = writable_path()?.with_extension("lock");
    let wrong = |error: std::io::Error| Failure::other(format!("cannot lock {}: {error}", path.display()));
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(wrong)?;
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(fs::TryLockError::Error(error)) => return Err(wrong(error)),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < until => {
                tokio::time::sleep(LOCK_RETRY).await
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Failure::other(format!(
                    "another fleetmend command has held {} for {} s; look for it and end it",
                    path.display(),
                    LOCK_TIMEOUT.as_secs()
                )));
            }
        }
    }
}

/// Leaves a session, whole or not at all.
pub(crate) fn save(session: &Session) -> Result<(), Failure> {
    let path = writable_path()?;
    let wrong = |error: std::io::Error| Failure::other(format!("cannot write {}: {error}", path.display()));
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(session)?)?;
        fs::rename(&new, &path)
    };
    write().map_err(wrong)
}

/// Forgets the session; `false` when there was none.
pub(crate) fn forget() -> Result<bool, Failure> {
    match path().map(fs::remove_file) {
        Some(Ok(())) => Ok(true),
        Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(false),
    }
}
