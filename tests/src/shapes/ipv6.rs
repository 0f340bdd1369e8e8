//! IPv6: extension headers, lengths, and IPv4 in its addresses.

use super::{Sender, Shape, of, patched, refused, taken};
use crate::frame::Extension::{self, Authentication, DestinationOptions, HopByHop, Routing};
use crate::frame::Frame;

/// Where the header begins, and fields in and behind it.
const HEADER: usize = 14;
const EXTENSION: usize = HEADER + 40;
const SEGMENTS_LEFT: usize = EXTENSION + 3;
/// The option of a jumbogram (RFC 2675).
const JUMBO: u8 = 0xc2;

const ATOMIC: Extension = Extension::Fragment { offset: 0, more: false, identification: 9 };

pub(super) fn all(sender: &Sender<'_>) -> Vec<Shape> {
    [chains(sender), lengths(sender), addresses(sender)].concat()
}

fn chains(sender: &Sender<'_>) -> Vec<Shape> {
    let extended = |extensions: &[Extension]| Frame { extensions: extensions.to_vec(), ..sender.v6() };
    let routing = |kind| extended(&[Routing { kind, units: 0 }]);
    let segments_left = patched(&routing(0), &[(SEGMENTS_LEFT, 1)]);
    let mut chain = vec![HopByHop(0), ATOMIC, DestinationOptions(1), Routing { kind: 0, units: 2 }];
    chain.resize(6, DestinationOptions(0));
    let longest = extended(&chain);
    chain.push(DestinationOptions(0));
    vec![
        taken("hop-by-hop", extended(&[HopByHop(0)])),
        taken("130 words of destination options", extended(&[DestinationOptions(130)])),
        taken("hop-by-hop and destination options", extended(&[HopByHop(0), DestinationOptions(0)])),
        taken("atomic fragment", extended(&[ATOMIC])),
        taken("routing header of type 0", routing(0)),
        taken("routing header of an unknown type", routing(253)),
        refused("routing header of type 2", routing(2)).depends_on_the_kernel(),
        refused("routing header of type 3", routing(3)).depends_on_the_kernel(),
        refused("routing header of type 4", routing(4)).depends_on_the_kernel(),
        of("routing header with a segment left", vec![segments_left], false),
        refused("authentication header", extended(&[Authentication(4)])).depends_on_the_kernel(),
        refused("hop-by-hop behind destination options", extended(&[DestinationOptions(0), HopByHop(0)])),
        refused("two fragment headers", extended(&[ATOMIC, ATOMIC])).malformed(1),
        taken("as many extension headers as guard walks", longest),
        taken("one extension header too many", extended(&chain)).malformed(1),
    ]
}

fn lengths(sender: &Sender<'_>) -> Vec<Shape> {
    let longer = |length_error| Frame { length_error, ..sender.v6() };
    // A length field of 0.
    let none = -1000;
    let hop_by_hop = Frame { extensions: vec![HopByHop(0)], length_error: none, ..sender.v6() };
    let length = (hop_by_hop.build().len() - EXTENSION) as u8;
    let jumbo = patched(&hop_by_hop, &[(EXTENSION + 2, JUMBO), (EXTENSION + 3, 4), (EXTENSION + 7, length)]);
    vec![
        taken("padding, IPv6", Frame { padding: 12, ..sender.v6() }),
        refused("payload length ends in the payload", longer(-8)),
        refused("payload length past the frame", longer(1)).malformed(1),
        refused("payload length 0", longer(none)).malformed(1),
        taken("payload length 0 and a hop-by-hop header", hop_by_hop),
        of("a jumbogram that is none", vec![jumbo], false),
        of("version 4", vec![patched(&sender.v6(), &[(HEADER, 0x45)])], false).malformed(1),
    ]
}

fn addresses(sender: &Sender<'_>) -> Vec<Shape> {
    let mapped = |address: &str| format!("::ffff:{address}");
    let source = Frame { source_mac: super::MAC, ..(sender.packet)(&mapped(sender.addresses[0])) };
    let destination = Frame { destination: mapped_destination(sender), ..sender.v6() };
    // TCP refuses it by itself.
    let mapped_source = Shape { taken: Some(!sender.is_tcp()), ..taken("an IPv4-mapped source", source) };
    vec![mapped_source.malformed(1), refused("an IPv4-mapped destination", destination)]
}

/// The server's IPv4 address, as one of IPv6.
fn mapped_destination(sender: &Sender<'_>) -> std::net::IpAddr {
    match sender.v4().destination {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        address @ std::net::IpAddr::V6(_) => address,
    }
}
