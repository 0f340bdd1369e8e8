//! Honest frames: what they were built with is what guard reads.

use std::net::IpAddr;

use fastrand::Rng;
use guard_common::parse::{Headers, Kind, Malformed, Protocol, parse};
use proptest::prelude::*;

use super::random::{self, Space};
use super::{Frame, Transport};
use crate::property::other_parser;

/// A source, a protocol with ports, and the port at the server.
type Flow = (IpAddr, Protocol, u16);

fn honest() -> impl Strategy<Value = Frame> {
    let sources = vec!["10.1.2.3".parse().unwrap(), "fd00::7".parse().unwrap()];
    let space = Space { sources, ports: vec![8000, 8001] };
    let frame = move |seed| random::honest(&mut Rng::with_seed(seed), &space);
    any::<u64>().prop_map(frame).prop_filter("has ports", |frame| flow_of(frame).is_some())
}

fn flow_of(frame: &Frame) -> Option<Flow> {
    match frame.transport {
        Transport::Tcp { port, .. } => Some((frame.source, Protocol::Tcp, port)),
        Transport::Udp { port, .. } => Some((frame.source, Protocol::Udp, port)),
        Transport::Raw(_) => None,
    }
}

fn guards(bytes: &[u8]) -> Result<Option<Flow>, Malformed> {
    let mut headers = Headers::default();
    Ok(match parse(bytes, &mut headers)? {
        Kind::Segment(protocol) => Some((headers.source.into(), protocol, headers.port)),
        Kind::NotIp | Kind::Fragment | Kind::OtherIp => None,
    })
}

proptest! {
    #[test]
    fn guard_and_another_parser_read_what_an_honest_frame_was_built_with(frame in honest()) {
        let (bytes, flow) = (frame.build(), flow_of(&frame));
        prop_assert_eq!(guards(&bytes), Ok(flow), "guard");
        prop_assert_eq!(other_parser::segment(&bytes), flow, "etherparse");
    }

    /// Wherever it is cut, but in its padding: the lengths in its headers say more than there is.
    #[test]
    fn an_honest_frame_that_is_cut_is_malformed(frame in honest(), cut in any::<prop::sample::Index>()) {
        let whole = Frame { padding: 0, ..frame }.build();
        let end = cut.index(whole.len());
        let read = guards(&whole[..end]);
        prop_assert!(read.is_err(), "{end} of {} bytes: {read:?}", whole.len());
    }
}
