//! Shapes of packets that slip through many filters: from a stranger none of them reaches the guarded port, from an allowed client each
//! arrives that the host's stack accepts.

use std::cell::Cell;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::{CUSTOMER_TAG, Extension, Frame, SERVICE_TAG, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};
use guard_tests::statistics::{self, SEGMENTS};

const PORT: u16 = 8000;

/// A name, the frames of one packet, and whether a bare Linux takes it and guard lets it through to there; none where that is up to the
/// switch and the kernel.
type Shape = (&'static str, Vec<Vec<u8>>, Option<bool>);

fn shapes(packet: impl Fn(&str) -> Frame, [v4, v6]: [&str; 2]) -> Vec<Shape> {
    use Extension::{Authentication, DestinationOptions, HopByHop, Routing};
    let tagged = |source: &str, tags: &[u16]| Frame {
        vlan: tags.iter().map(|kind| (*kind, 0)).collect(),
        ..packet(source)
    };
    let extended = |extensions| Frame { extensions, ..packet(v6) };
    let one = |frame: Frame| vec![frame.build()];
    let parts = |frame: Frame, size| frame.fragments(size, 77).iter().map(Frame::build).collect::<Vec<_>>();
    let atomic = Extension::Fragment { offset: 0, more: false, identification: 9 };
    vec![
        ("plain", one(packet(v4)), Some(true)),
        ("plain, IPv6", one(packet(v6)), Some(true)),
        ("priority tag", one(tagged(v4, &[CUSTOMER_TAG])), Some(true)),
        ("priority tag, IPv6", one(tagged(v6, &[CUSTOMER_TAG])), Some(true)),
        ("QinQ 0/0", one(tagged(v4, &[SERVICE_TAG, CUSTOMER_TAG])), Some(true)),
        // Linux strips any number of empty tags; guard looks through two.
        ("three tags", one(tagged(v4, &[SERVICE_TAG, CUSTOMER_TAG, CUSTOMER_TAG])), None),
        ("five tags", one(tagged(v4, &[CUSTOMER_TAG; 5])), None),
        ("40 bytes of IPv4 options", one(Frame { options: vec![1; 40], ..packet(v4) }), Some(true)),
        ("fragments of 8 bytes", parts(packet(v4), 8), Some(true)),
        // Over IPv6, Linux wants the whole TCP header in the first fragment.
        ("fragments of 24 bytes, IPv6", parts(packet(v6), 24), Some(true)),
        ("hop-by-hop", one(extended(vec![HopByHop(0)])), Some(true)),
        ("130 words of destination options", one(extended(vec![DestinationOptions(130)])), Some(true)),
        (
            "hop-by-hop and destination options",
            one(extended(vec![HopByHop(0), DestinationOptions(0)])),
            Some(true),
        ),
        ("atomic fragment", one(extended(vec![atomic])), Some(true)),
        ("padding", one(Frame { padding: 12, ..packet(v4) }), Some(true)),
        ("600 bytes of padding", one(Frame { padding: 600, ..packet(v6) }), Some(true)),
        ("service tag alone", one(tagged(v4, &[SERVICE_TAG])), Some(true)),
        ("the later fragment first", reversed(parts(packet(v4), 16)), Some(true)),
        ("the later fragment first, IPv6", reversed(parts(packet(v6), 24)), Some(true)),
        ("a tag on each fragment", parts(tagged(v4, &[CUSTOMER_TAG]), 8), Some(true)),
        ("fragments behind hop-by-hop", parts(extended(vec![HopByHop(0)]), 24), Some(true)),
        ("as many headers as guard walks", one(extended(vec![DestinationOptions(0); 6])), Some(true)),
        // Linux walks on; guard does not, for anybody.
        ("one header more than guard walks", one(extended(vec![DestinationOptions(0); 7])), None),
        // Linux drops these itself: it speaks no such routing, has no such security association, knows no IP in SNAP, and takes no
        // such source from a wire.
        ("routing header", one(extended(vec![Routing(2)])), None),
        ("authentication header", one(extended(vec![Authentication(4)])), None),
        (
            "every kind of header",
            one(extended(vec![HopByHop(0), Routing(0), DestinationOptions(1), atomic])),
            None,
        ),
        ("SNAP", vec![in_snap(&packet(v4).build())], None),
        ("IPv4-mapped source", one(mapped(packet(v6), v4)), None),
        ("overlapping fragments", overlapping(parts(packet(v4), 16)), None),
        ("shorter than its frame says", one(Frame { length_error: 4, ..packet(v4) }), None),
        ("a header of 4 words", vec![with_byte(&packet(v4).build(), 14, 0x44)], None),
        ("a header of 15 words", vec![with_byte(&packet(v4).build(), 14, 0x4f)], None),
        ("version 6 in IPv4", vec![with_byte(&packet(v4).build(), 14, 0x65)], None),
    ]
}

fn reversed(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.reverse();
    frames
}

/// The second fragment twice, the second time with other bytes.
fn overlapping(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut other = frames[1].clone();
    other.iter_mut().skip(34).for_each(|byte| *byte ^= 0xff);
    frames.insert(2, other);
    frames
}

/// The packet in a frame of IEEE 802.3 with LLC and SNAP.
fn in_snap(frame: &[u8]) -> Vec<u8> {
    let (macs, packet) = frame.split_at(12);
    let snap = [0xaa, 0xaa, 3, 0, 0, 0];
    let length = (snap.len() + packet.len()) as u16;
    [macs, &length.to_be_bytes(), &snap, packet].concat()
}

fn mapped(frame: Frame, v4: &str) -> Frame {
    let source = format!("::ffff:{v4}").parse().unwrap_or(frame.source);
    Frame { source, ..frame }
}

fn with_byte(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

/// What the server has taken in so far.
trait Arrivals {
    /// The count, once nothing more comes.
    fn settled(&self) -> Result<u64>;
}

impl Arrivals for UdpCounter {
    fn settled(&self) -> Result<u64> {
        Ok(Self::settled(self))
    }
}

/// Segments that have come to the server's TCP.
struct Segments<'a>(&'a Host);

impl Arrivals for Segments<'_> {
    fn settled(&self) -> Result<u64> {
        // A frame over a veth is in the server's stack before the call that sent it returns, but for the reassembly of fragments.
        std::thread::sleep(Duration::from_millis(20));
        statistics::sum(self.0, &[SEGMENTS])
    }
}

/// Sends each shape and says which of them arrived.
fn arrivals(host: &Host, shapes: &[Shape], server: &impl Arrivals) -> Result<Vec<(&'static str, bool)>> {
    let wire = Wire::open(host)?;
    let mut arrivals = Vec::new();
    for (name, frames, _) in shapes {
        let before = server.settled()?;
        for frame in frames {
            wire.send(frame)?;
        }
        let arrived = server.settled()? - before;
        ensure!(arrived <= 1, "{name}: {arrived} packets of one");
        arrivals.push((*name, arrived == 1));
    }
    Ok(arrivals)
}

#[test]
fn no_shape_of_a_stranger_arrives_and_every_honest_one_of_a_client_does() -> Result<()> {
    let scene = Scene::new()?;
    let listener = UdpCounter::listen(&scene.server, PORT)?;
    let datagram = |source: &str| Frame { payload: vec![0x55; 32], ..to_server(Frame::udp(source, PORT)) };
    judge(&scene, &listener, datagram, [CLIENT, STRANGER], "native")
}

#[test]
fn no_shape_of_a_connection_request_of_a_stranger_comes_to_tcp() -> Result<()> {
    judge_requests("native")
}

/// Behind the driver frames look other than on the wire: outer tags are stripped.
#[test]
fn no_shape_of_a_connection_request_gets_past_generic_mode() -> Result<()> {
    judge_requests("generic")
}

fn judge_requests(mode: &str) -> Result<()> {
    let scene = Scene::new()?;
    let _listener = scene.server.enter(|| TcpListener::bind(("::", PORT)).context("cannot listen"))?;
    let port = Cell::new(20_000);
    let request = |source: &str| {
        // Each request is of a connection of its own.
        port.set(port.get() + 1);
        let transport = Transport::Tcp { source_port: port.get(), port: PORT, flags: SYN };
        to_server(Frame { payload: vec![0x55; 32], ..Frame::new(source, transport) })
    };
    judge(&scene, &Segments(&scene.server), request, [ABSENT_CLIENT, ABSENT_STRANGER], mode)
}

/// Neighbours of the client and of the stranger that nobody is: no host answers the server's SYN-ACK with a reset.
const ABSENT_CLIENT: [&str; 2] = ["10.77.1.77", "fd00:77::1:77"];
const ABSENT_STRANGER: [&str; 2] = ["10.77.66.77", "fd00:77::66:77"];

fn judge(
    scene: &Scene,
    listener: &impl Arrivals,
    packet: impl Fn(&str) -> Frame,
    [allowed, refused]: [[&str; 2]; 2],
    mode: &str,
) -> Result<()> {
    // Without guard: what the host's stack takes. This is what shows that the test can fail.
    for (host, source) in [(&scene.client, allowed), (&scene.stranger, refused)] {
        let shapes = shapes(&packet, source);
        for ((name, arrived), (_, _, taken)) in arrivals(host, &shapes, listener)?.into_iter().zip(&shapes) {
            assert!(taken.is_none_or(|taken| taken == arrived), "{name} without guard: arrived is {arrived}");
        }
    }
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\nmode = \"{mode}\"\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
    );
    let guard = Guard::start(&scene.server, &policy)?;
    for (name, arrived) in arrivals(&scene.stranger, &shapes(&packet, refused), listener)? {
        assert!(!arrived, "{name} of a stranger arrived: {:?}", guard.counts()?);
    }
    let shapes = shapes(&packet, allowed);
    for ((name, arrived), (_, _, taken)) in
        arrivals(&scene.client, &shapes, listener)?.into_iter().zip(&shapes)
    {
        assert!(
            taken.is_none_or(|taken| taken == arrived),
            "{name} of an allowed client: {:?}",
            guard.counts()?
        );
    }
    Ok(())
}
