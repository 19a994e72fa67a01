//! Open findings over restarts: a file that a thread of its own keeps written.
//!
//! JSON, `{"version": 1, "findings": [..]}`, the last row of each open finding; written beside and renamed. One
//! that is damaged or of another version is the same as none.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use fleetmend_event::table::Finding;
use fleetmend_shutdown::{TaskKind, Tasks};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// The most findings there can be, with long evidence; more is not ours.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    findings: Vec<Finding>,
}

/// The findings that an earlier run left open.
pub(crate) fn read(path: &Path) -> Vec<Finding> {
    let mut bytes = Vec::new();
    let found = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "open findings of the last run cannot be read");
            return Vec::new();
        }
        Ok(_) => {}
    }
    match serde_json::from_slice::<Kept>(&bytes) {
        Ok(kept) if kept.version == VERSION => kept.findings,
        Ok(kept) => {
            tracing::warn!(
                version = kept.version,
                "open findings of another version are left alone"
            );
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "open findings of the last run are damaged");
            Vec::new()
        }
    }
}

/// Hands the open findings to the thread that writes them.
pub(crate) struct Keeper {
    queue: SyncSender<Vec<Finding>>,
}

impl Keeper {
    /// Starts the thread. It ends when the keeper is dropped, after it has written what was offered.
    pub(crate) fn start(tasks: &Tasks, path: PathBuf) -> io::Result<Self> {
        let (queue, findings) = sync_channel(1);
        tasks.spawn_thread("open findings", TaskKind::BestEffort, move |_token| {
            keep(&path, &findings);
            Ok(())
        })?;
        Ok(Self { queue })
    }

    /// Offers the present state. Never waits; `false` when the last one is still being written.
    pub(crate) fn offer(&self, findings: Vec<Finding>) -> bool {
        !matches!(self.queue.try_send(findings), Err(TrySendError::Full(_)))
    }

    /// Hands over the last state, behind the one that is being written.
    pub(crate) fn finish(&self, findings: Vec<Finding>) {
        // A thread that has ended has said why.
        drop(self.queue.send(findings));
    }
}

fn keep(path: &Path, findings: &Receiver<Vec<Finding>>) {
    while let Ok(findings) = findings.recv() {
        if let Err(error) = write(path, findings) {
            tracing::warn!(%error, path = %path.display(), "open findings are not kept; a restart will not resolve them");
        }
    }
}

fn write(path: &Path, findings: Vec<Finding>) -> io::Result<()> {
    let version = VERSION;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&Kept { version, findings })?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
