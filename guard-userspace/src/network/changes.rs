//! That something has changed: interfaces, addresses, routes.
//!
//! What it was is not read from the message: messages are lost when there are many, and what counts is how things are now. A message is
//! a reason to look, and so is its loss.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A listener for changes in this network namespace.
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Changes from now on are noticed.
    ///
    /// # Errors
    /// When the kernel does not let this process listen.
    pub fn listen() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // SAFETY: the descriptor is owned, so it stays open, and itself, for as long as it is registered.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Waits until something has changed. Can be cancelled without losing a change.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            match drain(ready.get_inner().as_raw_fd())? {
                0 => ready.clear_ready(),
                _ => {
                    ready.clear_ready();
                    return Ok(());
                }
            }
        }
    }
}

impl Changes {
    /// Forgets the changes so far: whoever looks after this sees them.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn settle(&mut self) -> io::Result<()> {
        drain(self.socket.get_ref().as_raw_fd()).map(drop)
    }
}

/// Takes what there is. Returns how many messages, or losses of messages, that were.
fn drain(socket: i32) -> io::Result<usize> {
    let mut buffer = [0; 8192];
    let mut messages = 0;
    loop {
        match recv(socket, &mut buffer, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => messages += 1,
            Err(Errno::EINTR) => {}
            Err(errno) if errno == Errno::EWOULDBLOCK => return Ok(messages),
            Err(errno) => return Err(errno.into()),
        }
    }
}
