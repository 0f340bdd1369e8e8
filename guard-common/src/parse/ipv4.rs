//! IPv4 (RFC 791).

use super::transport::{self, Span};
use super::{Headers, Kind, Malformed, Part};
use crate::abi::FragmentKey;
use crate::packet::read;
use crate::{Address, Packet};

const MIN_HEADER: usize = 20;
/// Where its destination is in the header.
const DESTINATION: usize = 16;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

#[inline(always)]
pub(super) fn parse(
    packet: &(impl Packet + ?Sized),
    start: usize,
    headers: &mut Headers,
) -> Result<Kind, Malformed> {
    let header: [u8; MIN_HEADER] = read(packet, start).ok_or(Malformed::Truncated)?;
    let [version_length, _, t0, t1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, ..] = header;
    if version_length >> 4 != 4 {
        return Err(Malformed::BadVersion);
    }
    headers.network = start as u8;
    headers.source = Address::v4([s0, s1, s2, s3]);
    let header_length = usize::from(version_length & 0xf) * 4;
    let (total, room) = total_length(packet, start, u16::from_be_bytes([t0, t1]), headers);
    if header_length < MIN_HEADER || header_length > total {
        return Err(Malformed::BadHeaderLength);
    }
    if total > room {
        return Err(Malformed::BadTotalLength);
    }
    let fragment = u16::from_be_bytes([f0, f1]);
    if fragment & FRAGMENT_OFFSET != 0 {
        headers.part = Part::LATER;
        return Ok(Kind::Fragment);
    }
    headers.part = Part::first_if(fragment & MORE_FRAGMENTS != 0);
    let span = Span {
        start: start + header_length,
        length: total - header_length,
        more_fragments: fragment & MORE_FRAGMENTS,
    };
    transport::parse(packet, protocol, span, headers)
}

#[inline(always)]
pub(super) fn destination(packet: &(impl Packet + ?Sized), start: usize) -> Option<Address> {
    read(packet, start + DESTINATION).map(Address::v4)
}

/// Which packet the fragment at `start` is of.
#[inline(always)]
pub(super) fn fragment_key(packet: &(impl Packet + ?Sized), start: usize) -> Option<FragmentKey> {
    let header: [u8; MIN_HEADER] = read(packet, start)?;
    let [_, _, _, _, i0, i1, _, _, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    let (source, destination) = (Address::v4([s0, s1, s2, s3]), Address::v4([d0, d1, d2, d3]));
    Some(FragmentKey::new(source, destination, u16::from_be_bytes([i0, i1]).into(), protocol))
}

/// The length of the packet, and that of the frame behind its start. A total length of 0 stands for "see the frame" in the super-packets
/// that generic XDP is given once they pass 64 KiB (BIG TCP); in any other packet it is an error.
#[inline(always)]
fn total_length(
    packet: &(impl Packet + ?Sized),
    start: usize,
    field: u16,
    headers: &mut Headers,
) -> (usize, usize) {
    let total = usize::from(field);
    let end = if total == 0 { usize::MAX } else { start + total };
    let room = headers.length_up_to(packet, end) - start;
    if total == 0 && room > usize::from(u16::MAX) { (room, room) } else { (total, room) }
}
