//! CPUs, and threads that stay on one.

use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The CPUs that this thread may use.
///
/// # Errors
/// When the kernel does not say.
pub fn all() -> Result<Vec<usize>> {
    let all = sched_getaffinity(Pid::from_raw(0)).context("cannot count the CPUs")?;
    Ok((0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect())
}

/// Keeps this thread, and what it starts, on a CPU.
///
/// # Errors
/// When the kernel refuses.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut here = CpuSet::new();
    here.set(cpu).context("no such CPU")?;
    sched_setaffinity(Pid::from_raw(0), &here).context("cannot stay on one CPU")
}

/// Does the work on a CPU; processes that it starts stay there.
///
/// # Errors
/// Those of `work`, and when the kernel refuses.
pub fn on<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let there = move || {
        stay_on(cpu)?;
        work()
    };
    thread::scope(|scope| scope.spawn(there).join()).map_err(|_| anyhow!("the work on one CPU panicked"))?
}
