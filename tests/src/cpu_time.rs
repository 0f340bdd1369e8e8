//! What work spends of a CPU, however many others want it at the same time.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// Does the work, and returns what it gives and what this thread has spent on it.
///
/// # Errors
/// When the kernel does not say.
pub fn of<T>(work: impl FnOnce() -> T) -> Result<(T, Duration)> {
    let now = || {
        let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        now.map(Duration::from).context("the kernel does not say what was spent")
    };
    let before = now()?;
    let given = work();
    Ok((given, now()?.saturating_sub(before)))
}
