//! Which user of this host is at the other end of a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::diag::{AF_INET, AF_INET6, ESTABLISHED, ID};
use super::netlink::Channel;

/// SOCK_DIAG_BY_FAMILY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
/// In `inet_diag_msg`: family, state, timer, retransmissions; the name; expiry and two queues; then the user, and the inode of the file.
const STATE: usize = 1;
const USER: usize = 4 + ID + 12;
const INODE: usize = USER + 4;

/// Asks the kernel, in the network namespace of the thread that began. It takes no privilege, and some microseconds.
#[derive(Debug)]
pub struct Users(Channel);

impl Users {
    /// # Errors
    /// When the kernel has no such interface.
    pub fn begin() -> io::Result<Self> {
        Channel::open(SockProtocol::NetlinkSockDiag).map(Self)
    }

    /// The user whose process has the other end of a connection open; none if that is on another host, in another namespace, or closed.
    pub fn of(&mut self, client: SocketAddr, server: SocketAddr) -> Option<u32> {
        let body = question(client, server)?;
        user(&self.0.ask(BY_FAMILY, &body).ok()?)
    }
}

/// An `inet_diag_req_v2` for the socket of the client.
fn question(client: SocketAddr, server: SocketAddr) -> Option<Vec<u8>> {
    let (own, other) = (client.ip().to_canonical(), server.ip().to_canonical());
    let (family, own, other) = match (own, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => (AF_INET, padded(&own.octets()), padded(&other.octets())),
        (IpAddr::V6(own), IpAddr::V6(other)) => (AF_INET6, own.octets(), other.octets()),
        _ => return None,
    };
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(client.port().to_be_bytes());
    body.extend(server.port().to_be_bytes());
    body.extend(own);
    body.extend(other);
    // Any interface, any cookie (INET_DIAG_NOCOOKIE).
    body.extend(0_u32.to_ne_bytes());
    body.extend([0xff; 8]);
    Some(body)
}

fn padded(octets: &[u8; 4]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..4].copy_from_slice(octets);
    padded
}

/// A socket that its process has closed belongs to user 0 for the kernel, whoever had it: that is none.
fn user(answer: &[u8]) -> Option<u32> {
    let number = |at: usize| answer.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let is_open = answer.get(STATE) == Some(&ESTABLISHED) && number(INODE)? != 0;
    is_open.then(|| number(USER)).flatten()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::unistd::getuid;

    use super::*;

    #[test]
    fn the_user_of_an_open_connection_is_known() {
        let mut users = Users::begin().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let (server, _) = listener.accept().unwrap();
            assert_eq!(users.of(ends.0, ends.1), Some(getuid().as_raw()), "{address}");
            drop(client);
            assert_eq!(users.of(ends.0, ends.1), None, "{address}: closed");
            drop(server);
        }
        let elsewhere = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        assert_eq!(users.of(elsewhere.0, elsewhere.1), None);
    }

    #[test]
    fn an_answer_that_is_cut_names_nobody() {
        let mut answer = vec![0; INODE + 4];
        (answer[STATE], answer[USER], answer[INODE]) = (ESTABLISHED, 7, 1);
        assert_eq!(user(&answer), Some(7));
        for length in 0..answer.len() {
            assert_eq!(user(&answer[..length]), None, "{length}");
        }
    }
}
