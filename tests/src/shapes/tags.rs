//! In front of IP: VLAN tags, and frames that are not IP though IP is in them.

use super::{Sender, Shape, of, refused, taken};
use crate::frame::{CUSTOMER_TAG, Frame, SERVICE_TAG};

/// Where the type of an Ethernet frame is, and where its payload begins.
const TYPE: usize = 12;
const PAYLOAD: usize = 14;

pub(super) fn all(sender: &Sender<'_>) -> Vec<Shape> {
    let tagged =
        |frame: Frame, tags: &[u16]| Frame { vlan: tags.iter().map(|kind| (*kind, 0)).collect(), ..frame };
    let numbered = |frame: Frame| Frame { vlan: vec![(CUSTOMER_TAG, 5)], ..frame };
    vec![
        taken("priority tag", tagged(sender.v4(), &[CUSTOMER_TAG])),
        taken("priority tag, IPv6", tagged(sender.v6(), &[CUSTOMER_TAG])),
        taken("service tag", tagged(sender.v4(), &[SERVICE_TAG])),
        taken("service tag, IPv6", tagged(sender.v6(), &[SERVICE_TAG])),
        taken("QinQ 0/0", tagged(sender.v4(), &[SERVICE_TAG, CUSTOMER_TAG])),
        taken("QinQ 0/0, IPv6", tagged(sender.v6(), &[SERVICE_TAG, CUSTOMER_TAG])),
        // Linux takes off any number of empty tags; guard looks through two.
        taken("three tags", tagged(sender.v4(), &[SERVICE_TAG, CUSTOMER_TAG, CUSTOMER_TAG])).malformed(1),
        taken("five tags", tagged(sender.v4(), &[CUSTOMER_TAG; 5])).malformed(1),
        refused("a VLAN that the host is not in", numbered(sender.v4())),
        wrapped("LLC and SNAP", sender, |ip| {
            let length = (8 + ip.len()) as u16;
            [&length.to_be_bytes()[..], &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], ip].concat()
        }),
        wrapped("a tag of a type that Linux does not know", sender, |ip| {
            [&[0x91, 0, 0, 0, 8, 0], ip].concat()
        }),
        wrapped("MPLS, explicit null", sender, |ip| [&[0x88, 0x47, 0, 0, 1, 64], ip].concat()),
        wrapped("PPPoE session", sender, |ip| {
            let length = (2 + ip.len()) as u16;
            [&[0x88, 0x64, 0x11, 0, 0, 1][..], &length.to_be_bytes(), &[0, 0x21], ip].concat()
        }),
    ]
}

/// IPv4 in a frame of another kind.
fn wrapped(name: &'static str, sender: &Sender<'_>, wrap: impl Fn(&[u8]) -> Vec<u8>) -> Shape {
    let frame = sender.v4().build();
    of(name, vec![[&frame[..TYPE], &wrap(&frame[PAYLOAD..])].concat()], false).harmless(1)
}
