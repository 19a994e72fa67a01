//! One line of the ledger: its hashes, and how it is verified.

use aws_lc_rs::digest::{Context, SHA256};
use fleetmend_event::remedy::Ending;
use fleetmend_event::table::{ActionStage, LedgerEntry};
use fleetmend_event::{ActionId, FindingId};
use serde::{Deserialize, Serialize};

use crate::words::words;

/// What the first entry follows from.
pub const ZERO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const ENTRY_PREFIX: &[u8] = b"fleetmend-ledger-v1\0";
const COMMITMENT_PREFIX: &[u8] = b"fleetmend-commitment-v1\0";

words! {
    /// What an entry records.
    pub enum Kind {
        /// The healer began to run.
        Start = "start",
        /// A policy, or a trust bundle by which policies are judged, was taken over or refused.
        Policy = "policy",
        /// Acting was stopped or resumed.
        KillSwitch = "kill-switch",
        /// Root said that the clock is right: time goes on from this entry's.
        Clock = "clock",
        /// A step of a transaction.
        Action = "action",
    }
}

/// What is hashed of an entry, and stays when its row is erased.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Format of the ledger: 1.
    pub format: u32,
    /// What the entry records.
    pub kind: Kind,
    /// One line for a person, on entries that are not steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// The transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action_id: Option<ActionId>,
    /// Its finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding_id: Option<FindingId>,
    /// Its remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Hash of what cool-down and attempts are counted by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<ActionStage>,
    /// The ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// Salted hash of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<String>,
}

impl Body {
    /// An entry that is not a step.
    pub fn note(kind: Kind, policy_version: u64, note: String) -> Self {
        Self {
            format: 1,
            kind,
            note: Some(note),
            policy_version,
            action_id: None,
            finding_id: None,
            remedy: None,
            target: None,
            stage: None,
            ending: None,
            commitment: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) entry: LedgerEntry,
    pub(super) salt: Option<String>,
    pub(super) event: Option<String>,
}

/// Hash of a text, shortened to 128 bits, in hex.
pub fn hash_text(text: &str) -> String {
    hex::encode(aws_lc_rs::digest::digest(&SHA256, text.as_bytes()))
        .chars()
        .take(32)
        .collect()
}

pub(super) fn commitment(salt: &[u8], event: &str) -> String {
    let mut context = Context::new(&SHA256);
    context.update(COMMITMENT_PREFIX);
    context.update(salt);
    context.update(event.as_bytes());
    hex::encode(context.finish())
}

pub(super) fn hash(entry: &LedgerEntry) -> String {
    let mut context = Context::new(&SHA256);
    context.update(ENTRY_PREFIX);
    context.update(&entry.index.to_le_bytes());
    context.update(&entry.time.0.to_le_bytes());
    context.update(entry.previous_hash.as_bytes());
    context.update(entry.body.as_bytes());
    hex::encode(context.finish())
}

pub(super) fn verify_line(text: &[u8], index: u64, head: &str) -> Result<(Line, Body), String> {
    let line: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if line.entry.index != index {
        return Err(format!("it says it is entry {}", line.entry.index));
    }
    if line.entry.previous_hash != head {
        return Err("it does not follow from the entry before".to_owned());
    }
    if hash(&line.entry) != line.entry.hash {
        return Err("its hash is not that of its content".to_owned());
    }
    let body: Body = serde_json::from_str(&line.entry.body).map_err(|error| error.to_string())?;
    match (&line.event, &line.salt, &body.commitment) {
        (Some(event), Some(salt), Some(committed)) => {
            let salt = hex::decode(salt).map_err(|error| error.to_string())?;
            if commitment(&salt, event) != *committed {
                return Err("its row is not the one that was committed to".to_owned());
            }
        }
        (None, None, _) => {}
        _ => return Err("it has a row without a commitment, or one without its salt".to_owned()),
    }
    Ok((line, body))
}
