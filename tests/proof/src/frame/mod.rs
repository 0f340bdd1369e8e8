//! Frames of any shape, honest and not.
//!
//! ```
//! use guard_proof::frame::{Extension, Frame};
//!
//! let plain = Frame::tcp("10.0.0.1", 8000).build();
//! let tagged = Frame { vlan: vec![(0x8100, 0)], ..Frame::tcp("10.0.0.1", 8000) }.build();
//! let hidden = Frame { extensions: vec![Extension::HopByHop(0)], ..Frame::tcp("fd00::1", 8000) }.build();
//! ```

mod checksum;
pub mod random;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::Range;

pub const CUSTOMER_TAG: u16 = 0x8100;
pub const SERVICE_TAG: u16 = 0x88a8;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a frame is made of. [`Default`] is a TCP SYN from 10.0.0.1 to 10.0.0.2, port 8000.
#[derive(Clone, Debug)]
pub struct Frame {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Type and tag control information of each tag, the outer first.
    pub vlan: Vec<(u16, u16)>,
    pub source: IpAddr,
    /// Of the same family as the source.
    pub destination: IpAddr,
    /// Of IPv4; its length is a multiple of 4, at most 40.
    pub options: Vec<u8>,
    /// Of IPv6, in their order.
    pub extensions: Vec<Extension>,
    /// Of IPv4: don't fragment, more fragments, and the offset in units of 8 bytes.
    pub fragment: Ipv4Fragment,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// Added to the length field of IP.
    pub length_error: i32,
    /// Bytes behind the packet, such as Ethernet's padding.
    pub padding: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Fragment {
    pub more: bool,
    pub offset: u16,
    pub identification: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source_port: u16,
        port: u16,
        flags: u8,
    },
    Udp {
        source_port: u16,
        port: u16,
    },
    /// A protocol without ports, or a part of a packet that is in the payload.
    Raw(u8),
}

/// An extension header of IPv6; the numbers are extra units of 8 bytes (4 for `Authentication`). A routing header has no segments left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    HopByHop(u8),
    Routing { kind: u8, units: u8 },
    DestinationOptions(u8),
    Authentication(u8),
    Fragment { offset: u16, more: bool, identification: u32 },
}

impl Default for Frame {
    fn default() -> Self {
        Self::tcp("10.0.0.1", 8000)
    }
}

impl Frame {
    /// A TCP SYN.
    pub fn tcp(source: &str, port: u16) -> Self {
        Self::new(source, Transport::Tcp { source_port: 40_000, port, flags: SYN })
    }

    /// A TCP segment of an open connection.
    pub fn segment(source: &str, port: u16) -> Self {
        Self::new(source, Transport::Tcp { source_port: 40_000, port, flags: ACK })
    }

    pub fn udp(source: &str, port: u16) -> Self {
        Self::new(source, Transport::Udp { source_port: 40_000, port })
    }

    /// # Panics
    /// When `source` is no address.
    pub fn new(source: &str, transport: Transport) -> Self {
        let source: IpAddr = source.parse().unwrap_or_else(|_| panic!("{source:?} is an address"));
        let destination = if source.is_ipv4() { "10.0.0.2" } else { "fd00::2" };
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            vlan: Vec::new(),
            source,
            destination: destination.parse().unwrap_or(source),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: Ipv4Fragment::default(),
            transport,
            payload: Vec::new(),
            length_error: 0,
            padding: 0,
        }
    }

    /// The bytes on the wire, with right checksums.
    ///
    /// # Panics
    /// When source and destination are of different families.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for (kind, control) in &self.vlan {
            frame.extend(kind.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(0x0800u16.to_be_bytes());
                self.ipv4(&source.octets(), &destination.octets(), &mut frame);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(0x86ddu16.to_be_bytes());
                self.ipv6(&source.octets(), &destination.octets(), &mut frame);
            }
            _ => panic!("source and destination are of one family"),
        }
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    /// The same packet as fragments that carry `size` bytes each, a multiple of 8.
    pub fn fragments(&self, size: usize, identification: u16) -> Vec<Self> {
        let whole = self.transport_bytes().len();
        let parts = (0..whole).step_by(size);
        parts.map(|start| self.part(start..whole.min(start + size), identification)).collect()
    }

    /// The fragment that carries these bytes from the transport header on; the range begins at a multiple of 8.
    ///
    /// # Panics
    /// When the range ends past the packet.
    pub fn part(&self, range: Range<usize>, identification: u16) -> Self {
        let whole = self.transport_bytes();
        let (offset, more) = ((range.start / 8) as u16, range.end != whole.len());
        let mut part = Self {
            transport: Transport::Raw(self.transport.number()),
            payload: whole[range].to_vec(),
            ..self.clone()
        };
        if self.source.is_ipv4() {
            part.fragment = Ipv4Fragment { more, offset, identification };
        } else {
            part.extensions.push(Extension::Fragment { offset, more, identification: identification.into() });
        }
        part
    }

    fn transport_bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.transport(&source.octets(), &destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.transport(&source.octets(), &destination.octets())
            }
            _ => Vec::new(),
        }
    }

    fn ipv4(&self, source: &[u8], destination: &[u8], frame: &mut Vec<u8>) {
        let transport = self.transport(source, destination);
        let words = 5 + self.options.len() / 4;
        let total = self.length_field(words * 4 + transport.len());
        let flags = u16::from(self.fragment.more) << 13 | self.fragment.offset;
        let mut header = vec![0x40 | words as u8, 0];
        header.extend(total.to_be_bytes());
        header.extend(self.fragment.identification.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([64, self.transport.number(), 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let sum = checksum::of(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(transport);
    }

    fn ipv6(&self, source: &[u8], destination: &[u8], frame: &mut Vec<u8>) {
        let transport = self.transport(source, destination);
        // Each header names the one behind it, so they are made from the last to the first.
        let mut next = self.transport.number();
        let mut chain = Vec::new();
        for extension in self.extensions.iter().rev() {
            chain.splice(0..0, extension.bytes(next));
            next = extension.number();
        }
        let payload = self.length_field(chain.len() + transport.len());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(payload.to_be_bytes());
        frame.extend([next, 64]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(chain);
        frame.extend(transport);
    }

    fn length_field(&self, length: usize) -> u16 {
        (length as i32 + self.length_error).clamp(0, i32::from(u16::MAX)) as u16
    }

    /// The transport header with its checksum, and the payload.
    fn transport(&self, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let (mut bytes, at) = match self.transport {
            Transport::Tcp { source_port, port, flags } => {
                let mut header = Vec::new();
                header.extend(source_port.to_be_bytes());
                header.extend(port.to_be_bytes());
                header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
                (header, 16)
            }
            Transport::Udp { source_port, port } => {
                let mut header = Vec::new();
                header.extend(source_port.to_be_bytes());
                header.extend(port.to_be_bytes());
                header.extend((8 + self.payload.len() as u16).to_be_bytes());
                header.extend([0, 0]);
                (header, 6)
            }
            Transport::Raw(_) => return self.payload.clone(),
        };
        bytes.extend(&self.payload);
        let pseudo = [&[0, self.transport.number()][..], &(bytes.len() as u16).to_be_bytes()].concat();
        let sum = checksum::of(&[source, destination, &pseudo, &bytes]);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

impl Transport {
    /// The number of the protocol in IP's header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Raw(number) => number,
        }
    }
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing { .. } => 43,
            Self::Fragment { .. } => 44,
            Self::Authentication(_) => 51,
            Self::DestinationOptions(_) => 60,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(units) | Self::DestinationOptions(units) => {
                // Options that nobody knows and everybody skips: Linux takes no more than 7 bytes of padding.
                const UNKNOWN: u8 = 0x1e;
                let mut bytes = vec![next, units];
                let mut left = (usize::from(units) + 1) * 8 - 2;
                while left > 0 {
                    let data = match left - 2 {
                        // What is left behind it must have room for another option.
                        0..=255 => left - 2,
                        256 | 257 => 250,
                        _ => 255,
                    };
                    bytes.extend([UNKNOWN, data as u8]);
                    bytes.resize(bytes.len() + data, 0);
                    left -= 2 + data;
                }
                bytes
            }
            Self::Routing { kind, units } => {
                let mut bytes = vec![next, units, kind, 0];
                bytes.resize((usize::from(units) + 1) * 8, 0);
                bytes
            }
            Self::Authentication(words) => {
                let mut bytes = vec![next, words];
                bytes.resize((usize::from(words) + 2) * 4, 0);
                bytes
            }
            Self::Fragment { offset, more, identification } => {
                let field = offset << 3 | u16::from(more);
                [&[next, 0][..], &field.to_be_bytes(), &identification.to_be_bytes()].concat()
            }
        }
    }
}
