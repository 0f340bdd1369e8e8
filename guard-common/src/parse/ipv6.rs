//! IPv6 and its extension headers (RFC 8200).

use super::transport::{self, Span};
use super::{Headers, Kind, Malformed};
use crate::packet::{forget, read};
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
pub(super) fn parse(
    packet: &(impl Packet + ?Sized),
    start: usize,
    headers: &mut Headers,
) -> Result<Kind, Malformed> {
    let [version, _, _, _, l0, l1, next, _]: [u8; 8] = read(packet, start).ok_or(Malformed::Truncated)?;
    let source = Address::v6(read(packet, start + 8).ok_or(Malformed::Truncated)?);
    // The destination is not judged, but it is part of the header.
    let _: [u8; 16] = read(packet, start + 24).ok_or(Malformed::Truncated)?;
    if version >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    if source.is_v4() {
        return Err(Malformed::MappedSource);
    }
    headers.source = source;
    let end = match u16::from_be_bytes([l0, l1]) {
        // A jumbogram (RFC 2675): its length is in a hop-by-hop option.
        0 if next == HOP_BY_HOP => packet.length(),
        payload => start + HEADER + usize::from(payload),
    };
    let end = forget(packet, end);
    if end > packet.length() {
        return Err(Malformed::BadTotalLength);
    }
    walk(packet, next, start + HEADER, end, headers)
}

/// Walks the chain of extension headers from `next`, which begins at `offset`, to the transport header.
#[inline(always)]
fn walk(
    packet: &(impl Packet + ?Sized),
    mut next: u8,
    mut offset: usize,
    end: usize,
    headers: &mut Headers,
) -> Result<Kind, Malformed> {
    let mut fragment = 0;
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
                let field = u16::from_be_bytes([f0, f1]);
                if field & FRAGMENT_OFFSET != 0 {
                    return Ok(Kind::Fragment);
                }
                // Neither offset nor more to come: an atomic fragment (RFC 6946), a packet as a whole.
                fragment |= field & MORE_FRAGMENTS;
                next = following;
                8
            }
            protocol => {
                let span = Span { start: offset, length: end - offset, more_fragments: fragment };
                return transport::parse(packet, protocol, span, headers);
            }
        };
        offset = forget(packet, offset + length);
        if offset > end {
            return Err(Malformed::BadExtensionHeader);
        }
    }
    Err(Malformed::TooManyExtensionHeaders)
}
