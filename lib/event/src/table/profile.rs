//! Profiles: which system calls a process made within a while.

use super::table;
use crate::{Lane, TimeMicros};

table! {
    /// The system calls of one process while they were counted.
    pub struct SyscallProfile("syscall_profiles", id 25, version 1, Lane::Events) {
        /// End of the while.
        time: TimeMicros,
        /// Length of the while in microseconds.
        span_us: u64,
        /// Process id.
        pid: u32,
        /// Nanoseconds on the boot clock when the process began.
        start_boot_ns: u64,
        /// Command name.
        comm: String,
        /// Path of the program, when known.
        exe: Option<String>,
        /// Why it was counted: `suspect` or `sample`.
        occasion: String,
        /// Numbers of the calls made, ascending.
        calls: Vec<u32>,
        /// How often each of `calls` was made.
        counts: Vec<u64>,
        /// The first calls in their order, at most 256.
        sequence: Vec<u32>,
        /// Calls that found no place to be counted in.
        dropped: u64,
    }
}
