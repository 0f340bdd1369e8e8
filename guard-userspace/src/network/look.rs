//! How the network of this host is at one moment.

use std::collections::BTreeSet;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;

use super::links::{self, Link, LinkError};
use super::route_socket::RouteSocket;
use super::uplinks;

/// What one look found. All of it was told by the kernel: a look that fails has no result, so nothing that is unknown looks like absent.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub links: Vec<Link>,
    /// The indices of those that have an address.
    pub addressed: BTreeSet<u32>,
    /// ... and of those that a default route leads over.
    pub uplinks: BTreeSet<u32>,
}

impl Network {
    /// # Errors
    /// When the kernel does not say.
    pub fn look() -> Result<Self, LinkError> {
        let socket = RouteSocket::open()?;
        let addresses = socket.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let index = |answer| {
            let RouteNetlinkMessage::NewAddress(address) = answer else { return None };
            Some(address.header.index)
        };
        Ok(Self {
            links: links::list(&socket)?,
            addressed: addresses.into_iter().filter_map(index).collect(),
            uplinks: uplinks::uplinks(&socket)?,
        })
    }

    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of an interface.
    pub fn name(&self, index: u32) -> &str {
        self.link(index).map_or("(gone)", |link| &link.name)
    }

    /// The interfaces that hand their packets to this one: the parts of a bridge or a bond, the carrier of a VLAN.
    pub fn lowers(&self, index: u32) -> BTreeSet<u32> {
        let parts = self.links.iter().filter(|link| link.controller == Some(index)).map(|link| link.index);
        let carrier = self.link(index).filter(|link| link.is_carried()).and_then(|link| link.lower);
        // A device without its lower one in sight has none here.
        parts.chain(carrier).filter(|lower| self.link(*lower).is_some()).collect()
    }

    /// All interfaces below this one, at any depth.
    pub fn all_below(&self, index: u32) -> BTreeSet<u32> {
        let mut below = BTreeSet::new();
        let mut ways = vec![index];
        while let Some(index) = ways.pop() {
            ways.extend(self.lowers(index).into_iter().filter(|lower| below.insert(*lower)));
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_or_none_of_it_is_told() {
        let network = Network::look().unwrap();
        assert!(network.link(1).is_some_and(|link| link.is_loopback));
        assert!(!network.uplinks.contains(&1));
    }

    #[test]
    fn what_lies_below_is_found_at_any_depth() {
        let link = |kind: &str, index, controller, lower| Link {
            index,
            controller,
            lower,
            kind: Some(kind.into()),
            ..Link::default()
        };
        // eth0 and eth1 in a bond, a VLAN on it, a bridge of that; a tunnel over the bond, whose packets are not its.
        let links = vec![
            link("", 2, Some(4), None),
            link("", 3, Some(4), None),
            link("bond", 4, None, None),
            link("vlan", 5, Some(6), Some(4)),
            link("bridge", 6, None, None),
            link("ipip", 7, None, Some(4)),
            link("macvlan", 8, None, Some(2)),
        ];
        let network = Network { links, ..Network::default() };
        for (index, expected) in [
            (2, vec![]),
            (4, vec![2, 3]),
            (5, vec![2, 3, 4]),
            (6, vec![2, 3, 4, 5]),
            (7, vec![]),
            (8, vec![2]),
        ] {
            assert_eq!(network.all_below(index), BTreeSet::from_iter(expected), "{index}");
        }
    }
}
