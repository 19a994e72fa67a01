//! The journal: one file per transaction that has not come to rest, `<action id>.json`, replaced whole and
//! synced at every step, so that a crash at any point leaves a step to go on from or back to.

use std::path::{Path, PathBuf};

use fleetmend_event::ActionId;
use fleetmend_event::TimeMicros;
use fleetmend_event::healer::Proposal;
use fleetmend_event::remedy::Ending;
use fleetmend_identity::{IdentityError, files};
use serde::{Deserialize, Serialize};

use crate::remedy::Plan;
use crate::words::words;

words! {
    /// How far a transaction is known to have come.
    pub enum Step {
        /// Nothing was done.
        Journalled = "journalled",
        /// Nothing was done; the precondition holds.
        Checked = "checked",
        /// Doing it was begun: whether it was done is to be found out.
        Applying = "applying",
        /// It was done.
        Applied = "applied",
        /// It was done and helped.
        Verified = "verified",
        /// It was done and did not help.
        NotVerified = "not-verified",
        /// It was undone.
        Undone = "undone",
        /// It has its ending, and what was done is still in force until a given time.
        Standing = "standing",
    }
}

/// A transaction as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format of these files: 1.
    pub format: u32,
    /// What was proposed.
    pub proposal: Proposal,
    /// What is done and how it is undone.
    pub plan: Plan,
    /// What cool-down and attempts are counted by.
    pub target_key: String,
    /// How far it has come.
    pub step: Step,
    /// What was measured before, as a JSON object.
    pub before: String,
    /// This boot of the host: a pid means nothing after the next.
    pub boot_id: String,
    /// Seconds within which it has to help.
    pub verify_deadline_s: u64,
    /// When the standing effect is taken back.
    pub until: Option<TimeMicros>,
    /// The ending of a transaction whose effect stands: healed where older records do not say.
    #[serde(default)]
    pub ending: Option<Ending>,
    /// Why it ended so: said again when the standing effect is taken back. Empty where older records do not say.
    #[serde(default)]
    pub outcome: String,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("could not write the journal")]
    File(#[from] IdentityError),
    /// The folder could not be listed, or a file not removed.
    #[error("could not {action} {}", path.display())]
    Folder {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A record could not be written as JSON.
    #[error("a journal record could not be encoded")]
    Encode(#[from] serde_json::Error),
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the journal in `state_dir`.
    ///
    /// # Errors
    /// When the folder cannot be made, or others may write to it.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let folder = state_dir.join("journal");
        files::private_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Keeps a record; it is on the disk when this returns.
    ///
    /// # Errors
    /// When it is not.
    pub fn write(&self, record: &Record) -> Result<(), JournalError> {
        let bytes = serde_json::to_vec(record)?;
        Ok(files::write_private(
            &self.path(record.proposal.action_id),
            &bytes,
        )?)
    }

    /// Forgets a record: its transaction is at rest, and the ledger has its ending.
    ///
    /// # Errors
    /// When it is still there.
    pub fn remove(&self, action_id: ActionId) -> Result<(), JournalError> {
        let path = self.path(action_id);
        std::fs::remove_file(&path)
            .and_then(|()| std::fs::File::open(&self.folder)?.sync_all())
            .map_err(|source| JournalError::Folder {
                action: "remove",
                path,
                source,
            })
    }

    /// Every record, and the names of files that are none.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn records(&self) -> Result<(Vec<Record>, Vec<String>), JournalError> {
        let listed = |source| JournalError::Folder {
            action: "list",
            path: self.folder.clone(),
            source,
        };
        let mut records = Vec::new();
        let mut unreadable = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(listed)? {
            let path = entry.map_err(listed)?.path();
            if path.extension().and_then(|extension| extension.to_str()) != Some("json") {
                // A temporary file of a write that a crash cut short: its record is the one it was to replace.
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "leftover in the journal could not be removed");
                }
                continue;
            }
            let bytes = std::fs::read(&path).map_err(listed)?;
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) => records.push(record),
                Err(error) => unreadable.push(format!("{}: {error}", path.display())),
            }
        }
        records.sort_by_key(|record| record.proposal.action_id);
        Ok((records, unreadable))
    }

    fn path(&self, action_id: ActionId) -> PathBuf {
        self.folder.join(format!("{action_id}.json"))
    }
}

/// Id of this boot of the host.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
