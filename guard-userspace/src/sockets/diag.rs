//! The TCP sockets of one network namespace, and the order to destroy one.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::State;
use super::netlink::{Channel, add_attribute, unreadable};

/// SOCK_DIAG_BY_FAMILY, SOCK_DESTROY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// INET_DIAG_REQ_BYTECODE (linux/inet_diag.h).
const BYTECODE: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// The timer of a socket of which only a stub is left. It waits, in FIN_WAIT2 or TIME_WAIT, and belongs to nobody.
const STUB: u8 = 3;

/// States (net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
const CONNECTED: [u8; 7] = [ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING];

/// Bytes of `inet_diag_sockid`, by which the kernel finds a socket again.
const ID: usize = 48;
/// Bytes of `inet_diag_msg`.
const ANSWER: usize = 72;

/// A socket with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) state: State,
    /// No two sockets have the same one within a boot.
    pub(super) cookie: u64,
    /// Its process has closed it, or has not accepted it yet.
    pub(super) is_ownerless: bool,
    family: u8,
    id: [u8; ID],
}

/// The sockets with a peer that the program of `filter` accepts, or all. The kernel looks through the connections of all namespaces.
pub(super) fn connected(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    list(channel, &CONNECTED, filter, |answer| {
        sockets.extend(read(answer)?.1);
        Ok(())
    })?;
    Ok(sockets)
}

/// The ports that something listens on, of those that the program of `filter` accepts, or all. Costs little.
pub(super) fn listening(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<BTreeSet<u16>> {
    Ok(listeners(channel, filter)?.iter().map(SocketAddr::port).collect())
}

/// As [`listening`], with the addresses.
pub(super) fn listeners(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<BTreeSet<SocketAddr>> {
    let mut listeners = BTreeSet::new();
    list(channel, &[LISTEN], filter, |answer| {
        listeners.insert(read(answer)?.0);
        Ok(())
    })?;
    Ok(listeners)
}

fn list(
    channel: &mut Channel,
    states: &[u8],
    filter: Option<&[u8]>,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let states = states.iter().fold(0, |states, state| states | 1 << state);
    for family in [AF_INET, AF_INET6] {
        let mut body = request(family, states, &[0; ID]);
        if let Some(filter) = filter {
            add_attribute(&mut body, BYTECODE, filter)?;
        }
        channel.dump(BY_FAMILY, &body, &mut each)?;
    }
    Ok(())
}

/// Ends a socket: its peer gets a reset, its process an error. Returns whether it was still there.
pub(super) fn destroy(channel: &mut Channel, socket: &Socket) -> io::Result<bool> {
    match channel.order(DESTROY, &request(socket.family, 0, &socket.id)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An `inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// The local address of a socket, and all of it if it is one with a peer.
fn read(answer: &[u8]) -> io::Result<(SocketAddr, Option<Socket>)> {
    let Some(answer) = answer.first_chunk::<ANSWER>() else {
        return Err(unreadable(format!("{} bytes are no socket", answer.len())));
    };
    let [family, state, timer, _, rest @ ..] = *answer;
    let (id, rest) = rest.split_first_chunk::<ID>().ok_or_else(|| unreadable("no socket"))?;
    let is_ownerless = rest.last_chunk() == Some(&[0; 4]);
    let (local, peer, cookie) = read_id(family, id)?;
    let state = named(state).filter(|_| timer != STUB);
    Ok((local, state.map(|state| Socket { local, peer, state, cookie, is_ownerless, family, id: *id })))
}

#[cfg(test)]
impl Socket {
    pub(super) const fn example(local: SocketAddr, peer: SocketAddr, state: State) -> Self {
        Self { local, peer, state, cookie: 1, is_ownerless: false, family: AF_INET, id: [0; ID] }
    }
}

const fn named(state: u8) -> Option<State> {
    match state {
        SYN_RECV => Some(State::HalfOpen),
        ESTABLISHED => Some(State::Established),
        CLOSE_WAIT => Some(State::ClosedByPeer),
        FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING => Some(State::Closing),
        _ => None,
    }
}

/// Local address, address of the peer, cookie.
fn read_id(family: u8, id: &[u8; ID]) -> io::Result<(SocketAddr, SocketAddr, u64)> {
    let mut words = id.as_chunks::<4>().0.iter().copied();
    let mut word = || words.next().unwrap_or_default();
    let [local_high, local_low, peer_high, peer_low] = word();
    let mut address = || -> [[u8; 4]; 4] { [word(), word(), word(), word()] };
    let (local, peer) = (address(), address());
    let [_interface, cookie_low, cookie_high] = [word(), word(), word()].map(u32::from_ne_bytes);
    let address = |words: [[u8; 4]; 4]| match family {
        AF_INET => Ok(IpAddr::from(Ipv4Addr::from(words[0]))),
        AF_INET6 => {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ok(Ipv6Addr::from(bytes).to_canonical())
        }
        family => Err(unreadable(format!("a TCP socket of the address family {family}"))),
    };
    let local = SocketAddr::new(address(local)?, u16::from_be_bytes([local_high, local_low]));
    let peer = SocketAddr::new(address(peer)?, u16::from_be_bytes([peer_high, peer_low]));
    Ok((local, peer, u64::from(cookie_high) << 32 | u64::from(cookie_low)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An `inet_diag_msg`.
    fn answer(family: u8, state: u8, timer: u8, addresses: [&[u8]; 2], inode: u32) -> Vec<u8> {
        let mut answer = vec![family, state, timer, 0];
        answer.extend(8000_u16.to_be_bytes());
        answer.extend(40_000_u16.to_be_bytes());
        for address in addresses {
            let mut room = [0; 16];
            room[..address.len()].copy_from_slice(address);
            answer.extend(room);
        }
        answer.extend(0_u32.to_ne_bytes());
        answer.extend(5_u32.to_ne_bytes());
        answer.extend(1_u32.to_ne_bytes());
        answer.extend([0; 16]);
        answer.extend(inode.to_ne_bytes());
        answer
    }

    #[test]
    fn addresses_of_all_kinds_are_read() {
        let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
        let check = |family, addresses: [&[u8]; 2], [local, peer]: [&str; 2]| {
            let socket = read(&answer(family, ESTABLISHED, 0, addresses, 7)).unwrap().1.unwrap();
            assert_eq!((socket.local, socket.peer), (local.parse().unwrap(), peer.parse().unwrap()));
            assert_eq!((socket.cookie, socket.is_ownerless), (1 << 32 | 5, false));
        };
        let four = ["10.0.0.1:8000", "10.0.0.2:40000"];
        check(AF_INET, [&[10, 0, 0, 1], &[10, 0, 0, 2]], four);
        check(AF_INET6, [&mapped(1), &mapped(2)], four);
        let mut link_local = [0; 16];
        link_local[..2].copy_from_slice(&[0xfe, 0x80]);
        check(
            AF_INET6,
            [&[0xfd; 16], &link_local],
            ["[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:8000", "[fe80::]:40000"],
        );
    }

    #[test]
    fn states_have_names_and_stubs_are_no_sockets() {
        let cases = [
            (ESTABLISHED, 0, Some(State::Established)),
            (SYN_RECV, 1, Some(State::HalfOpen)),
            (CLOSE_WAIT, 0, Some(State::ClosedByPeer)),
            (FIN_WAIT1, 1, Some(State::Closing)),
            (FIN_WAIT2, 0, Some(State::Closing)),
            (LAST_ACK, 0, Some(State::Closing)),
            (CLOSING, 0, Some(State::Closing)),
            (FIN_WAIT2, STUB, None),
            (6, STUB, None),
            (2, 0, None),
            (7, 0, None),
        ];
        for (state, timer, expected) in cases {
            let (_, socket) =
                read(&answer(AF_INET, state, timer, [&[10, 0, 0, 1], &[10, 0, 0, 2]], 0)).unwrap();
            let found = socket.map(|socket| (socket.state, socket.is_ownerless));
            assert_eq!(found, expected.map(|state| (state, true)), "{state} {timer}");
        }
        let listener = read(&answer(AF_INET6, LISTEN, 0, [&[0; 16], &[0; 16]], 7)).unwrap();
        assert_eq!((listener.0.port(), listener.1), (8000, None));
    }

    #[test]
    fn a_socket_is_named_to_the_kernel_as_the_kernel_named_it() {
        let answer = answer(AF_INET, ESTABLISHED, 0, [&[10, 0, 0, 1], &[10, 0, 0, 2]], 7);
        let socket = read(&answer).unwrap().1.unwrap();
        let request = request(socket.family, 1 << ESTABLISHED, &socket.id);
        assert_eq!(request.len(), 56);
        assert_eq!(request[..8], [AF_INET, IPPROTO_TCP, 0, 0, 2, 0, 0, 0]);
        assert_eq!(request[8..], answer[4..52]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&answer);
        }
    }
}
