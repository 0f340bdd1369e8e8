//! Which changes of a TCP socket open and close a connection, and what it is counted under.

use core::borrow::Borrow;

use crate::abi::{Class, ServiceId, SourceKey};
use crate::epoch::Slot;
use crate::parse::Protocol;
use crate::{Address, Family, Tables};

/// States of a TCP socket: include/net/tcp_states.h. They are part of what Linux promises to programs.
const ESTABLISHED: i32 = 1;
const SYN_RECV: i32 = 3;
const CLOSE: i32 = 7;
const CLOSE_WAIT: i32 = 8;
const LAST_ACK: i32 = 9;
const CLOSING: i32 = 11;

/// What a change of state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client has finished its handshake: its address is no forgery.
    Opened,
    /// The client has closed its end; the server has not let go of the socket yet.
    ClosedByClient,
    /// The socket holds nothing of the client any longer. (What waits in TIME_WAIT is no socket of a server.)
    Closed,
}

/// What it means that a socket goes from one state to another.
#[inline(always)]
pub const fn change(from: i32, to: i32) -> Option<Change> {
    match (from, to) {
        (SYN_RECV, ESTABLISHED) => Some(Change::Opened),
        (_, CLOSE_WAIT | LAST_ACK | CLOSING) => Some(Change::ClosedByClient),
        (_, CLOSE) => Some(Change::Closed),
        _ => None,
    }
}

/// The key of a connection of Multipath TCP, where that of any other is the cookie of its socket, a small number. Its token tells it from
/// all others that are open on this host. Its cookie does not: a server's sockets have the one that their listener had before.
#[inline(always)]
pub const fn multipath(token: u32) -> u64 {
    1 << 63 | token as u64
}

/// What a connection to `port` of this host is counted under, by that alone; none, if the port is not guarded or the client
/// is this host itself.
#[inline(always)]
pub fn source(
    tables: &impl Tables,
    client: Address,
    port: u16,
    clock: impl Fn() -> u64,
) -> Option<SourceKey> {
    if is_loopback(client) {
        return None;
    }
    let slot = tables.epoch().live(clock);
    let id = tables.service_at(slot, Protocol::Tcp, port)?;
    source_at(tables, slot, id, client)
}

/// What `client` is counted under at a service.
#[inline(always)]
pub fn source_at(tables: &impl Tables, slot: Slot, id: ServiceId, client: Address) -> Option<SourceKey> {
    tables.service(slot, id).map(|service| SourceKey::new(id, &service, client))
}

/// How many connections `client` may have at a service at once; 0: as many as it likes, or as many as it has where the service only monitors.
#[inline(always)]
pub fn most(tables: &impl Tables, slot: Slot, id: ServiceId, client: Address) -> u64 {
    if tables.service(slot, id).is_none_or(|service| service.monitors()) {
        return 0;
    }
    let Some(rule) = tables.rule(slot, id, client) else { return 0 };
    match rule.class() {
        Class::Allow => {
            tables.limits(slot, rule.limits()).map_or(0, |limits| limits.borrow().max_connections)
        }
        Class::Deny | Class::Trusted => 0,
    }
}

/// 127.0.0.0/8 (RFC 1122, section 3.2.1.3) and ::1 (RFC 4291, section 2.5.3): such packets never come from a network.
#[inline(always)]
pub const fn is_loopback(address: Address) -> bool {
    match address.family() {
        Family::V4([first, ..]) => first == 127,
        Family::V6(bytes) => u128::from_be_bytes(bytes) == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_handshake_opens_and_only_a_close_closes() {
        const SYN_SENT: i32 = 2;
        let states = 1..=12;
        for (from, to) in states.clone().flat_map(|from| states.clone().map(move |to| (from, to))) {
            let expected = match (from, to) {
                (3, 1) => Some(Change::Opened),
                (_, 7) => Some(Change::Closed),
                (_, 8 | 9 | 11) => Some(Change::ClosedByClient),
                _ => None,
            };
            assert_eq!(change(from, to), expected, "{from} to {to}");
        }
        assert_eq!(change(SYN_SENT, ESTABLISHED), None, "this host is the client");
    }

    #[test]
    fn loopback_is_no_client() {
        let address = |text: &str| Address::from(text.parse::<core::net::IpAddr>().unwrap());
        for (text, expected) in
            [("127.0.0.1", true), ("127.255.0.3", true), ("128.0.0.1", false), ("::1", true), ("::2", false)]
        {
            assert_eq!(is_loopback(address(text)), expected, "{text}");
        }
    }
}
