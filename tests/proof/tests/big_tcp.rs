//! Super-packets past 64 KiB have no length in their IP header (BIG TCP): what they carry is judged, and nothing else passes that way.

use std::ops::Range;

use guard_common::parse::{Headers, Kind, Malformed, Protocol, parse};
use guard_proof::frame::Frame;

/// Where the length lies in a frame without tags.
const LENGTH_V4: Range<usize> = 16..18;
const LENGTH_V6: Range<usize> = 18..20;
const ETHERNET: usize = 14;
const HEADER_V6: usize = 40;
/// The most that a length of 16 bits can say.
const MOST: usize = u16::MAX as usize;

/// The frame without a length in its IP header, with zeros up to so many bytes.
fn without_length(frame: &Frame, length: Range<usize>, bytes: usize) -> Vec<u8> {
    let mut frame = frame.build();
    frame[length].fill(0);
    frame.resize(bytes, 0);
    frame
}

fn kind(frame: &[u8]) -> Result<(Kind, u16), Malformed> {
    let mut headers = Headers::default();
    parse(frame, &mut headers).map(|kind| (kind, headers.port))
}

#[test]
fn a_super_packet_of_tcp_is_read() {
    let expected = Ok((Kind::Segment(Protocol::Tcp), 8000));
    let four = without_length(&Frame::segment("10.0.0.9", 8000), LENGTH_V4, ETHERNET + MOST + 1);
    assert_eq!(kind(&four), expected);
    let six = without_length(&Frame::segment("fd00::9", 8000), LENGTH_V6, ETHERNET + HEADER_V6 + MOST + 1);
    assert_eq!(kind(&six), expected);
}

#[test]
fn a_packet_without_a_length_that_is_no_super_packet_is_malformed() {
    let cases = [
        ("IPv4, 64 KiB", without_length(&Frame::segment("10.0.0.9", 8000), LENGTH_V4, ETHERNET + MOST)),
        ("IPv4, small", without_length(&Frame::segment("10.0.0.9", 8000), LENGTH_V4, 100)),
        ("IPv6, 64 KiB", {
            without_length(&Frame::segment("fd00::9", 8000), LENGTH_V6, ETHERNET + HEADER_V6 + MOST)
        }),
        ("IPv6, small", without_length(&Frame::segment("fd00::9", 8000), LENGTH_V6, 100)),
        ("IPv6, UDP", without_length(&Frame::udp("fd00::9", 8000), LENGTH_V6, 2 * MOST)),
    ];
    for (name, frame) in cases {
        assert!(kind(&frame).is_err(), "{name}: {:?}", kind(&frame));
    }
}
