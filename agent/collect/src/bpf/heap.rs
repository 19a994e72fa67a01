//! Giving memory back: the kernel's types take some 30 MiB while the probes are loaded, and nothing after; a storm
//! leaves free memory behind in every thread's part of the heap.
#![expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]

/// Returns what the allocator holds and nobody uses to the system. Other allocators do so by themselves.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes any padding, locks each arena itself, and touches free memory only.
    let returned = unsafe { libc::malloc_trim(0) };
    #[cfg(not(target_env = "gnu"))]
    let returned = 0;
    tracing::debug!(returned, "free memory was returned");
}
