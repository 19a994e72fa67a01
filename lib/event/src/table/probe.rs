//! The probe contract: every source says what it delivers, and why it does not.

use super::table;
use crate::{Lane, TimeMicros, words};

words! {
    /// How much of its promise a probe keeps.
    pub enum ProbeState {
        /// All of it.
        Real = "REAL",
        /// Some of it; the reason says what is missing.
        Degraded = "DEGRADED",
        /// None of it.
        Broken = "BROKEN",
    }
}

table! {
    /// State of a probe: written at start, on change and every minute.
    pub struct ProbeStatus("probe_status", id 7, version 1, Lane::Events) {
        /// When it was true.
        time: TimeMicros,
        /// Probe, such as `bpf.process`, `host.metrics`, `site.shop`.
        probe: String,
        /// How much of its promise it keeps.
        state: ProbeState,
        /// Why, in words, with the kernel's own where there are some.
        reason: String,
        /// What to do about it; empty when nothing need be done.
        hint: String,
        /// Facts the source saw since the start.
        seen: u64,
        /// Facts that were delivered.
        delivered: u64,
        /// Facts that were lost, all reasons together.
        lost: u64,
    }
}
