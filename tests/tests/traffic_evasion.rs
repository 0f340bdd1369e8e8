//! Shapes of packets that slip through many filters: from a stranger none of them reaches the guarded port, from an allowed client each
//! arrives that the host's stack accepts.

use std::cell::Cell;
use std::fs::read_to_string;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::frame::{CUSTOMER_TAG, Extension, Frame, SERVICE_TAG, SYN, Transport};
use guard_tests::guard::Guard;
use guard_tests::listener::UdpCounter;
use guard_tests::net::Host;
use guard_tests::raw::Wire;
use guard_tests::scene::{ALLOW, CLIENT, STRANGER, Scene, to_server};

const PORT: u16 = 8000;

/// A name, the frames of one packet, and whether a bare Linux takes it and guard lets it through to there; none where that is up to the
/// switch and the kernel.
type Shape = (&'static str, Vec<Vec<u8>>, Option<bool>);

fn shapes(packet: impl Fn(&str) -> Frame, [v4, v6]: [&str; 2]) -> Vec<Shape> {
    use Extension::{DestinationOptions, HopByHop};
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
    ]
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

/// Connections that were asked for at a listener whose answers lead nowhere.
struct HalfOpen<'a> {
    server: &'a Host,
    _listener: TcpListener,
}

impl Arrivals for HalfOpen<'_> {
    fn settled(&self) -> Result<u64> {
        // A frame over a veth is in the server's stack before the call that sent it returns, but for the reassembly of fragments.
        std::thread::sleep(Duration::from_millis(20));
        self.server.enter(|| {
            let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
            let count =
                |table| Ok(read_to_string(table)?.lines().filter(|line| is_half_open(line)).count() as u64);
            tables.into_iter().map(count).sum()
        })
    }
}

/// A line of /proc/net/tcp: number, local address, remote address, state, …; `03` is SYN-RECV.
fn is_half_open(line: &str) -> bool {
    let fields: Vec<_> = line.split_whitespace().collect();
    let local = format!(":{PORT:04X}");
    matches!(fields[..], [_, address, _, "03", ..] if address.ends_with(&local))
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
    judge(&scene, &listener, datagram, [CLIENT, STRANGER])
}

#[test]
fn no_shape_of_a_connection_request_of_a_stranger_opens_one() -> Result<()> {
    let scene = Scene::new()?;
    let _listener = scene.server.enter(|| TcpListener::bind(("::", PORT)).context("cannot listen"))?;
    let server = HalfOpen { server: &scene.server, _listener };
    let port = Cell::new(20_000);
    let request = |source: &str| {
        // Each request is of a connection of its own.
        port.set(port.get() + 1);
        let transport = Transport::Tcp { source_port: port.get(), port: PORT, flags: SYN };
        to_server(Frame { payload: vec![0x55; 32], ..Frame::new(source, transport) })
    };
    judge(&scene, &server, request, [ABSENT_CLIENT, ABSENT_STRANGER])
}

/// Neighbours of the client and of the stranger that nobody is: no host answers the server's SYN-ACK with a reset.
const ABSENT_CLIENT: [&str; 2] = ["10.77.1.77", "fd00:77::1:77"];
const ABSENT_STRANGER: [&str; 2] = ["10.77.66.77", "fd00:77::66:77"];

fn judge(
    scene: &Scene,
    listener: &impl Arrivals,
    packet: impl Fn(&str) -> Frame,
    [allowed, refused]: [[&str; 2]; 2],
) -> Result<()> {
    // Without guard: what the host's stack takes. This is what shows that the test can fail.
    for (host, source) in [(&scene.client, allowed), (&scene.stranger, refused)] {
        let shapes = shapes(&packet, source);
        for ((name, arrived), (_, _, taken)) in arrivals(host, &shapes, listener)?.into_iter().zip(&shapes) {
            assert!(taken.is_none_or(|taken| taken == arrived), "{name} without guard: arrived is {arrived}");
        }
    }
    let policy = format!(
        "[attach]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nports = [{PORT}]\nprotocols = [\"tcp\", \"udp\"]\nallow = {ALLOW}\n"
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
