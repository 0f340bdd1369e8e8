//! TCP (RFC 9293) and UDP (RFC 768).

use super::{Headers, Kind, Malformed, Protocol, TcpFlags};
use crate::Packet;
use crate::packet::read;

/// As IANA numbers it.
pub const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const PORTS: usize = 4;
/// The ports and the sequence number of TCP.
const BEGINNING: usize = 8;
const FLAGS: usize = 13;

/// Where the payload of IP lies in the frame.
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) length: usize,
    /// Not 0 in a first fragment that others follow; a number, so that the verifier follows one path for both.
    pub(super) more_fragments: u16,
}

#[inline(always)]
pub(super) fn parse(
    packet: &(impl Packet + ?Sized),
    protocol: u8,
    span: Span,
    headers: &mut Headers,
) -> Result<Kind, Malformed> {
    headers.protocol = protocol;
    let (protocol, header) = match protocol {
        TCP => (Protocol::Tcp, TCP_HEADER),
        UDP => (Protocol::Udp, UDP_HEADER),
        _ => return Ok(Kind::OtherIp),
    };
    // The rest of the header of a first fragment may be in the next one.
    let needed = if span.more_fragments == 0 { header } else { PORTS };
    if span.length < needed {
        return Err(Malformed::NoPorts);
    }
    let [s0, s1, p0, p1, n0, n1, n2, n3] = if span.length < BEGINNING {
        let [s0, s1, p0, p1]: [u8; PORTS] = read(packet, span.start).ok_or(Malformed::Truncated)?;
        [s0, s1, p0, p1, 0, 0, 0, 0]
    } else {
        read(packet, span.start).ok_or(Malformed::Truncated)?
    };
    headers.source_port = u16::from_be_bytes([s0, s1]);
    headers.port = u16::from_be_bytes([p0, p1]);
    headers.sequence = u32::from_be_bytes([n0, n1, n2, n3]);
    headers.flags = match protocol {
        Protocol::Udp => TcpFlags::default(),
        // Nobody can tell whether a fragment without flags is a SYN, so it counts as one.
        Protocol::Tcp if span.length <= FLAGS => TcpFlags::SYN,
        Protocol::Tcp => {
            let [flags] = read(packet, span.start + FLAGS).ok_or(Malformed::Truncated)?;
            TcpFlags(flags)
        }
    };
    Ok(Kind::Segment(protocol))
}
