//! Ethernet II and VLAN tags.

use super::Malformed;
use crate::Packet;
use crate::packet::{forget, read};

/// Tags that are looked through. Linux strips tags with number 0 one after the other, so a third tag cannot be passed as
/// "not IP": it could hide a port.
pub const MAX_VLAN_TAGS: usize = 2;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
const CUSTOMER_TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

const HEADER: usize = 14;
const ETHERTYPE: usize = 12;
const TAG: usize = 4;

/// The type of what follows, and where it begins.
#[inline(always)]
pub(super) fn parse(packet: &(impl Packet + ?Sized)) -> Result<(u16, usize), Malformed> {
    let mut offset = HEADER;
    let mut ethertype = u16::from_be_bytes(read(packet, ETHERTYPE).ok_or(Malformed::Truncated)?);
    for _ in 0..MAX_VLAN_TAGS {
        if !is_tag(ethertype) {
            return Ok((ethertype, offset));
        }
        ethertype = u16::from_be_bytes(read(packet, offset + 2).ok_or(Malformed::Truncated)?);
        offset = forget(packet, offset + TAG);
    }
    if is_tag(ethertype) { Err(Malformed::TooManyTags) } else { Ok((ethertype, offset)) }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, CUSTOMER_TAG | SERVICE_TAG)
}
