//! Objects that routes share: next hops, and groups of them (`ip nexthop`, Linux 5.3). The library knows the routes, not these.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};

use super::route_socket::RouteSocket;

/// RTM_GETNEXTHOP (linux/rtnetlink.h), and the attributes and the size of `struct nhmsg` in linux/nexthop.h.
const GET: u16 = 106;
const HEADER: usize = 8;
const ID: u16 = 1;
const GROUP: u16 = 2;
const OIF: u16 = 5;
/// `struct nexthop_grp`, which begins with the number of a member.
const MEMBER: usize = 8;

/// One next hop of the kernel, or a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NextHop {
    id: u32,
    interface: Option<u32>,
    members: Vec<u32>,
}

impl NetlinkSerializable for NextHop {
    fn message_type(&self) -> u16 {
        GET
    }

    fn buffer_len(&self) -> usize {
        HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl NetlinkDeserializable for NextHop {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let mut hop = Self::default();
        for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()).flatten() {
            let value = NlaBuffer::value(&attribute);
            match attribute.kind() {
                ID => hop.id = number(value).unwrap_or(0),
                OIF => hop.interface = number(value),
                GROUP => hop.members = value.chunks_exact(MEMBER).filter_map(number).collect(),
                _ => {}
            }
        }
        Ok(hop)
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The interfaces that some next hops, by their numbers, lead over.
pub(super) fn interfaces(socket: &RouteSocket, wanted: &BTreeSet<u32>) -> io::Result<BTreeSet<u32>> {
    if wanted.is_empty() {
        return Ok(BTreeSet::new());
    }
    let hops: BTreeMap<u32, NextHop> =
        socket.list(&NextHop::default())?.into_iter().map(|hop| (hop.id, hop)).collect();
    let chosen = wanted.iter().filter_map(|id| hops.get(id));
    // A group has next hops as members, never groups.
    let members = chosen.clone().flat_map(|hop| &hop.members).filter_map(|id| hops.get(id));
    Ok(chosen.chain(members).filter_map(|hop| hop.interface).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_with_its_members() {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
        };
        let member = |id: u32| [id.to_ne_bytes(), [0; 4]].concat();
        let payload = [
            vec![0; HEADER],
            attribute(ID, &7_u32.to_ne_bytes()),
            attribute(GROUP, &[member(1), member(2)].concat()),
        ]
        .concat();
        let Ok(hop) = NextHop::deserialize(&NetlinkHeader::default(), &payload);
        assert_eq!(hop, NextHop { id: 7, interface: None, members: vec![1, 2] });
        let payload =
            [vec![0; HEADER], attribute(ID, &1_u32.to_ne_bytes()), attribute(OIF, &3_u32.to_ne_bytes())]
                .concat();
        let Ok(hop) = NextHop::deserialize(&NetlinkHeader::default(), &payload);
        assert_eq!(hop, NextHop { id: 1, interface: Some(3), members: Vec::new() });
    }
}
