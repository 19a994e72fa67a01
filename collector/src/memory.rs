//! The allocator.
//!
//! A collector allocates on every thread of its runtimes and frees on others, in sizes from a label to a batch of
//! megabytes. glibc's arenas keep what such bursts leave behind; jemalloc gives it back after a second, from a
//! thread of its own. `docs/adr` has the measurement.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A thread of jemalloc's returns pages that nobody used for a second.
const SETTINGS: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Where jemalloc looks for its settings: `const char *malloc_conf`. The environment's `MALLOC_CONF` goes before it.
#[expect(
    unsafe_code,
    reason = "jemalloc finds its settings by the name of this symbol, which nothing else in the program has"
)]
#[unsafe(export_name = "malloc_conf")]
pub(crate) static MALLOC_CONF: &[u8; 60] = SETTINGS;
