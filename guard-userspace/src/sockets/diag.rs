//! The TCP sockets of one network namespace, and the order to destroy one.
//!
//! A connection of Multipath TCP is one socket, and one of TCP for each of its subflows. The kernel lists the former as another protocol.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;

use guard_common::track;

use super::netlink::{Channel, add_attribute};
use super::{State, answer};

/// SOCK_DIAG_BY_FAMILY, SOCK_DESTROY (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// INET_DIAG_REQ_BYTECODE, INET_DIAG_REQ_PROTOCOL (linux/inet_diag.h).
const BYTECODE: u16 = 1;
const PROTOCOL: u16 = 3;
/// INET_DIAG_INFO as a bit of `idiag_ext`.
const INFO: u8 = 1 << 1;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// IPPROTO_RAW: the protocol is in an attribute.
const IN_ATTRIBUTE: u8 = 255;
const IPPROTO_MPTCP: u32 = 262;

/// States (net/tcp_states.h).
pub(super) const ESTABLISHED: u8 = 1;
pub(super) const SYN_RECV: u8 = 3;
pub(super) const FIN_WAIT1: u8 = 4;
pub(super) const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE_WAIT: u8 = 8;
pub(super) const LAST_ACK: u8 = 9;
pub(super) const LISTEN: u8 = 10;
pub(super) const CLOSING: u8 = 11;
const CONNECTED: [u8; 7] = [ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING];

/// Bytes of `inet_diag_sockid`, by which the kernel finds a socket again.
pub(super) const ID: usize = 48;

/// How the kernel finds a socket again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) family: u8,
    pub(super) id: [u8; ID],
}

/// A socket with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) state: State,
    /// No two sockets have the same one within a boot. For Multipath TCP it is made of the token, see [`track::multipath`].
    pub(super) cookie: u64,
    /// That of the file that its process has open; 0: its process has closed it, or has not accepted it yet.
    pub(super) inode: u32,
    /// For how long nothing has come from the peer, in milliseconds, as far as the kernel tells.
    pub(super) silent: Option<u32>,
    /// How many bytes the peer has acknowledged, as far as the kernel tells.
    pub(super) acknowledged: Option<u64>,
    pub(super) kind: Kind,
    pub(super) name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// With the sockets of its subflows, if it has any left.
    Multipath(Vec<Name>),
}

/// Whether the answers say more of each socket than they have to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Little,
    /// For how long peers have been silent, and how much they have acknowledged.
    Full,
}

/// The connections that the program of `filter` accepts, or all. The kernel looks through the connections of all namespaces.
/// Subflows are no connections of their own. `multipath` says whether this namespace may have Multipath TCP; it is changed where the kernel
/// does not list that.
pub(super) fn connected(
    channel: &mut Channel,
    filter: Option<&[u8]>,
    multipath: &mut bool,
    detail: Detail,
) -> io::Result<Vec<Socket>> {
    let mut above = if *multipath { above(channel, filter)? } else { Some(HashMap::new()) };
    *multipath &= above.is_some();
    let mut sockets = Vec::new();
    // Which connection a subflow belongs to is in the details only.
    let is_needed = above.as_ref().is_some_and(|above| !above.is_empty());
    let detail = if is_needed || detail == Detail::Full { INFO } else { 0 };
    list(channel, Protocol::Tcp, &CONNECTED, filter, detail, |answer| {
        let (socket, attributes) = answer::read(answer)?;
        match above.as_mut().zip(attributes.subflow_of) {
            Some((above, token)) => {
                // One that is missing has been made since.
                above.entry(token).and_modify(|above| above.add_subflow(socket, attributes.silent));
            }
            None => sockets.extend(socket.map(|socket| Socket {
                silent: attributes.silent,
                acknowledged: attributes.acknowledged,
                ..socket
            })),
        }
        Ok(())
    })?;
    sockets.extend(above.into_iter().flat_map(HashMap::into_values));
    Ok(sockets)
}

/// The sockets of Multipath TCP, by their tokens; none where the kernel does not list them.
fn above(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<Option<HashMap<u32, Socket>>> {
    let mut above = HashMap::new();
    let listed = list(channel, Protocol::Multipath, &CONNECTED, filter, INFO, |answer| {
        let (socket, attributes) = answer::read(answer)?;
        let (silent, acknowledged) = (attributes.above_silent, attributes.above_acknowledged);
        if let (Some(token), Some(socket)) = (attributes.token, socket) {
            let (kind, cookie) = (Kind::Multipath(Vec::new()), track::multipath(token));
            above.insert(token, Socket { kind, cookie, silent, acknowledged, ..socket });
        }
        Ok(())
    });
    match listed.map_err(|error| (error.raw_os_error(), error)) {
        Ok(()) => Ok(Some(above)),
        Err((Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT), _)) => Ok(None),
        Err((_, error)) => Err(error),
    }
}

/// The ports that something listens on, of those that the program of `filter` accepts, or all. Costs little.
pub(super) fn listening(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<BTreeSet<u16>> {
    Ok(listeners(channel, filter)?.iter().map(SocketAddr::port).collect())
}

/// As [`listening`], with the addresses.
pub(super) fn listeners(channel: &mut Channel, filter: Option<&[u8]>) -> io::Result<BTreeSet<SocketAddr>> {
    let mut listeners = BTreeSet::new();
    list(channel, Protocol::Tcp, &[LISTEN], filter, 0, |answer| {
        listeners.insert(answer::ends(answer)?.0);
        Ok(())
    })?;
    Ok(listeners)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Multipath,
}

fn list(
    channel: &mut Channel,
    protocol: Protocol,
    states: &[u8],
    filter: Option<&[u8]>,
    detail: u8,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let states = states.iter().fold(0, |states, state| states | 1 << state);
    for family in [AF_INET, AF_INET6] {
        let mut body = request(protocol, detail, states, &Name { family, id: [0; ID] });
        if protocol == Protocol::Multipath {
            add_attribute(&mut body, PROTOCOL, &IPPROTO_MPTCP.to_ne_bytes())?;
        }
        if let Some(filter) = filter {
            add_attribute(&mut body, BYTECODE, filter)?;
        }
        channel.dump(BY_FAMILY, &body, &mut each)?;
    }
    Ok(())
}

/// Ends a socket of TCP: its peer gets a reset, its process an error. Returns whether it was still there. The kernel knows no such order for
/// Multipath TCP.
pub(super) fn destroy(channel: &mut Channel, name: &Name) -> io::Result<bool> {
    match channel.order(DESTROY, &request(Protocol::Tcp, 0, 0, name)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An `inet_diag_req_v2`.
fn request(protocol: Protocol, detail: u8, states: u32, name: &Name) -> Vec<u8> {
    let protocol = match protocol {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Multipath => IN_ATTRIBUTE,
    };
    let mut body = vec![name.family, protocol, detail, 0];
    body.extend(states.to_ne_bytes());
    body.extend(name.id);
    body
}

impl Socket {
    /// Counts a socket of TCP as one of the subflows.
    fn add_subflow(&mut self, subflow: Option<Self>, silent: Option<u32>) {
        self.silent = [self.silent, silent].into_iter().flatten().min();
        if let (Kind::Multipath(subflows), Some(subflow)) = (&mut self.kind, subflow) {
            subflows.push(subflow.name);
        }
    }

    /// Whether no process has it open.
    pub(super) const fn is_ownerless(&self) -> bool {
        self.inode == 0
    }

    #[cfg(test)]
    pub(super) const fn example(local: SocketAddr, peer: SocketAddr, state: State) -> Self {
        let name = Name { family: AF_INET, id: [0; ID] };
        Self {
            local,
            peer,
            state,
            cookie: 1,
            inode: 7,
            silent: None,
            acknowledged: None,
            kind: Kind::Tcp,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_to_the_kernel_as_the_kernel_named_it() {
        let name = Name { family: AF_INET, id: [9; ID] };
        let cases = [(Protocol::Tcp, 0, IPPROTO_TCP), (Protocol::Multipath, INFO, IN_ATTRIBUTE)];
        for (protocol, detail, number) in cases {
            let request = request(protocol, detail, 1 << ESTABLISHED, &name);
            assert_eq!(request.len(), 56);
            assert_eq!(request[..8], [AF_INET, number, detail, 0, 2, 0, 0, 0]);
            assert_eq!(request[8..], name.id);
        }
    }
}
