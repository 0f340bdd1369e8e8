//! The routers that the routes of this network namespace lead through.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route_socket::RouteSocket;

/// The gateways of all routes, of both families and in every table: each next hop of a multipath route, and those of next-hop objects, which the
/// kernel writes out beside the number of the object.
///
/// # Errors
/// When the kernel does not say.
pub fn gateways() -> io::Result<BTreeSet<IpAddr>> {
    let socket = RouteSocket::open()?;
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        for answer in socket.list(&RouteNetlinkMessage::GetRoute(question))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                collect(&route.attributes, &mut found);
            }
        }
    }
    Ok(found)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more to say than matters here")]
fn collect(attributes: &[RouteAttribute], found: &mut BTreeSet<IpAddr>) {
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => {
                found.insert(IpAddr::V4(*address));
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => {
                found.insert(IpAddr::V6(*address));
            }
            RouteAttribute::MultiPath(hops) => hops.iter().for_each(|hop| collect(&hop.attributes, found)),
            _ => {}
        }
    }
}
