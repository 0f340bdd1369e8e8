//! The interfaces that the default routes of this network namespace lead over.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::next_hops;
use super::route_socket::RouteSocket;

/// What a default route is cut into by tools that leave the one of the host in place: OpenVPN's `def1` takes halves, and of IPv6 the part that is
/// in use on the Internet (RFC 4291, section 2.4).
const PARTS: [(&str, u8); 5] = [("0.0.0.0", 1), ("128.0.0.0", 1), ("::", 1), ("8000::", 1), ("2000::", 3)];

/// The indices of the interfaces of all default routes, of both families and in every table, loopback included.
///
/// A next hop that is down counts: its interface is an uplink all the same.
pub(super) fn uplinks(socket: &RouteSocket) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    let mut objects = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in socket.list(&RouteNetlinkMessage::GetRoute(question))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && is_default(&route)
            {
                leads_over(&route, &mut found, &mut objects);
            }
        }
    }
    found.extend(next_hops::interfaces(socket, &objects)?);
    Ok(found)
}

/// Whether a route takes packets to (a part of) everywhere out by an interface: no reject route, no route to this host itself.
fn is_default(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast
        && match route.header.destination_prefix_length {
            0 => true,
            length => {
                PARTS.iter().any(|(part, bits)| *bits == length && part.parse() == Ok(destination(route)))
            }
        }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more to say than matters here")]
fn destination(route: &RouteMessage) -> IpAddr {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let unspecified = match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(0.into()),
        _ => IpAddr::V4(0.into()),
    };
    route.attributes.iter().find_map(of).unwrap_or(unspecified)
}

/// Adds the interfaces of a route, and the numbers of the next-hop objects that it uses.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more to say than matters here")]
fn leads_over(route: &RouteMessage, interfaces: &mut BTreeSet<u32>, objects: &mut BTreeSet<u32>) {
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => {
                interfaces.insert(*index);
            }
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::NhId(id) => {
                objects.insert(*id);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: RouteType, destination: &str, length: u8) -> RouteMessage {
        let mut route = RouteMessage::default();
        let (family, address) = match destination.parse().unwrap() {
            IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
        };
        route.header.address_family = family;
        route.header.kind = kind;
        route.header.destination_prefix_length = length;
        if length > 0 {
            route.attributes.push(RouteAttribute::Destination(address));
        }
        route
    }

    #[test]
    fn default_routes_are_told_from_others() {
        let cases = [
            (RouteType::Unicast, "0.0.0.0", 0, true),
            (RouteType::Unicast, "::", 0, true),
            (RouteType::Unreachable, "::", 0, false),
            (RouteType::Local, "0.0.0.0", 0, false),
            (RouteType::BlackHole, "0.0.0.0", 0, false),
            (RouteType::Unicast, "0.0.0.0", 1, true),
            (RouteType::Unicast, "128.0.0.0", 1, true),
            (RouteType::Unicast, "2000::", 3, true),
            (RouteType::Unicast, "fc00::", 7, false),
            (RouteType::Unicast, "10.0.0.0", 8, false),
        ];
        for (kind, destination, length, expected) in cases {
            assert_eq!(
                is_default(&route(kind, destination, length)),
                expected,
                "{kind:?} {destination}/{length}"
            );
        }
    }

    #[test]
    fn the_reject_route_of_ipv6_leads_over_nothing() {
        let socket = RouteSocket::open().unwrap();
        assert!(!uplinks(&socket).unwrap().contains(&1), "loopback");
    }
}
