//! The allocator.
//!
//! Rows are made on one thread and freed on another, and the kernel's types take some 30 MiB while the probes are
//! loaded and nothing after. glibc's arenas, one per thread, keep what such work leaves behind; one arena of jemalloc
//! gives it back after a second, once anybody allocates. `docs/adr` has the measurement.
//!
//! # Invariants
//! - No thread of jemalloc's own: the sandbox is entered by a process that has one thread.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena for all threads, of which few are busy; pages that nobody used for a second are returned.
const SETTINGS: &[u8; 71] = b"narenas:1,background_thread:false,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Where jemalloc looks for its settings: `const char *malloc_conf`. The environment's `MALLOC_CONF` goes before it.
#[expect(
    unsafe_code,
    reason = "jemalloc finds its settings by the name of this symbol, which nothing else in the program has"
)]
#[unsafe(export_name = "malloc_conf")]
pub(crate) static MALLOC_CONF: &[u8; 71] = SETTINGS;
