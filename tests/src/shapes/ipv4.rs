//! IPv4: options, lengths, and packets in packets.

use super::{Sender, Shape, of, patched, refused, taken};
use crate::frame::{Frame, Ipv4Fragment, Transport};

/// Where the header begins, and fields in it.
const HEADER: usize = 14;
const TOTAL_LENGTH: usize = HEADER + 2;
const CHECKSUM: usize = HEADER + 10;
/// A flag beside "don't fragment" that nobody uses.
const RESERVED: u16 = 0x8000;
const DONT_FRAGMENT: u16 = 0x4000;

pub(super) fn all(sender: &Sender<'_>) -> Vec<Shape> {
    let with_options = |options: &[u8]| Frame { options: options.to_vec(), ..sender.v4() };
    let with_flags =
        |offset| Frame { fragment: Ipv4Fragment { offset, ..Ipv4Fragment::default() }, ..sender.v4() };
    let longer = |length_error| Frame { length_error, ..sender.v4() };
    let changed = |name, changes: &[(usize, u8)]| of(name, vec![patched(&sender.v4(), changes)], false);
    let last = sender.v4().build().len() - 1;
    vec![
        taken("4 bytes of options", with_options(&[1; 4])),
        taken("40 bytes of options", with_options(&[1; 40])),
        refused("loose source route, used up", with_options(&[131, 7, 8, 10, 77, 0, 1, 0]))
            .depends_on_the_kernel(),
        taken("don't fragment", with_flags(DONT_FRAGMENT)),
        taken("the reserved flag", with_flags(RESERVED)),
        taken("padding", Frame { padding: 12, ..sender.v4() }),
        taken("padding as long as the packet", Frame { padding: 60, ..sender.v4() }),
        refused("total length ends in the payload", longer(-8)),
        refused("total length ends in the transport header", longer(-36)).malformed(1),
        refused("total length past the frame", longer(1)).malformed(1),
        changed("total length 0", &[(TOTAL_LENGTH, 0), (TOTAL_LENGTH + 1, 0)]).malformed(1),
        changed("header length of 16 bytes", &[(HEADER, 0x44)]).malformed(1),
        changed("header length that leaves no room", &[(HEADER, 0x4f)]).malformed(1),
        changed("version 6", &[(HEADER, 0x65)]).malformed(1),
        changed("a wrong checksum of IP", &[(CHECKSUM, 0x55), (CHECKSUM + 1, 0x55)]),
        changed("a wrong checksum of the transport", &[(last, 0xaa)]),
        inside("IPv4 in IPv4", sender, 4, &[]),
        inside(
            "behind an authentication header",
            sender,
            51,
            &[4, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        inside("in GRE", sender, 47, &[0, 0, 8, 0]),
    ]
}

/// The packet as the payload of another protocol, which is not TCP or UDP to anybody before the host has unpacked it.
fn inside(name: &'static str, sender: &Sender<'_>, protocol: u8, header: &[u8]) -> Shape {
    let inner = sender.v4();
    let payload = [header, &inner.build()[HEADER..]].concat();
    refused(name, Frame { transport: Transport::Raw(protocol), payload, ..inner }).harmless(1)
}
