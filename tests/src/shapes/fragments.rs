//! Fragments: tiny, in any order, doubled, over each other, and without the ports.

use std::sync::atomic::{AtomicU16, Ordering};

use super::{Sender, Shape, of};
use crate::frame::{CUSTOMER_TAG, Extension, Frame, SERVICE_TAG, Transport};

/// A port that is not guarded.
const OPEN: u16 = 9000;
const DESTINATION_OPTIONS: u8 = 60;
/// A kind of routing header that nobody knows; one without segments left is skipped.
const UNKNOWN_ROUTING: u8 = 253;
/// Where the transport header of a packet without options, extension headers and tags begins.
const IPV4_PAYLOAD: usize = 34;
const IPV6_PAYLOAD: usize = 54;

pub(super) fn all(sender: &Sender<'_>) -> Vec<Shape> {
    [sizes(sender), orders(sender), overlaps(sender), without_ports(sender), misplaced(sender)].concat()
}

fn sizes(sender: &Sender<'_>) -> Vec<Shape> {
    let extensions = vec![Extension::HopByHop(2)];
    let tags = vec![(SERVICE_TAG, 0), (CUSTOMER_TAG, 0)];
    let tagged = Frame { vlan: tags.clone(), options: vec![1; 8], ..sender.v4() };
    vec![
        parts("fragments of 8 bytes", &sender.v4(), 8),
        parts("fragments of 24 bytes", &sender.v4(), 24),
        // Over IPv6, Linux wants the whole TCP header in the first fragment.
        parts("fragments of 24 bytes, IPv6", &sender.v6(), 24),
        parts("behind a hop-by-hop header", &Frame { extensions, ..sender.v6() }, 24),
        parts("with tags and options", &tagged, 8),
        parts("with tags, IPv6", &Frame { vlan: tags, ..sender.v6() }, 24),
    ]
}

fn orders(sender: &Sender<'_>) -> Vec<Shape> {
    let reversed = |mut shape: Shape| {
        shape.frames.reverse();
        // Those that come before the first one.
        let harmless = shape.frames.len() - 1;
        shape.harmless(harmless)
    };
    let doubled = |shape: Shape| Shape {
        frames: shape.frames.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect(),
        ..shape
    };
    vec![
        reversed(parts("the last fragment first", &sender.v4(), 8)),
        reversed(parts("the last fragment first, IPv6", &sender.v6(), 24)),
        doubled(parts("each fragment twice", &sender.v4(), 8)),
        doubled(parts("each fragment twice, IPv6", &sender.v6(), 24)),
    ]
}

/// Linux drops a packet whose fragments overlap, and ignores a fragment that it has already.
fn overlaps(sender: &Sender<'_>) -> Vec<Shape> {
    let overlapping = |name, frame: &Frame| {
        let (end, id) = (length(frame), identification());
        let frames = [frame.part(0..24, id), frame.part(16..end, id)];
        of(name, frames.map(|frame| frame.build()).to_vec(), false)
    };
    // Two fragments that both claim to be the first: the host takes the one that comes first.
    let twice = |name, frame: &Frame, open_first: bool| {
        let (end, id) = (length(frame), identification());
        let mut frames =
            [frame.part(0..24, id), to_open_port(frame).part(0..24, id), frame.part(24..end, id)];
        // Of a stranger, the later one has the fate of the last first one.
        let harmless = if open_first { 1 } else { 2 };
        if open_first {
            frames.swap(0, 1);
        }
        of(name, frames.map(|frame| frame.build()).to_vec(), !open_first).harmless(harmless)
    };
    vec![
        overlapping("overlapping fragments", &sender.v4()),
        overlapping("overlapping fragments, IPv6", &sender.v6()),
        twice("first an open port, then the guarded one", &sender.v4(), true),
        twice("first an open port, then the guarded one, IPv6", &sender.v6(), true),
        twice("first the guarded port, then an open one", &sender.v4(), false),
        twice("first the guarded port, then an open one, IPv6", &sender.v6(), false),
    ]
}

fn without_ports(sender: &Sender<'_>) -> Vec<Shape> {
    let cut = |name, first: usize| {
        let (frame, id) = (sender.v4(), identification());
        let frames = [frame.part(0..first, id), frame.part(8..length(&frame), id)];
        of(name, frames.map(|frame| frame.build()).to_vec(), false)
    };
    // Behind destination options, which are part of what is cut.
    let behind_options = |name, size| {
        let frame = sender.v6();
        let whole = &frame.build()[IPV6_PAYLOAD..];
        let payload = [&[frame.transport.number(), 0, 1, 4, 0, 0, 0, 0], whole].concat();
        parts(name, &Frame { transport: Transport::Raw(DESTINATION_OPTIONS), payload, ..frame }, size)
    };
    let hidden = behind_options("a first fragment that ends before its transport header", 8);
    let of_hidden = hidden.frames.len();
    vec![
        cut("a first fragment of 2 bytes", 2).malformed(2),
        cut("a first fragment that ends behind its ports", 4),
        behind_options("destination options in the fragments", 32),
        hidden.malformed(of_hidden).depends_on_the_kernel(),
    ]
}

/// Fragment headers behind other headers than hop-by-hop. Linux with conntrack reads what follows such a header as a header of the kind of
/// IPv6's first one, so eight bytes that are called something else are skipped.
fn misplaced(sender: &Sender<'_>) -> Vec<Shape> {
    let number = sender.v6().transport.number();
    let options = [number, 0, 1, 4, 0, 0, 0, 0];
    let routing = [number, 0, UNKNOWN_ROUTING, 0, 0, 0, 0, 0];
    let hidden = |name, before: Extension, eight: [u8; 8], next: u8| {
        let whole = sender.v6();
        let payload = [&eight[..], &whole.build()[IPV6_PAYLOAD..]].concat();
        let frame = Frame { extensions: vec![before], transport: Transport::Raw(next), payload, ..whole };
        let atomic = Extension::Fragment { offset: 0, more: false, identification: identification().into() };
        let alone = Frame { extensions: vec![before, atomic], ..frame.clone() };
        let parts = frame.fragments(40, identification());
        let count = parts.len();
        [
            of(name, vec![alone.build()], false).malformed(1).through_conntrack(true),
            // The kernel looks for the header of TCP in the first one, and takes it for cut off.
            of(name, parts.iter().map(Frame::build).collect(), false)
                .malformed(count)
                .through_conntrack(!sender.is_tcp()),
        ]
    };
    let behind = |name, extensions: Vec<Extension>| {
        let parts = Frame { extensions, ..sender.v6() }.fragments(24, identification());
        let count = parts.len();
        of(name, parts.iter().map(Frame::build).collect(), true).malformed(count).depends_on_the_kernel()
    };
    let destination = Extension::DestinationOptions(0);
    let source_route = Extension::Routing { kind: UNKNOWN_ROUTING, units: 0 };
    [
        hidden("destination options, then a fragment of HIP", destination, options, 139),
        hidden("destination options, then a fragment of mobility", destination, options, 135),
        hidden("destination options, then a fragment of protocol 99", destination, options, 99),
        hidden("destination options, then a fragment to port 260", destination, options, 17),
        hidden("routing, then a fragment of HIP", source_route, routing, 139),
    ]
    .concat()
    .into_iter()
    .chain([
        behind("fragments behind destination options", vec![destination]),
        behind("fragments behind routing", vec![source_route]),
        behind("fragments behind hop-by-hop and options", vec![Extension::HopByHop(0), destination]),
    ])
    .collect()
}

/// A packet in fragments, in their order.
fn parts(name: &'static str, frame: &Frame, size: usize) -> Shape {
    let parts = frame.fragments(size, identification());
    of(name, parts.iter().map(Frame::build).collect(), true)
}

fn to_open_port(frame: &Frame) -> Frame {
    let transport = match frame.transport {
        Transport::Tcp { source_port, flags, .. } => Transport::Tcp { source_port, port: OPEN, flags },
        Transport::Udp { source_port, .. } => Transport::Udp { source_port, port: OPEN },
        Transport::Raw(number) => Transport::Raw(number),
    };
    Frame { transport, ..frame.clone() }
}

/// Bytes from the transport header on.
fn length(frame: &Frame) -> usize {
    let header = if frame.source.is_ipv4() { IPV4_PAYLOAD } else { IPV6_PAYLOAD };
    frame.build().len() - header
}

/// A number that no fragments had before: those of an older packet may still wait at the host.
fn identification() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
