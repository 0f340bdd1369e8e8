//! What work spends of a CPU, however many others want it at the same time.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

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

/// Waits for the end of a process, and returns what it has spent.
///
/// # Errors
/// When the kernel does not say.
pub fn of_child(child: &mut Child) -> Result<(ExitStatus, Duration)> {
    let id = Pid::from_raw(child.id().cast_signed());
    waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).context("cannot wait for a process")?;
    let spent = of_process(child.id())?;
    Ok((child.wait()?, spent))
}

/// What a process has spent until now, to the hundredth of a second.
///
/// # Errors
/// When there is no such process.
pub fn of_process(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("the process is gone")?;
    // Counted from behind the name, which may hold anything: the state is the first, the times are the twelfth and thirteenth.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>().context("no times")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
