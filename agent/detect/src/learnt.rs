//! What was learnt of accounts and logs, over restarts: a file that a thread of its own keeps written.
//!
//! JSON, `{"version": 1, "users": …, "logs": …}`, written beside and renamed. One that is damaged or of another
//! version is the same as none: learning begins anew, and quietly.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fleetmend_shutdown::{TaskKind, Tasks};
use serde::{Deserialize, Serialize};

use crate::auth::KnownUsers;
use crate::logs::LogBaseline;

const VERSION: u32 = 1;
/// Longer files are not ours.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Learnt {
    version: u32,
    pub(crate) users: KnownUsers,
    pub(crate) logs: LogBaseline,
}

impl Learnt {
    pub(crate) fn new(users: KnownUsers, logs: LogBaseline) -> Self {
        Self {
            version: VERSION,
            users,
            logs,
        }
    }

    /// What an earlier run has learnt.
    pub(crate) fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was learnt of accounts and logs cannot be read");
                return Self::default();
            }
            Ok(_) => {}
        }
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(learnt) if learnt.version == VERSION => learnt,
            Ok(_) => Self::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was learnt of accounts and logs is damaged");
                Self::default()
            }
        }
    }
}

/// Hands what was learnt to the thread that writes it.
pub(crate) struct Scribe {
    queue: SyncSender<Learnt>,
}

impl Scribe {
    /// Starts the thread. It ends when the scribe is dropped, after it has written what was offered.
    pub(crate) fn start(tasks: &Tasks, path: PathBuf) -> io::Result<Self> {
        let (queue, learnt) = sync_channel(1);
        tasks.spawn_thread("behaviour", TaskKind::BestEffort, move |_token| {
            keep(&path, &learnt);
            Ok(())
        })?;
        Ok(Self { queue })
    }

    /// Offers the present state. Never waits: while the last one is being written the next offer comes instead.
    pub(crate) fn offer(&self, learnt: Learnt) {
        drop(self.queue.try_send(learnt));
    }

    /// Hands over the last state, behind the one that is being written.
    pub(crate) fn finish(&self, learnt: Learnt) {
        // A thread that has ended has said why.
        drop(self.queue.send(learnt));
    }
}

fn keep(path: &Path, learnt: &Receiver<Learnt>) {
    let mut written = None;
    while let Ok(learnt) = learnt.recv() {
        if written.as_ref() == Some(&learnt) {
            continue;
        }
        match write(path, &learnt) {
            Ok(()) => written = Some(learnt),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was learnt of accounts and logs is not kept");
            }
        }
    }
}

fn write(path: &Path, learnt: &Learnt) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(learnt)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
