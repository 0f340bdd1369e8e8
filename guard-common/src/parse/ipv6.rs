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
    let header: [u8; HEADER] = read(packet, start).ok_or(Malformed::Truncated)?;
    let [version, _, _, _, l0, l1, next, _, rest @ ..] = header;
    let [h0, h1, h2, h3, h4, h5, h6, h7, l8, l9, la, lb, lc, ld, le, lf, ..] = rest;
    // In two parts: the compiler takes one of sixteen bytes apart into these.
    let high = u64::from_be_bytes([h0, h1, h2, h3, h4, h5, h6, h7]);
    let low = u64::from_be_bytes([l8, l9, la, lb, lc, ld, le, lf]);
    let source = Address::of_words([high, low]);
    if version >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    if source.is_v4() {
        return Err(Malformed::MappedSource);
    }
    headers.source = source;
    let end = match u16::from_be_bytes([l0, l1]) {
        // A jumbogram (RFC 2675): its length is in a hop-by-hop option.
        0 if next == HOP_BY_HOP => headers.length_up_to(packet, usize::MAX),
        payload => start + HEADER + usize::from(payload),
    };
    let end = forget(packet, end);
    if end > headers.length_up_to(packet, end) {
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
