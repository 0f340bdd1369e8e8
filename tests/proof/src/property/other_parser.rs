//! Guard's parser against an independent one.

use std::net::IpAddr;

use etherparse::{EtherType, IpNumber, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use guard_common::Reason;
use guard_common::parse::{Kind, Protocol};

use crate::moment::Moment;

/// Where etherparse finds a TCP or UDP port, guard finds the same port and the same source, or does not let the frame pass.
pub fn the_ports_that_another_parser_finds_are_not_missed(moment: &Moment<'_>) {
    let Some((source, protocol, port)) = segment(moment.frame) else { return };
    match moment.seen.kind {
        Ok(kind) => {
            let headers = moment.seen.headers;
            let found = (kind, IpAddr::from(headers.source), headers.port);
            assert_eq!(found, (Kind::Segment(protocol), source, port), "{moment}");
        }
        Err(_) => assert_eq!(moment.seen.verdict.reason, Reason::Malformed, "{moment}"),
    }
}

/// What etherparse says, as far as it goes the way that Linux goes.
pub(crate) fn segment(frame: &[u8]) -> Option<(IpAddr, Protocol, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let first = packet.link.as_ref().and_then(|link| link.ether_payload()).map(|payload| payload.ether_type);
    let next = packet.link_exts.iter().map(|extension| match extension {
        LinkExtSlice::Vlan(tag) => Some(tag.ether_type()),
        LinkExtSlice::Macsec(_) => None,
    });
    // Linux takes no other types for tags, such as 0x9100, and MACsec for a tunnel.
    let known =
        [EtherType::VLAN_TAGGED_FRAME, EtherType::PROVIDER_BRIDGING, EtherType::IPV4, EtherType::IPV6];
    let as_linux = next.chain([first]).all(|kind| kind.is_some_and(|kind| known.contains(&kind)));
    if !as_linux {
        return None;
    }
    let source = match packet.net.as_ref()? {
        // Linux takes an authentication header of IPv4 for a protocol of its own.
        NetSlice::Ipv4(ipv4) if ipv4.header().protocol() == IpNumber::AUTHENTICATION_HEADER => return None,
        NetSlice::Ipv4(ipv4) => IpAddr::V4(ipv4.header().source_addr()),
        NetSlice::Ipv6(ipv6) => IpAddr::V6(ipv6.header().source_addr()),
        NetSlice::Arp(_) => return None,
    };
    match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => Some((source, Protocol::Tcp, tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((source, Protocol::Udp, udp.destination_port())),
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => None,
    }
}
