//! The session that `login` leaves behind: `~/.config/fleetmend/session.json`, readable by its owner only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

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

/// The session that was left, if any.
pub(crate) fn load() -> Option<Session> {
    serde_json::from_slice(&fs::read(path()?).ok()?).ok()
}

/// Leaves a session, whole or not at all.
pub(crate) fn save(session: &Session) -> Result<(), Failure> {
    let path = path()
        .ok_or_else(|| Failure::other("neither HOME nor XDG_CONFIG_HOME is set: cannot keep the session"))?;
    let wrong = |error: std::io::Error| Failure::other(format!("cannot write {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(wrong)?;
    }
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
