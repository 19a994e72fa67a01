//! Loss as data.

use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// Whether a gap's count is all of it.
    pub enum Exactness {
        /// Exactly this many.
        Exact = "exact",
        /// At least this many.
        AtLeast = "at_least",
    }
}

words! {
    /// Where on its way a fact was lost.
    pub enum GapStage {
        /// In the kernel, before the agent could read it.
        Kernel = "kernel",
        /// Between a collector and the spool.
        Collect = "collect",
        /// In the spool: shed, expired or corrupt.
        Spool = "spool",
        /// At the collector: refused.
        Ingest = "ingest",
        /// In the store: removed before its time, or unreadable.
        Store = "store",
        /// Lost with a store that was restored from a backup.
        Restore = "restore",
    }
}

table! {
    /// A loss: what, how many, when, where and why. Detectors and alerts treat its range as unknown.
    pub struct Gap("gaps", id 11, version 1, Lane::Critical) {
        /// When it was noticed.
        time: TimeMicros,
        /// Table whose rows were lost; `*` when any may be.
        table: String,
        /// Lane of the lost records.
        lane: Lane,
        /// From when rows may be missing.
        from_time: TimeMicros,
        /// Until when.
        to_time: TimeMicros,
        /// How many rows, or records where rows cannot be told.
        count: u64,
        /// Whether that is all of it.
        exactness: Exactness,
        /// Where it was lost.
        stage: GapStage,
        /// Why, as one word or a short phrase: `ring_full`, `spool_quota`, `corrupt`.
        reason: String,
    }
}
