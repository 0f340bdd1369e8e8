//! Ending a connection of Multipath TCP: through its process.
//!
//! The kernel knows no order to destroy such a socket. It takes one from whoever has the socket open: to connect to no address
//! (`AF_UNSPEC`) ends the connection, tells the client so, and every call of the server's process on it fails. So guard borrows the
//! descriptor of the process that has it open (pidfd_getfd(2)), checks by the token that it is the one that is meant, and gives it back.
//! See `docs/decisions/0017-multipath-tcp.md`.
#![expect(unsafe_code, reason = "neither the standard library nor nix has these system calls")]

use std::fs;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread;

use guard_common::track;

use super::namespaces;

/// At most so many descriptors are looked at: some seconds.
const MOST_DESCRIPTORS: usize = 1 << 18;

/// SOL_MPTCP, MPTCP_INFO, and the place of `mptcpi_token` in `mptcp_info` in words (linux/mptcp.h).
const SOL_MPTCP: libc::c_int = 284;
const MPTCP_INFO: libc::c_int = 1;
const TOKEN: usize = 3;

/// The socket to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// See [`track::multipath`].
    pub(super) cookie: u64,
    /// Of its file.
    pub(super) inode: u32,
    /// The inode of its network namespace.
    pub(super) namespace: u64,
}

/// Why a socket goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no process was found that has it open")]
    NoOwner,
    #[error("the descriptor of process {process} cannot be borrowed: {error}")]
    NotBorrowed { process: u32, error: io::Error },
    #[error("the kernel refuses: {0}")]
    Refused(io::Error),
}

/// Ends these connections. The result of each is in its place.
pub(super) fn end_all(targets: &[Target], processes: &Path) -> Vec<Result<(), Error>> {
    let mut results: Vec<_> = targets.iter().map(|_| Err(Error::NoOwner)).collect();
    let mut left = MOST_DESCRIPTORS;
    let Ok(sockets) = mount_of_sockets() else { return results };
    let (likely, others): (Vec<_>, Vec<_>) = namespaces::processes(processes)
        .partition(|(_, namespace)| targets.iter().any(|target| Some(target.namespace) == *namespace));
    for (process, _) in likely.into_iter().chain(others) {
        if results.iter().all(Result::is_ok) {
            break;
        }
        for (descriptor, inode) in descriptors(&processes.join(process.to_string()), &sockets, &mut left) {
            for (target, result) in targets.iter().zip(&mut results) {
                if result.is_err() && u64::from(target.inode) == inode {
                    *result = end(process, descriptor, target.cookie);
                }
            }
        }
    }
    results
}

/// The descriptors of a process that are sockets, with the inodes of their files.
fn descriptors(process: &Path, sockets: &str, left: &mut usize) -> Vec<(RawFd, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten() {
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => break,
        }
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let inode = fs::read_to_string(entry.path()).ok().and_then(|text| inode_of_socket(&text, sockets));
        found.extend(number.zip(inode));
    }
    found
}

/// The inode of a file that is a socket, of what is in `/proc/PID/fdinfo` (since Linux 5.14).
fn inode_of_socket(text: &str, sockets: &str) -> Option<u64> {
    (field(text, "mnt_id")? == sockets).then(|| field(text, "ino")?.parse().ok())?
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// All sockets are in one file system; its number is that of any socket.
fn mount_of_sockets() -> io::Result<String> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let text = fs::read_to_string(PathBuf::from(format!("/proc/thread-self/fdinfo/{}", socket.as_raw_fd())))?;
    field(&text, "mnt_id").map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn end(process: u32, descriptor: RawFd, cookie: u64) -> Result<(), Error> {
    let socket = borrow(process, descriptor).map_err(|error| Error::NotBorrowed { process, error })?;
    if !matches!(token_of(&socket), Ok(token) if track::multipath(token) == cookie) {
        // The process has put another file there meanwhile. To close that may take as long as whoever made it likes.
        thread::spawn(move || drop(socket));
        return Err(Error::NoOwner);
    }
    disconnect(&socket).map_err(Error::Refused)
}

fn borrow(process: u32, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers, and returns a descriptor that is ours, or -1.
    let of_process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: takes three numbers, and returns a descriptor that is ours, or -1.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, of_process.as_raw_fd(), descriptor, 0) })
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(descriptor) {
        // SAFETY: the kernel has just made it for this process, and only this function has it.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

/// What tells a connection of Multipath TCP from others; an error for any other socket.
fn token_of(socket: &OwnedFd) -> io::Result<u32> {
    let mut info = [0_u32; TOKEN + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to the words, which outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    let [.., token] = info;
    match result {
        0 if length as usize == size_of_val(&info) => Ok(token),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: all zeros is an address of no family: AF_UNSPEC.
    let nobody: libc::sockaddr = unsafe { zeroed() };
    // SAFETY: the kernel reads the address, which outlives the call, in its length.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_sockets_are_taken_for_sockets() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t57829\n";
        assert_eq!(inode_of_socket(text, "10"), Some(57829));
        assert_eq!(inode_of_socket(text, "1"), None);
        assert_eq!(inode_of_socket("pos:\t0\nmnt_id:\t10\n", "10"), None, "before Linux 5.14");
        let file = File::open("/proc/self/status").unwrap();
        let file = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
        assert_eq!(inode_of_socket(&file, &mount_of_sockets().unwrap()), None);
    }

    /// What ends with Multipath TCP is tested where there is a network for it (tests/multipath.rs).
    #[test]
    fn a_socket_of_another_kind_is_left_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let descriptor = OwnedFd::from(server.try_clone().unwrap());
        let process = std::process::id();
        let result = end(process, descriptor.as_raw_fd(), track::multipath(0));
        assert!(matches!(result, Err(Error::NoOwner)), "{result:?}");
        assert!(server.peer_addr().is_ok());
        let result = end(process, 1 << 20, track::multipath(0));
        assert!(matches!(result, Err(Error::NotBorrowed { .. })), "{result:?}");
    }
}
