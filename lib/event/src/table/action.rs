//! What the healer did, step by step, and its ledger.

use super::table;
use crate::remedy::Ending;
use crate::{ActionId, FindingId, Lane, TimeMicros, words};

words! {
    /// A step of a healing transaction.
    pub enum ActionStage {
        /// The agent proposed it.
        Proposed = "proposed",
        /// A guard refused it; the reason names the guard.
        Refused = "refused",
        /// It would have been done, had the policy not said observe only.
        WouldAct = "would_act",
        /// It is written to the journal, with what is needed to undo it.
        Journalled = "journalled",
        /// Its precondition was read and holds.
        Checked = "checked",
        /// It was done.
        Applied = "applied",
        /// It was measured again, and helped.
        Verified = "verified",
        /// It was measured again, and did not help.
        NotVerified = "not_verified",
        /// It was undone.
        Undone = "undone",
        /// It has its ending.
        Ended = "ended",
    }
}

table! {
    /// One step of one healing transaction.
    pub struct ActionEvent("actions", id 9, version 1, Lane::Critical) {
        /// When it happened.
        time: TimeMicros,
        /// The transaction.
        action_id: ActionId,
        /// The finding that led to it.
        finding_id: FindingId,
        /// Remedy, such as `throttle-process`.
        remedy: String,
        /// What it acts on, for a person: `pid 4711 (stress)`, `/var/tmp`, `nginx.service`.
        target: String,
        /// The step.
        stage: ActionStage,
        /// The ending, on the last step.
        ending: Option<Ending>,
        /// Why, in words.
        reason: String,
        /// What was measured before, as a JSON object.
        before: String,
        /// What was measured after, as a JSON object; `{}` before there is anything to measure.
        after: String,
        /// Whether the precondition could only be taken from the agent's word.
        asserted_by_agent: bool,
        /// Index of the ledger entry that holds this step.
        ledger_index: u64,
    }
}

table! {
    /// An entry of the healer's hash chain.
    pub struct LedgerEntry("ledger", id 10, version 1, Lane::Critical) {
        /// When it was written.
        time: TimeMicros,
        /// Index in the chain, from 0.
        index: u64,
        /// Hash of the entry before, in hex; 64 zeros for the first.
        previous_hash: String,
        /// Hash of this entry, in hex.
        hash: String,
        /// The body that was hashed, as JSON.
        body: String,
    }
}
