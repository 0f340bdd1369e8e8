//! The process between the agent and the server of metrics: it starts a server, and another when it ends.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::{ExitCode, exit};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::web;
use super::wire::Ends;
use crate::agent::privileges;

/// The name of both processes, where processes are listed.
pub(super) const NAME: &str = "guard-metrics";

/// Serves metrics for the agent that is at the other end of standard input, if an agent has started this process.
pub(in crate::agent) fn keep(arguments: &[OsString]) -> Option<ExitCode> {
    let [name] = arguments else { return None };
    if name != NAME {
        return None;
    }
    match serve() {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{NAME}: {error:#}; an agent starts this, with `guard run`");
            Some(ExitCode::FAILURE)
        }
    }
}

fn serve() -> Result<()> {
    close_others()?;
    let agent = io::stdin().as_fd().try_clone_to_owned().context("there is no agent")?;
    let started_by = getsockopt(&agent, PeerCredentials).context("there is no agent")?.pid();
    begin(Pid::from_raw(started_by))?;
    // Standard output leads nowhere, and so does standard input from here on.
    nix::unistd::dup2_stdin(io::stdout()).context("cannot let go of standard input")?;
    let mut agent = UnixStream::from(agent);
    while let Some((listener, ends)) = Ends::receive(&agent).context("no agent is at the other end")? {
        let ended = run(listener, ends, &agent)?;
        // The agent sees the ends closed first, and reads then why.
        if writeln!(agent, "{ended}").is_err() {
            break;
        }
    }
    Ok(())
}

/// Closes what whoever started the agent has left open.
#[expect(unsafe_code, reason = "the call has no safe wrapper")]
fn close_others() -> Result<()> {
    // SAFETY: this process has just begun, and has opened nothing itself.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    nix::errno::Errno::result(closed).context("cannot close what is open")?;
    Ok(())
}

/// What both processes begin with. They end with what started them, and hold no privilege.
fn begin(started_by: Pid) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with the agent")?;
    // It may have ended before that: no signal comes then.
    ensure!(getppid() == started_by, "what started this process is gone");
    let _ = prctl::set_name(&std::ffi::CString::new(NAME).unwrap_or_default());
    // Nothing else of this user may look into it.
    prctl::set_dumpable(false).context("cannot close the memory to others")?;
    privileges::drop_all()
}

/// Runs a server to its end. Returns how it ended, in words.
#[expect(unsafe_code, reason = "the call has no safe wrapper")]
fn run(listener: TcpListener, ends: Ends, agent: &UnixStream) -> Result<String> {
    let keeper = getpid();
    // SAFETY: this process has one thread, so the child may do all that this one may.
    match unsafe { fork() }.context("cannot start another process")? {
        ForkResult::Child => {
            // What the agent tells the keeper, and is told by it, is not for the server.
            let _ = nix::unistd::close(agent.as_raw_fd());
            let served = begin(keeper).and_then(|()| web::serve(listener, ends));
            exit(i32::from(served.is_err()));
        }
        ForkResult::Parent { child } => {
            drop((listener, ends));
            let ended = waitpid(child, None).context("cannot wait for the server")?;
            if let WaitStatus::Signaled(_, signal, _) = ended {
                return Ok(format!("it was ended by {signal}"));
            }
            Ok(format!("it has ended: {ended:?}"))
        }
    }
}
