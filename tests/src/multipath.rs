//! Sockets of Multipath TCP, as Go's servers have them by default.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{Backlog, SockaddrIn, bind, connect as start_connecting, listen as start_listening};

use crate::net::Host;
use crate::wait;

/// So long a handshake may take.
const PATIENCE: Duration = Duration::from_millis(500);

fn socket() -> Result<OwnedFd> {
    // SAFETY: takes three numbers, and returns a descriptor that is ours, or -1.
    let descriptor =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error()).context("this kernel has no Multipath TCP");
    }
    // SAFETY: the kernel has just made it for this process, and only this function has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Listens on a port of a host.
///
/// # Errors
/// When the kernel refuses.
pub fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    host.enter(|| {
        let listener = socket()?;
        let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
        bind(listener.as_raw_fd(), &address).with_context(|| format!("cannot bind {port}"))?;
        start_listening(&listener, Backlog::new(128)?)?;
        Ok(listener.into())
    })
}

/// Connects to a port of a server.
///
/// # Errors
/// When it is not open after half a second.
pub fn connect(host: &Host, server: &str, port: u16) -> Result<TcpStream> {
    let address = SockaddrIn::from(SocketAddrV4::new(server.parse()?, port));
    host.enter(|| {
        let stream = TcpStream::from(socket()?);
        stream.set_nonblocking(true)?;
        // It is under way.
        let _ = start_connecting(stream.as_raw_fd(), &address);
        wait::within(PATIENCE, || stream.peer_addr().is_ok());
        stream.peer_addr().context("cannot connect")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}
