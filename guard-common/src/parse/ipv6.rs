//! IPv6 and its extension headers (RFC 8200).

use super::transport::{self, Span};
use super::{Headers, Kind, Malformed, Part};
use crate::abi::FragmentKey;
use crate::packet::{forget, read};
use crate::{Address, Packet};

/// Extension headers that are walked. RFC 8200 names six kinds and has each at most once but for destination options,
/// which may come twice; honest packets have one or two.
pub const MAX_EXTENSION_HEADERS: usize = 6;

pub(super) const ICMP: u8 = 58;

const HEADER: usize = 40;
/// Where the next header, the source and the destination are in the header.
const NEXT: usize = 6;
const SOURCE: usize = 8;
const DESTINATION: usize = 24;
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT_HEADER: usize = 8;
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
    headers.network = start as u8;
    headers.source = source;
    if source.is_v4() {
        return Err(Malformed::MappedSource);
    }
    let end = match u16::from_be_bytes([l0, l1]) {
        0 => end_without_length(packet, next, start + HEADER, headers),
        payload => start + HEADER + usize::from(payload),
    };
    let end = forget(packet, end);
    if end > headers.length_up_to(packet, end) {
        return Err(Malformed::BadTotalLength);
    }
    walk(packet, next, start + HEADER, end, headers)
}

#[inline(always)]
pub(super) fn destination(packet: &(impl Packet + ?Sized), start: usize) -> Option<Address> {
    let high: [u8; 8] = read(packet, start + DESTINATION)?;
    let low: [u8; 8] = read(packet, start + DESTINATION + 8)?;
    Some(Address::of_words([u64::from_be_bytes(high), u64::from_be_bytes(low)]))
}

/// Which packet the fragment at `start` is of. Its fragment header is in one of the two places where [`walk`] takes it.
#[inline(always)]
pub(super) fn fragment_key(packet: &(impl Packet + ?Sized), start: usize) -> Option<FragmentKey> {
    let [next]: [u8; 1] = read(packet, start + NEXT)?;
    let mut offset = start + HEADER;
    if next == HOP_BY_HOP {
        let [_, words] = read(packet, offset)?;
        offset = forget(packet, offset + (usize::from(words) + 1) * 8);
    }
    let [_, _, _, _, i0, i1, i2, i3]: [u8; FRAGMENT_HEADER] = read(packet, offset)?;
    let high: [u8; 8] = read(packet, start + SOURCE)?;
    let low: [u8; 8] = read(packet, start + SOURCE + 8)?;
    let source = Address::of_words([u64::from_be_bytes(high), u64::from_be_bytes(low)]);
    let destination = destination(packet, start)?;
    Some(FragmentKey::new(source, destination, u32::from_be_bytes([i0, i1, i2, i3]), 0))
}

/// Whether the packet at `start` is neighbour discovery as Linux takes it: directly behind the IPv6 header, and not from behind a router.
#[inline(always)]
pub(super) fn is_neighbour_discovery(packet: &(impl Packet + ?Sized), start: usize) -> bool {
    let Some(bytes) = read::<{ HEADER + 2 }>(packet, start) else { return false };
    let [_, _, _, _, _, _, next, hop_limit, ..] = bytes;
    let [.., kind, _] = bytes;
    next == ICMP && hop_limit == u8::MAX && matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
}

/// Where a packet ends whose header gives no length.
///
/// Linux takes it from the frame in two cases. A hop-by-hop header may hold the length of a jumbogram (RFC 2675). Generic XDP gets
/// super-packets of TCP past 64 KiB (BIG TCP), and kernels of 2026 put no hop-by-hop header into these.
#[inline(always)]
fn end_without_length(
    packet: &(impl Packet + ?Sized),
    next: u8,
    payload: usize,
    headers: &mut Headers,
) -> usize {
    let end = headers.length_up_to(packet, usize::MAX);
    let is_super_packet = next == transport::TCP && end > payload + usize::from(u16::MAX);
    if next == HOP_BY_HOP || is_super_packet { end } else { payload }
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
    let mut previous = next;
    for walked in 0..=MAX_EXTENSION_HEADERS {
        let current = next;
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
                // Where conntrack is in use, Linux reassembles first and then reads what follows a fragment header as a header of the
                // kind of IPv6's first one. Only in these two places is that what follows.
                if !(walked == 0 || walked == 1 && previous == HOP_BY_HOP) {
                    return Err(Malformed::MisplacedFragmentHeader);
                }
                let [following, _, f0, f1, ..]: [u8; FRAGMENT_HEADER] =
                    read(packet, offset).ok_or(Malformed::Truncated)?;
                let field = u16::from_be_bytes([f0, f1]);
                if field & FRAGMENT_OFFSET != 0 {
                    headers.part = Part::LATER;
                    return Ok(Kind::Fragment);
                }
                // Neither offset nor more to come: an atomic fragment (RFC 6946), a packet as a whole.
                fragment |= field & MORE_FRAGMENTS;
                headers.part = Part::first_if(field & MORE_FRAGMENTS != 0);
                next = following;
                FRAGMENT_HEADER
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
        previous = current;
    }
    Err(Malformed::TooManyExtensionHeaders)
}
