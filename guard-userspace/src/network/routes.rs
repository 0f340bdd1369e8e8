//! The way to a client: by which interface its answers leave.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route_socket::RouteSocket;
use super::{Link, LinkError, links};

/// The routes of this network namespace, each asked for once.
pub struct Routes {
    socket: RouteSocket,
    links: Vec<Link>,
    known: HashMap<IpAddr, Option<u32>>,
}

impl Routes {
    /// # Errors
    /// When the kernel does not say.
    pub fn open() -> Result<Self, LinkError> {
        let socket = RouteSocket::open()?;
        Ok(Self { socket, links: links()?, known: HashMap::new() })
    }

    /// Whether answers to `client` leave by one of these interfaces, by the indices; then its packets come by it, too, as a rule.
    pub fn lead_over(&mut self, client: IpAddr, interfaces: &BTreeSet<u32>) -> bool {
        let leaves_by = match self.known.get(&client) {
            Some(known) => *known,
            // One that there is no route to, like one that the kernel does not tell, is not of this host's network.
            None => *self.known.entry(client).insert_entry(ask(&self.socket, client).unwrap_or(None)).get(),
        };
        leaves_by.is_some_and(|index| is_over(index, interfaces, &self.links))
    }
}

/// The index of the interface that the kernel sends to `address` by.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kernel has more to say than matters here")]
fn ask(socket: &RouteSocket, address: IpAddr) -> io::Result<Option<u32>> {
    let mut route = RouteMessage::default();
    let (family, length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = length;
    let to = match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    route.attributes.push(RouteAttribute::Destination(to));
    let Some(RouteNetlinkMessage::NewRoute(route)) = socket.get(&RouteNetlinkMessage::GetRoute(route))?
    else {
        return Err(io::Error::other("the kernel's answer is no route"));
    };
    Ok(route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    }))
}

/// Whether what leaves by an interface leaves by one of these: by itself, by the carrier of a VLAN, by a part of a bond, by a bridge of which
/// each part is one or that has but one. Behind another part of a bridge there may be a guest, whose packets do not come by the one that is guarded.
fn is_over(index: u32, interfaces: &BTreeSet<u32>, links: &[Link]) -> bool {
    let mut ways = vec![index];
    let mut seen = BTreeSet::new();
    while let Some(index) = ways.pop() {
        if interfaces.contains(&index) {
            return true;
        }
        if !seen.insert(index) {
            continue;
        }
        let parts = || links.iter().filter(|link| link.controller == Some(index)).map(|link| link.index);
        let itself = links.iter().find(|link| link.index == index);
        match itself.and_then(|link| link.kind.as_deref()) {
            // The lower device of a veth is in another namespace, and numbered there.
            Some("vlan") => ways.extend(itself.and_then(|link| link.lower)),
            Some("bridge") if parts().count() != 1 && !parts().all(|part| interfaces.contains(&part)) => {}
            _ => ways.extend(parts()),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_reaches_itself_by_loopback() {
        let mut routes = Routes::open().unwrap();
        for address in ["127.0.0.1", "127.9.9.9"] {
            let address = address.parse().unwrap();
            assert!(routes.lead_over(address, &BTreeSet::from([1])), "{address}");
            assert!(!routes.lead_over(address, &BTreeSet::from([2])), "{address}");
        }
        assert!(!routes.lead_over("::ffff:0:0:1".parse().unwrap(), &BTreeSet::from([1])));
    }

    #[test]
    fn a_way_goes_by_carriers_and_parts() {
        let link = |kind: &str, index, controller, lower| Link {
            index,
            controller,
            lower,
            kind: Some(kind.into()),
            ..Link::default()
        };
        // eth0 and eth1 in a bond, a VLAN on it, a bridge of that; a container on another bridge; a guest on that of eth2.
        let links = [
            link("", 2, Some(4), None),
            link("", 3, Some(4), None),
            link("bond", 4, None, None),
            link("vlan", 5, Some(6), Some(4)),
            link("bridge", 6, None, None),
            link("veth", 7, Some(8), Some(2)),
            link("bridge", 8, None, None),
            link("", 10, Some(12), None),
            link("tun", 11, Some(12), None),
            link("bridge", 12, None, None),
        ];
        for (index, guarded, expected) in [
            (2, 2, true),
            (4, 2, true),
            (5, 4, true),
            (6, 5, true),
            (6, 2, true),
            (2, 4, false),
            (8, 2, false),
            (9, 9, true),
            (12, 10, false),
            (12, 12, true),
        ] {
            assert_eq!(is_over(index, &BTreeSet::from([guarded]), &links), expected, "{index} {guarded}");
        }
    }
}
