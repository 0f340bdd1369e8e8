//! IPv6 and its extension headers (RFC 8200).

use super::transport::{self, Span};
use super::{Malformed, Parsed};
use crate::packet::read;
use crate::{Address, Packet};

/// Extension headers that are walked. RFC 8200 names six kinds and has each at most once but for destination options,
/// which may come twice; honest packets have one or two.
pub const MAX_EXTENSION_HEADERS: usize = 6;

const HEADER: usize = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

#[inline(always)]
pub(super) fn parse(packet: &(impl Packet + ?Sized), start: usize) -> Result<Parsed, Malformed> {
    let [version, _, _, _, l0, l1, next, _]: [u8; 8] = read(packet, start).ok_or(Malformed::Truncated)?;
    let source = Address::V6(read(packet, start + 8).ok_or(Malformed::Truncated)?);
    // The destination is not judged, but it is part of the header.
    let _: [u8; 16] = read(packet, start + 24).ok_or(Malformed::Truncated)?;
    if version >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    if source.is_mapped_v6() {
        return Err(Malformed::MappedSource);
    }
    let end = match u16::from_be_bytes([l0, l1]) {
        // A jumbogram (RFC 2675): its length is in a hop-by-hop option.
        0 if next == HOP_BY_HOP => packet.length(),
        payload => start + HEADER + usize::from(payload),
    };
    if end > packet.length() {
        return Err(Malformed::BadTotalLength);
    }
    walk(packet, source, next, start + HEADER, end)
}

/// Walks the chain of extension headers from `next`, which begins at `offset`, to the transport header.
#[inline(always)]
fn walk(
    packet: &(impl Packet + ?Sized),
    source: Address,
    mut next: u8,
    mut offset: usize,
    end: usize,
) -> Result<Parsed, Malformed> {
    let mut first_fragment = false;
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION => {
                let [following, words] = read(packet, offset).ok_or(Malformed::Truncated)?;
                let length = if next == AUTHENTICATION {
                    (usize::from(words) + 2) * 4
                } else {
                    (usize::from(words) + 1) * 8
                };
                next = following;
                length
            }
            FRAGMENT => {
                let [following, _, f0, f1] = read(packet, offset).ok_or(Malformed::Truncated)?;
                let fragment = u16::from_be_bytes([f0, f1]);
                if fragment & FRAGMENT_OFFSET != 0 {
                    return Ok(Parsed::Fragment);
                }
                // Neither offset nor more to come: an atomic fragment (RFC 6946), a packet as a whole.
                first_fragment |= fragment & MORE_FRAGMENTS != 0;
                next = following;
                8
            }
            protocol => {
                let span = Span { start: offset, length: end - offset, first_fragment };
                return transport::parse(packet, source, protocol, span);
            }
        };
        offset += length;
        if offset > end {
            return Err(Malformed::BadExtensionHeader);
        }
    }
    Err(Malformed::TooManyExtensionHeaders)
}
