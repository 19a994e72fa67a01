//! What agent and healer say to each other over their Unix socket: one JSON object a line-framed message.
//!
//! The agent proposes and listens; the healer decides. A message is at most [`MESSAGE_BYTES_MAX`] long and
//! framed by its length as four bytes, little-endian.

use serde::{Deserialize, Serialize};

use crate::remedy::Remedy;
use crate::table::{ActionEvent, Finding, LedgerEntry};
use crate::{ActionId, TimeMicros};

/// Longest message either side accepts.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Version of this protocol; the healer refuses another with a clear error.
pub const PROTOCOL_VERSION: u32 = 1;

/// A message of the socket could not be framed or read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Longer than either side accepts.
    #[error("message has {found} bytes, more than the {MESSAGE_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not a message of this protocol.
    #[error("message is not JSON of this protocol")]
    Malformed(#[from] serde_json::Error),
}

/// `message` as it goes over the socket: its length, then its JSON.
///
/// # Errors
/// When it is too long.
pub fn encode_message<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let body = serde_json::to_vec(message)?;
    let found = body.len();
    let length = u32::try_from(found).ok().filter(|_| found <= MESSAGE_BYTES_MAX);
    let length = length.ok_or(MessageError::TooLong { found })?;
    Ok([length.to_le_bytes().as_slice(), &body].concat())
}

/// Length of the message that these four bytes announce.
///
/// # Errors
/// When it is too long: nothing is to be allocated for it.
pub fn message_len(prefix: [u8; 4]) -> Result<usize, MessageError> {
    let found = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if found <= MESSAGE_BYTES_MAX {
        Ok(found)
    } else {
        Err(MessageError::TooLong { found })
    }
}

/// The message in `body`.
///
/// # Errors
/// When it is none.
pub fn decode_message<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    Ok(serde_json::from_slice(body)?)
}

/// A remedy the agent would like to see applied, with the finding that asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Chosen by the agent; proposing the same id again returns the same transaction.
    pub action_id: ActionId,
    /// Why.
    pub finding: Finding,
    /// What.
    pub remedy: Remedy,
    /// When it stops being worth doing.
    pub not_after: TimeMicros,
}

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum HealerRequest {
    /// First message of a connection.
    Hello {
        /// [`PROTOCOL_VERSION`].
        protocol: u32,
    },
    /// Consider a remedy.
    Propose(Box<Proposal>),
    /// Send every ledger entry from this index on, and go on sending new ones.
    Follow {
        /// First index wanted.
        from_index: u64,
    },
    /// Say how things stand.
    Status,
    /// Replace the policy: a signed envelope as JSON, verified by the healer against its own trust anchors.
    InstallPolicy {
        /// The envelope's text.
        envelope: String,
    },
    /// Follow a change of the fleet's keys: a signed trust bundle as JSON, which the healer believes when a root of
    /// the bundle that it trusts now signed it. Whoever brings it is not believed.
    AdvanceTrust {
        /// The bundle's text.
        bundle: String,
    },
    /// Stop or resume all acting, on this host. Whoever may connect may stop; only root may resume.
    KillSwitch {
        /// Whether acting is stopped.
        stopped: bool,
    },
}

/// What the healer answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum HealerReply {
    /// Answer to hello, status, a new policy and the kill switch.
    Status(HealerStatus),
    /// A proposal was taken up or refused; its steps follow as ledger entries.
    Decided {
        /// The transaction.
        action_id: ActionId,
        /// Whether it goes on.
        accepted: bool,
        /// Why, in words.
        reason: String,
    },
    /// One ledger entry, in order, with the step it records when it records one.
    Entry {
        /// The entry.
        entry: LedgerEntry,
        /// The step, as the row that goes to the store.
        event: Option<Box<ActionEvent>>,
    },
    /// The request could not be taken.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// How the healer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealerStatus {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Version of the healer.
    pub version: String,
    /// `observe` or `enforce`.
    pub mode: String,
    /// Version of the installed policy; 0 without one.
    pub policy_version: u64,
    /// Whether the kill switch is set.
    pub stopped: bool,
    /// Remedies that this host can carry out, and why not for the others.
    pub remedies: Vec<RemedySupport>,
    /// Next index of the ledger.
    pub ledger_next: u64,
    /// Version of the trust bundle by which it judges; none where the host was not enrolled as root, and of healers
    /// that do not say.
    #[serde(default)]
    pub bundle_version: Option<u64>,
}

/// Whether a remedy can be carried out on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemedySupport {
    /// Name of the remedy.
    pub remedy: String,
    /// Whether it is applicable here.
    pub applicable: bool,
    /// How, or why not.
    pub detail: String,
}
