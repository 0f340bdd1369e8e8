//! The smallest frame that asks a question.

use std::net::IpAddr;

use guard_common::parse::{Protocol, TcpFlags};

use super::Question;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Ethernet, IP and a TCP SYN or an empty UDP datagram. The decision looks at no checksum or source port; they are 0, and so
/// is the destination: see `is_destination` of the tables that are asked.
pub(super) fn frame(question: &Question) -> Vec<u8> {
    let transport = transport(question.protocol, question.port);
    let protocol = match question.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    // A header of 40 bytes at most and 20 of transport: the length fits.
    let length = transport.len() as u16;
    let mut frame = vec![0; 12];
    match question.source {
        IpAddr::V4(source) => {
            frame.extend(ETHERTYPE_IPV4);
            let [high, low] = (20 + length).to_be_bytes();
            frame.extend([0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend([0; 4]);
        }
        IpAddr::V6(source) => {
            frame.extend(ETHERTYPE_IPV6);
            let [high, low] = length.to_be_bytes();
            frame.extend([0x60, 0, 0, 0, high, low, protocol, 64]);
            frame.extend(source.octets());
            frame.extend([0; 16]);
        }
    }
    frame.extend(transport);
    frame
}

fn transport(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut header = vec![0, 0, high, low];
    match protocol {
        Protocol::Tcp => {
            // Sequence and acknowledgement, a header of 5 words, the flags, window, checksum, urgent pointer.
            header.extend([0; 8]);
            header.extend([0x50, TcpFlags::SYN.0, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Protocol::Udp => header.extend([0, 8, 0, 0]),
    }
    header
}
