//! Sockets of Multipath TCP, as Go's servers have them by default.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{
    Backlog, SockaddrStorage, bind, connect as start_connecting, listen as start_listening,
};

use crate::net::Host;
use crate::wait;

/// So long a handshake may take.
const PATIENCE: Duration = Duration::from_millis(500);

fn socket(address: &SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes three numbers, and returns a descriptor that is ours, or -1.
    let descriptor =
        unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error()).context("this kernel has no Multipath TCP");
    }
    // SAFETY: the kernel has just made it for this process, and only this function has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Listens on a port of a host, for IPv4 alone.
///
/// # Errors
/// When the kernel refuses.
pub fn listen(host: &Host, port: u16) -> Result<TcpListener> {
    listen_at(host, (Ipv4Addr::UNSPECIFIED, port).into())
}

/// Listens on a port of a host for both families, as Go does.
///
/// # Errors
/// When the kernel refuses.
pub fn listen_for_both(host: &Host, port: u16) -> Result<TcpListener> {
    listen_at(host, (Ipv6Addr::UNSPECIFIED, port).into())
}

fn listen_at(host: &Host, address: SocketAddr) -> Result<TcpListener> {
    host.enter(|| {
        let listener = socket(&address)?;
        let bound = bind(listener.as_raw_fd(), &SockaddrStorage::from(address));
        bound.with_context(|| format!("cannot bind {address}"))?;
        start_listening(&listener, Backlog::new(128)?)?;
        Ok(listener.into())
    })
}

/// Connects to a port of a server.
///
/// # Errors
/// When it is not open after half a second.
pub fn connect(host: &Host, server: &str, port: u16) -> Result<TcpStream> {
    let address = SocketAddr::new(server.parse()?, port);
    host.enter(|| {
        let stream = TcpStream::from(socket(&address)?);
        stream.set_nonblocking(true)?;
        // It is under way.
        let _ = start_connecting(stream.as_raw_fd(), &SockaddrStorage::from(address));
        wait::within(PATIENCE, || stream.peer_addr().is_ok());
        stream.peer_addr().context("cannot connect")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}
