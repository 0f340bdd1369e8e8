//! From a frame to a source and a port.
//!
//! Linux decides what a frame means, so each step here follows what the kernel's receive path does; where that is more
//! than a bounded parser can follow, the packet is [`Malformed`] rather than passed unread.

mod ethernet;
mod fragment;
mod ipv4;
mod ipv6;
mod transport;

use crate::packet::{forget, read};
use crate::{Address, Packet};

pub use ethernet::MAX_VLAN_TAGS;
pub use fragment::{Part, fragment_key};
pub use ipv6::MAX_EXTENSION_HEADERS;
pub use transport::TCP;

/// A transport protocol that has ports to guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// What a frame is to guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ARP, LLDP, LLC and the like.
    NotIp,
    /// A later fragment: it has no ports.
    Fragment,
    /// IP without ports: ICMP, ESP, tunnels, …
    OtherIp,
    /// TCP or UDP.
    Segment(Protocol),
}

/// What the headers say, as far as the kind of the frame has it; the rest is zero.
///
/// This is filled in rather than returned with the kind: wherever two paths of the program meet, the verifier must know all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// IP's source.
    pub source: Address,
    /// What follows IP's headers, as IANA numbers it.
    pub protocol: u8,
    pub source_port: u16,
    /// Destination port.
    pub port: u16,
    /// Of TCP: the number of the first byte; of a SYN, where its client begins to count. Of UDP, what is in its place.
    pub sequence: u32,
    /// The flags of TCP.
    pub flags: TcpFlags,
    /// Where the IP header begins in the frame, once it was read: behind two tags at most.
    network: u8,
    /// Whether this is all of a packet.
    pub part: Part,
    /// Bytes of the frame. Of one in several buffers, those of the first if nothing of an IP packet is behind it: what is there is padding,
    /// which Linux cuts off.
    pub length: u32,
}

const _: () = assert!(size_of::<Headers>() == 32);

impl Headers {
    /// Where the IP header begins in the frame.
    #[inline(always)]
    pub const fn network(&self) -> usize {
        self.network as usize
    }

    /// How long the frame is, as far as it matters for an IP packet that ends at `end`.
    #[inline(always)]
    fn length_up_to(&mut self, packet: &(impl Packet + ?Sized), end: usize) -> usize {
        if end > self.length as usize {
            self.length = packet.length() as u32;
        }
        forget(packet, self.length as usize)
    }
}

/// The flags in a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const SYN: Self = Self(0x02);
    pub const ACK: Self = Self(0x10);

    /// SYN without ACK.
    #[inline(always)]
    pub const fn opens_connection(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0) == Self::SYN.0
    }
}

/// Why an IP packet cannot be judged. No honest stack sends such a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Malformed {
    /// The frame, or its first buffer, ends within a header.
    Truncated,
    /// More VLAN tags than [`MAX_VLAN_TAGS`].
    TooManyTags,
    /// The version in the IP header is not that of the Ethernet type.
    BadVersion,
    /// A device of IP packets has handed over what is none. Linux may find a VLAN tag there, and an IP packet behind it.
    NoVersion,
    /// The IPv4 header is shorter than 20 bytes, or longer than the packet.
    BadHeaderLength,
    /// The IP packet is longer than the frame.
    BadTotalLength,
    /// An IPv6 source `::ffff:a.b.c.d`.
    MappedSource,
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`].
    TooManyExtensionHeaders,
    /// An IPv6 extension header that goes past the packet.
    BadExtensionHeader,
    /// An IPv6 fragment header that follows neither the IPv6 header nor a hop-by-hop header directly behind that.
    MisplacedFragmentHeader,
    /// A first fragment that ends before its ports, or a packet that ends within its TCP or UDP header.
    NoPorts,
}

impl Malformed {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "the frame ends within a header",
            Self::TooManyTags => "more than two VLAN tags",
            Self::BadVersion => "the IP version does not fit the Ethernet type",
            Self::NoVersion => "neither IPv4 nor IPv6, from a device of IP packets",
            Self::BadHeaderLength => "a bad IPv4 header length",
            Self::BadTotalLength => "the IP packet is longer than its frame",
            Self::MappedSource => "an IPv4-mapped IPv6 source",
            Self::TooManyExtensionHeaders => "too many IPv6 extension headers",
            Self::BadExtensionHeader => "an IPv6 extension header goes past the packet",
            Self::MisplacedFragmentHeader => "an IPv6 fragment header behind another extension header",
            Self::NoPorts => "the packet ends before its ports",
        }
    }
}

/// Where a packet of IP goes; none if its header was not read.
#[inline(always)]
pub fn destination(packet: &(impl Packet + ?Sized), headers: &Headers) -> Option<Address> {
    let start = forget(packet, headers.network());
    if headers.source.is_v4() { ipv4::destination(packet, start) } else { ipv6::destination(packet, start) }
}

/// Whether this is neighbour discovery (RFC 4861), which does for IPv6 what ARP does for IPv4, and comes from this link.
#[inline(always)]
pub fn is_neighbour_discovery(packet: &(impl Packet + ?Sized), headers: &Headers) -> bool {
    headers.protocol == ipv6::ICMP && ipv6::is_neighbour_discovery(packet, forget(packet, headers.network()))
}

/// Parses a frame from its Ethernet header on, or from its IP header where the device has no other.
///
/// # Errors
/// When the frame is an IP packet that cannot be read as the kernel would.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P, headers: &mut Headers) -> Result<Kind, Malformed> {
    headers.length = packet.first_buffer() as u32;
    if P::BEGINS_WITH_IP {
        return parse_ip(packet, headers);
    }
    let (ethertype, offset) = ethernet::parse(packet)?;
    match ethertype {
        ethernet::IPV4 => ipv4::parse(packet, offset, headers),
        ethernet::IPV6 => ipv6::parse(packet, offset, headers),
        _ => Ok(Kind::NotIp),
    }
}

/// The version in the first byte is all that says what follows: what the tunnel called it is not in sight.
#[inline(always)]
fn parse_ip(packet: &(impl Packet + ?Sized), headers: &mut Headers) -> Result<Kind, Malformed> {
    let [first] = read(packet, 0).ok_or(Malformed::Truncated)?;
    match first >> 4 {
        4 => ipv4::parse(packet, 0, headers),
        6 => ipv6::parse(packet, 0, headers),
        _ => Err(Malformed::NoVersion),
    }
}
