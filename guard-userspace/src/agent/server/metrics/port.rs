//! The port of metrics: the agent holds it for as long as it runs, and leaves it to systemd beyond that.
//!
//! Any user may listen on a port from 1024 on. Whoever could end a server of metrics, or waits for an upgrade of guard, would have the port as
//! soon as it is free, and answer in guard's place.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};
use sd_notify::NotifyState;

/// How often the port is tried that another process has: often at first, since the agent before may be about to let go of it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// From this pause on the operator is told.
const TOLD_AFTER: Duration = Duration::from_millis(160);

/// Connections that wait to be accepted: the server takes milliseconds for so many. Past that the kernel leaves SYNs unanswered, and an honest
/// client tries again a second later.
const WAITING: i32 = 1024;

/// The name under which systemd keeps the port from one agent to the next.
const NAME: &str = "guard-metrics";

/// An address, and the socket that listens on it where it could be had at once.
pub(super) struct Port {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Port {
    /// The first try, with all privileges.
    pub(super) fn take(address: SocketAddr) -> Self {
        let kept = kept().find(|kept| kept.local_addr().is_ok_and(|kept| kept == address));
        let listener = kept.map_or_else(|| bind(address).ok(), |kept| prepare(kept).ok());
        Self { address, listener }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens as soon as the port is free; says why it is not meanwhile.
    pub(super) fn listen(self, mut tell: impl FnMut(&str)) -> TcpListener {
        let mut next = self.listener;
        let (mut told, mut pause) = (None, FIRST_PAUSE);
        loop {
            let error = match next.take().map_or_else(|| bind(self.address), Ok) {
                Ok(listener) => {
                    keep(listener.as_fd());
                    return listener;
                }
                Err(error) => error.to_string(),
            };
            if pause >= TOLD_AFTER && told.as_ref() != Some(&error) {
                tell(&error);
                told = Some(error);
            }
            sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    prepare(TcpListener::bind(address)?)
}

fn prepare(listener: TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    listen(&listener, Backlog::new(WAITING)?)?;
    Ok(listener)
}

/// The sockets that the agent before has left to systemd.
#[expect(unsafe_code, reason = "descriptors come as numbers")]
fn kept() -> impl Iterator<Item = TcpListener> {
    let descriptors = sd_notify::listen_fds_with_names().into_iter().flatten();
    descriptors.filter(|(_, name)| name == NAME).map(|(descriptor, _)| {
        // SAFETY: systemd has opened it for this process, and nothing else here takes what has this name.
        unsafe { OwnedFd::from_raw_fd(descriptor) }.into()
    })
}

/// Leaves the port to systemd, if it started this agent. It replaces the one that it kept before.
fn keep(listener: BorrowedFd<'_>) {
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)]);
    let _ = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(NAME)], &[listener]);
}
