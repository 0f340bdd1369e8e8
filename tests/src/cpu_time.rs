//! What work spends of a CPU, however many others want it at the same time.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

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

/// What a process has spent until now. It may have ended, as long as nobody has waited for it.
///
/// # Errors
/// When there is no such process.
pub fn of_process(id: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(id.cast_signed())).context("the process is gone")?;
    clock_gettime(clock).map(Duration::from).context("the kernel does not say what was spent")
}

/// What the threads of this name of a process have spent until now.
///
/// # Errors
/// When there is no such thread, or the kernel does not say.
pub fn of_threads(id: u32, name: &str) -> Result<Duration> {
    let mut spent = None;
    for thread in fs::read_dir(format!("/proc/{id}/task")).context("the process is gone")? {
        let thread = thread?.path();
        // It may end at any moment.
        let Ok(of) = fs::read_to_string(thread.join("comm")) else { continue };
        if of.trim_end() == name {
            let times = fs::read_to_string(thread.join("schedstat")).context("the kernel does not say")?;
            let run = times.split(' ').next().and_then(|run| run.parse().ok()).context("no time")?;
            *spent.get_or_insert(Duration::ZERO) += Duration::from_nanos(run);
        }
    }
    spent.with_context(|| format!("there is no thread {name:?}"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_spends_what_it_works_and_that_can_be_known_after_its_end() {
        let loops = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        let mut child = Command::new("sh").args(["-c", loops]).stdin(Stdio::null()).spawn().unwrap();
        let (status, spent) = of_child(&mut child).unwrap();
        assert!(status.success() && spent > Duration::from_millis(5), "{spent:?}");
        assert!(of_process(child.id()).is_err(), "nobody knows it any longer");
    }
}
