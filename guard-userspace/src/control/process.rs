//! The process of the agent, as a client sees it over the control socket.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

/// A process that stays the same even if its number is given to another one.
#[derive(Debug)]
pub struct AgentProcess(OwnedFd);

impl AgentProcess {
    /// The process that listens on this socket.
    ///
    /// # Errors
    /// When no process listens, or the kernel does not say which.
    pub fn listening_on(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let process = getsockopt(&stream, sockopt::PeerCredentials)?.pid();
        // SAFETY: the call takes two numbers.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0);
        let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just given this descriptor to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Waits for the end of the process, and says whether it came within this time.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn has_ended_within(&self, patience: Duration) -> io::Result<bool> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut ends = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut ends, patience)? > 0)
    }
}
