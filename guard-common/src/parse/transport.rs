//! TCP (RFC 9293) and UDP (RFC 768).

use super::{Malformed, Parsed, Protocol, Segment};
use crate::packet::read;
use crate::{Address, Packet};

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const PORTS: usize = 4;
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Where the payload of IP lies in the frame.
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) first_fragment: bool,
}

#[inline(always)]
pub(super) fn parse(
    packet: &(impl Packet + ?Sized),
    source: Address,
    protocol: u8,
    span: Span,
) -> Result<Parsed, Malformed> {
    let (protocol, header) = match protocol {
        TCP => (Protocol::Tcp, TCP_HEADER),
        UDP => (Protocol::Udp, UDP_HEADER),
        _ => return Ok(Parsed::OtherIp { source }),
    };
    // The rest of the header of a first fragment may be in the next one.
    let needed = if span.first_fragment { PORTS } else { header };
    if span.length < needed {
        return Err(Malformed::NoPorts);
    }
    let [_, _, p0, p1]: [u8; PORTS] = read(packet, span.start).ok_or(Malformed::Truncated)?;
    let opens_connection = match protocol {
        Protocol::Udp => false,
        // Nobody can tell whether a fragment without flags is a SYN, so it counts as one.
        Protocol::Tcp if span.length <= TCP_FLAGS => true,
        Protocol::Tcp => {
            let [flags] = read(packet, span.start + TCP_FLAGS).ok_or(Malformed::Truncated)?;
            flags & (SYN | ACK) == SYN
        }
    };
    Ok(Parsed::Segment(Segment { source, protocol, port: u16::from_be_bytes([p0, p1]), opens_connection }))
}
