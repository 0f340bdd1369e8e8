//! What the kernel answers of a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::State;
use super::diag::{
    AF_INET, AF_INET6, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, ID, Kind, LAST_ACK, Name,
    SYN_RECV, Socket,
};
use super::netlink::{attributes, unreadable};

/// Bytes of `inet_diag_msg`.
const ANSWER: usize = 72;
/// The timer of a socket of which only a stub is left. It waits, in FIN_WAIT2 or TIME_WAIT, and belongs to nobody.
const STUB: u8 = 3;
/// INET_DIAG_INFO, INET_DIAG_ULP_INFO, INET_ULP_INFO_MPTCP (linux/inet_diag.h), MPTCP_SUBFLOW_ATTR_TOKEN_LOC (linux/mptcp.h).
const INFO: u16 = 2;
const ULP: u16 = 19;
const ULP_MPTCP: u16 = 3;
const LOCAL_TOKEN: u16 = 2;
/// `tcpi_last_data_recv` and, behind it, `tcpi_last_ack_recv` in `tcp_info` (linux/tcp.h).
const LAST_HEARD: usize = 52;
/// `tcpi_bytes_acked` (linux/tcp.h).
const ACKNOWLEDGED: usize = 120;
/// `mptcpi_token`, `mptcpi_bytes_acked`, and `mptcpi_last_data_recv` with `mptcpi_last_ack_recv` behind it, in `mptcp_info`
/// (linux/mptcp.h; the second since 6.5, the latter since 6.10).
const TOKEN: usize = 12;
const ABOVE_ACKNOWLEDGED: usize = 72;
const ABOVE_LAST_HEARD: usize = 88;

/// What is said of a socket besides. Which of it holds depends on the protocol that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// What tells a socket of Multipath TCP from others of this host.
    pub(super) token: Option<u32>,
    /// The same of the socket above, if this is one of TCP and a subflow.
    pub(super) subflow_of: Option<u32>,
    /// For how many milliseconds nothing has come from the peer of a socket of TCP.
    pub(super) silent: Option<u32>,
    /// The same of a socket of Multipath TCP.
    pub(super) above_silent: Option<u32>,
    /// How many bytes the peer of a socket of TCP has acknowledged.
    pub(super) acknowledged: Option<u64>,
    /// The same of a socket of Multipath TCP.
    pub(super) above_acknowledged: Option<u64>,
}

/// A socket, if it is one with a peer.
pub(super) fn read(answer: &[u8]) -> io::Result<(Option<Socket>, Attributes)> {
    let (head, rest) = split(answer)?;
    let [family, state, timer, ..] = *head;
    let (local, peer, cookie) = ends(answer)?;
    let inode = head.last_chunk().map_or(0, |inode| u32::from_ne_bytes(*inode));
    let name = Name { family, id: id(head) };
    let state = named(state).filter(|_| timer != STUB);
    let socket = |state| Socket {
        local,
        peer,
        state,
        cookie,
        inode,
        silent: None,
        acknowledged: None,
        kind: Kind::Tcp,
        name,
    };
    Ok((state.map(socket), read_attributes(rest)?))
}

/// Local address, address of the peer, cookie.
pub(super) fn ends(answer: &[u8]) -> io::Result<(SocketAddr, SocketAddr, u64)> {
    let (head, _) = split(answer)?;
    read_id(head[0], &id(head))
}

fn split(answer: &[u8]) -> io::Result<(&[u8; ANSWER], &[u8])> {
    answer.split_first_chunk().ok_or_else(|| unreadable(format!("{} bytes are no socket", answer.len())))
}

/// The part that names the socket to the kernel.
fn id(head: &[u8; ANSWER]) -> [u8; ID] {
    let [_, _, _, _, rest @ ..] = head;
    rest.first_chunk().copied().unwrap_or([0; ID])
}

fn read_attributes(bytes: &[u8]) -> io::Result<Attributes> {
    let mut read = Attributes::default();
    for attribute in attributes(bytes) {
        let attribute = attribute?;
        match attribute.kind() {
            INFO => {
                let info = attribute.value();
                read.token = word(info, TOKEN);
                read.silent = heard(info, LAST_HEARD);
                read.above_silent = heard(info, ABOVE_LAST_HEARD);
                read.acknowledged = long(info, ACKNOWLEDGED);
                read.above_acknowledged = long(info, ABOVE_ACKNOWLEDGED);
            }
            ULP => read.subflow_of = subflow_of(attribute.value())?,
            _ => {}
        }
    }
    Ok(read)
}

fn subflow_of(ulp: &[u8]) -> io::Result<Option<u32>> {
    for of_protocol in attributes(ulp) {
        let of_protocol = of_protocol?;
        if of_protocol.kind() == ULP_MPTCP {
            for field in attributes(of_protocol.value()) {
                let field = field?;
                if field.kind() == LOCAL_TOKEN {
                    return Ok(word(field.value(), 0));
                }
            }
        }
    }
    Ok(None)
}

/// The shorter of two times, since data and since an acknowledgement.
fn heard(info: &[u8], at: usize) -> Option<u32> {
    word(info, at).zip(word(info, at + 4)).map(|(data, acknowledgement)| data.min(acknowledgement))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|long| u64::from_ne_bytes(*long))
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
    use crate::sockets::diag::LISTEN;
    use crate::sockets::netlink::add_attribute;

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
            let socket = read(&answer(family, ESTABLISHED, 0, addresses, 7)).unwrap().0.unwrap();
            assert_eq!((socket.local, socket.peer), (local.parse().unwrap(), peer.parse().unwrap()));
            assert_eq!((socket.cookie, socket.is_ownerless()), (1 << 32 | 5, false));
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
            let (socket, _) =
                read(&answer(AF_INET, state, timer, [&[10, 0, 0, 1], &[10, 0, 0, 2]], 0)).unwrap();
            let found = socket.map(|socket| (socket.state, socket.is_ownerless()));
            assert_eq!(found, expected.map(|state| (state, true)), "{state} {timer}");
        }
        let listener = answer(AF_INET6, LISTEN, 0, [&[0; 16], &[0; 16]], 7);
        assert_eq!(ends(&listener).unwrap().0.port(), 8000);
        assert_eq!(read(&listener).unwrap().0, None);
    }

    #[test]
    fn the_name_of_a_socket_is_kept_as_it_is() {
        let answer = answer(AF_INET, ESTABLISHED, 0, [&[10, 0, 0, 1], &[10, 0, 0, 2]], 7);
        let socket = read(&answer).unwrap().0.unwrap();
        assert_eq!((socket.name.family, &socket.name.id[..]), (AF_INET, &answer[4..52]));
    }

    #[test]
    fn tokens_and_silence_are_read_where_they_are() {
        let words = |count: u32| (0..count).flat_map(|word| (word * 4).to_ne_bytes()).collect::<Vec<_>>();
        let with = |attributes: &[(u16, &[u8])]| {
            let mut answer = answer(AF_INET, ESTABLISHED, 0, [&[10, 0, 0, 1], &[10, 0, 0, 2]], 7);
            for (kind, value) in attributes {
                add_attribute(&mut answer, *kind, value).unwrap();
            }
            read(&answer).unwrap().1
        };
        let nested = |kind: u16, value: &[u8]| {
            let mut bytes = Vec::new();
            add_attribute(&mut bytes, kind, value).unwrap();
            bytes
        };
        let subflow = nested(ULP_MPTCP | 1 << 15, &nested(LOCAL_TOKEN, &5_u32.to_ne_bytes()));
        let tcp = with(&[(INFO, &words(70)), (ULP, &subflow)]);
        let long = |at: u64| {
            Some(if cfg!(target_endian = "little") { at | (at + 4) << 32 } else { at << 32 | (at + 4) })
        };
        let expected = Attributes {
            token: Some(12),
            subflow_of: Some(5),
            silent: Some(52),
            above_silent: Some(88),
            acknowledged: long(120),
            above_acknowledged: long(72),
        };
        assert_eq!(tcp, expected);
        let old = with(&[(INFO, &words(20))]);
        assert_eq!((old.silent, old.above_silent, old.acknowledged), (Some(52), None, None));
        assert_eq!(with(&[(ULP, &nested(1, b"tls\0"))]), Attributes::default());
        assert_eq!(with(&[]), Attributes::default());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read(&answer), ends(&answer));
        }
    }
}
