//! Which network namespace this is.
#![expect(unsafe_code, reason = "the option has no safe wrapper")]

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The number that the kernel gives to the network namespace of this thread, and to no other until the next boot; Linux 5.14.
///
/// # Errors
/// When the kernel does not say.
pub fn namespace() -> io::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has room for them.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_the_same_each_time() {
        assert_eq!(namespace().unwrap(), namespace().unwrap());
        assert_ne!(namespace().unwrap(), 0);
    }
}
