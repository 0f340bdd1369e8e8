//! Giving memory back: what the start and long lists take is not needed again for long.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "the calls of glibc have no safe wrapper"))]

/// Keeps the heap in few parts, so that what is free in one is of use to all threads.
#[cfg(target_env = "gnu")]
pub(super) fn few_arenas() {
    // SAFETY: sets a number, before there are threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Gives free memory back to the system.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: the call is thread-safe and only releases what nobody uses.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn few_arenas() {}

#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
