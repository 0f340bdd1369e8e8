//! What only UDP can do: no checksum, and many receivers.

use std::net::IpAddr;

use super::{Sender, Shape, of, patched, taken};
use crate::frame::Frame;

/// The checksum of UDP, behind a header without options or extensions.
const IPV4_CHECKSUM: usize = 14 + 20 + 6;
const IPV6_CHECKSUM: usize = 14 + 40 + 6;

pub(super) fn all(sender: &Sender<'_>) -> Vec<Shape> {
    let without_checksum = |frame: Frame, at| vec![patched(&frame, &[(at, 0), (at + 1, 0)])];
    let to =
        |frame: Frame, destination: IpAddr, destination_mac| Frame { destination, destination_mac, ..frame };
    let broadcast = [0xff; 6];
    vec![
        of("no checksum", without_checksum(sender.v4(), IPV4_CHECKSUM), true),
        of("no checksum, IPv6", without_checksum(sender.v6(), IPV6_CHECKSUM), false),
        taken("broadcast", to(sender.v4(), [255; 4].into(), broadcast)),
        taken("broadcast to the network", to(sender.v4(), [10, 77, 255, 255].into(), broadcast)),
        taken(
            "to all hosts, IPv6",
            to(sender.v6(), [0xff02, 0, 0, 0, 0, 0, 0, 1].into(), [0x33, 0x33, 0, 0, 0, 1]),
        ),
    ]
}
